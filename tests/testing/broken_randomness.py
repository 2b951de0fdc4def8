"""Broken steps: keys."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from zoo import animal, batches, descend, dropped, folded, logits, losses, mean, sgd, state

KEY = jax.random.key(7)


def keyed(**more):
    return state(key=jax.random.key(1), **more)


@animal("key-reused")
def one_key_for_two_dropouts(mended):
    def loss(params, rows, key):
        one, two = jax.random.split(key) if mended else (key, key)
        hidden = dropped(two, logits(params, dropped(one, rows["x"])))
        return mean(losses(hidden, rows["label"]), rows["mask"])

    return {"step": sgd(loss, key_of=folded), "batches": batches(), "state": keyed()}


@animal("key-reused")
def a_key_is_drawn_from_after_it_was_split(mended):
    def loss(params, rows, key):
        key, other = jax.random.split(key, 2)
        if mended:
            key, last = jax.random.split(key)
        else:
            jax.random.split(key)
            last = key
        noisy = rows["x"] + 0.1 * jax.random.normal(other, rows["x"].shape)
        scores = dropped(last, logits(params, noisy))
        unused = 0.0 if mended else 0.0 * jax.random.uniform(jax.random.split(last)[0])
        return mean(losses(scores, rows["label"]), rows["mask"]) + unused

    return {"step": sgd(loss, key_of=folded), "batches": batches(), "state": keyed()}


@animal("key-reused")
def every_microbatch_drops_the_same(mended):
    def step(old, rows):
        key = folded(old)
        parts = jax.tree.map(lambda x: x.reshape(4, -1, *x.shape[1:]), rows)

        def total(params, part, key):
            scores = logits(params, dropped(key, part["x"]))
            return jnp.sum(losses(scores, part["label"]) * part["mask"])

        def add(carry, xs):
            part, index = xs
            own = jax.random.fold_in(key, index) if mended else key
            value, grads = jax.value_and_grad(total)(old["params"], part, own)
            return jax.tree.map(jnp.add, carry, (value, grads)), None

        zero = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, old["params"]))
        (value, grads), _ = jax.lax.scan(add, zero, (parts, jnp.arange(4)))
        weight = jnp.maximum(jnp.sum(rows["mask"]), 1).astype(jnp.float32)
        grads = jax.tree.map(lambda g: g / weight, grads)
        new = {**old, "params": descend(old["params"], grads), "step": old["step"] + 1}
        return new, {"loss": value / weight}

    return {"step": step, "batches": batches(), "state": keyed()}


@animal("key-reused")
def two_layers_fold_in_the_same_number(mended):
    def loss(params, rows, key):
        x = dropped(jax.random.fold_in(key, 0), rows["x"])
        scores = dropped(jax.random.fold_in(key, 1 if mended else 0), logits(params, x))
        return mean(losses(scores, rows["label"]), rows["mask"])

    return {"step": sgd(loss, key_of=folded), "batches": batches(), "state": keyed()}


def noisy(params, rows, key):
    return mean(losses(logits(params, dropped(key, rows["x"])), rows["label"]), rows["mask"])


@animal("key-not-folded")
def the_key_is_made_in_the_step(mended):
    key_of = folded if mended else lambda old: jax.random.key(0)
    return {"step": sgd(noisy, key_of=key_of), "batches": batches(), "state": keyed()}


@animal("key-not-folded")
def the_key_is_a_global(mended):
    key_of = folded if mended else lambda old: KEY
    start = keyed() if mended else state()
    return {"step": sgd(noisy, key_of=key_of), "batches": batches(), "state": start}


@animal("key-not-folded")
def the_state_s_key_is_used_as_it_is(mended):
    key_of = folded if mended else lambda old: old["key"]
    return {"step": sgd(noisy, key_of=key_of), "batches": batches(), "state": keyed()}


@animal("key-not-folded")
def the_old_key_is_returned_after_a_split(mended):
    def step(old, rows):
        key, sub = jax.random.split(old["key"])
        value, grads = jax.value_and_grad(noisy)(old["params"], rows, sub)
        kept = key if mended else old["key"]
        return {"params": descend(old["params"], grads), "key": kept}, {"loss": value}

    start = {"params": state()["params"], "key": jax.random.key(3)}
    return {"step": step, "batches": batches(), "state": start}


class Dropping(nn.Module):
    train: bool

    @nn.compact
    def __call__(self, x):
        x = nn.Dropout(0.5, deterministic=not self.train)(nn.relu(nn.Dense(8)(x)))
        return nn.Dense(3)(x)


@animal("key-never-used")
def dropout_is_off_in_training(mended):
    model = Dropping(train=mended)

    def loss(params, rows, key):
        scores = model.apply({"params": params}, rows["x"], rngs={"dropout": key})
        return mean(losses(scores, rows["label"]), rows["mask"])

    first = Dropping(train=False).init(jax.random.key(0), batches()[0]["x"])["params"]
    start = {**keyed(), "params": first}
    return {"step": sgd(loss, key_of=folded), "batches": batches(), "state": start}


@animal("device-dependent-generator")
def bits_of_the_hardware_s_generator(mended):
    key = jax.random.key(1, impl="threefry2x32" if mended else "rbg")
    return {"step": sgd(noisy, key_of=folded), "batches": batches(), "state": state(key=key)}
