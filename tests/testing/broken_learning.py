"""Broken steps: what is trained and what is not."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from zoo import FEATURES, animal, batches, descend, logits, losses, mean, plain_loss, sgd, state


def layered():
    key = jax.random.key(5)
    encoder = {"w": 0.5 * jax.random.normal(key, (FEATURES, FEATURES))}
    return {"encoder": encoder, "head": state()["params"]}


def layered_loss(params, rows, key=None, *, through=lambda x: x):
    hidden = through(jnp.tanh(rows["x"] @ params["encoder"]["w"]))
    return plain_loss(params["head"], {**rows, "x": hidden})


def stepping(optimizer, loss=layered_loss, *, keep=True, grads_of=lambda grads: grads):
    def step(old, rows):
        value, grads = jax.value_and_grad(loss)(old["params"], rows)
        updates, opt_state = optimizer.update(grads_of(grads), old["opt_state"], old["params"])
        new = optax.apply_updates(old["params"], updates)
        kept = opt_state if keep else old["opt_state"]
        return {"params": new, "opt_state": kept}, {"loss": value}

    return step


def started(optimizer, params):
    return {"params": params, "opt_state": optimizer.init(params)}


def labels(params):
    return {name: "frozen" if name == "encoder" else "trained" for name in params}


def parted(optimizer):
    return optax.multi_transform({"trained": optimizer, "frozen": optax.set_to_zero()}, labels)


def without_encoder(grads):
    return {**grads, "encoder": jax.tree.map(jnp.zeros_like, grads["encoder"])}


@animal("frozen-moves")
def weight_decay_moves_the_frozen_encoder(mended):
    optimizer = optax.adamw(1e-2, weight_decay=0.1)
    if mended:
        optimizer = parted(optimizer)
    step = stepping(optimizer, grads_of=without_encoder)
    start = started(optimizer, layered())
    return {"step": step, "batches": batches(), "state": start, "frozen": ["^encoder/"]}


@animal("frozen-optimizer-state")
def adam_keeps_moments_of_the_frozen_encoder(mended):
    optimizer = parted(optax.adam(1e-2)) if mended else optax.adam(1e-2)
    step = stepping(optimizer, grads_of=without_encoder)
    start = started(optimizer, layered())
    return {"step": step, "batches": batches(), "state": start, "frozen": ["^encoder/"]}


@animal("never-trained")
def a_layer_is_made_and_not_used(mended):
    def loss(params, rows, key):
        scores = logits(params, rows["x"])
        if mended:
            scores = scores + params["extra"][None]
        return mean(losses(scores, rows["label"]), rows["mask"])

    start = state()
    start["params"] = {**start["params"], "extra": jnp.zeros(3)}
    return {"step": sgd(loss), "batches": batches(), "state": start}


@animal("never-trained")
def the_gradient_stops_before_the_encoder(mended):
    def loss(params, rows, key=None):
        through = (lambda x: x) if mended else jax.lax.stop_gradient
        return layered_loss(params, rows, through=through)

    start = {**state(), "params": layered()}
    return {"step": sgd(loss), "batches": batches(), "state": start}


@animal("never-trained")
def features_are_rounded_on_the_way(mended):
    def loss(params, rows, key=None):
        def rounded(x):
            hard = jnp.round(x * 8) / 8
            return x + jax.lax.stop_gradient(hard - x) if mended else hard

        return layered_loss(params, rows, through=rounded)

    start = {**state(), "params": layered()}
    return {"step": sgd(loss), "batches": batches(), "state": start}


@animal("optimizer-state-forgotten")
def the_optimizer_s_new_state_is_dropped(mended):
    optimizer = optax.adam(1e-2)
    step = stepping(optimizer, plain_loss, keep=mended)
    return {"step": step, "batches": batches(), "state": started(optimizer, state()["params"])}


@animal("average-late")
def the_average_is_one_step_late(mended):
    def step(old, rows):
        value, grads = jax.value_and_grad(plain_loss)(old["params"], rows)
        new = descend(old["params"], grads)
        source = new if mended else old["params"]
        ema = jax.tree.map(lambda e, p: 0.9 * e + 0.1 * p, old["ema"], source)
        return {"params": new, "ema": ema}, {"loss": value}

    params = state()["params"]
    return {"step": step, "batches": batches(), "state": {"params": params, "ema": params}}
