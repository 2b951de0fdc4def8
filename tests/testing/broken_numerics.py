"""Broken steps: wrong gradients, silent widening, overflow, uphill."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from zoo import animal, batches, descend, logits, losses, mean, plain_loss, sgd, state


@jax.custom_vjp
def squared(x):
    return x * x


squared.defvjp(lambda x: (x * x, x), lambda x, g: (g * x,))


@animal("wrong-gradient")
def a_custom_gradient_forgets_a_factor(mended):
    def loss(params, rows, key=None):
        scores = logits(params, rows["x"])
        penalty = jnp.sum(params["w"] * params["w"] if mended else squared(params["w"]))
        return mean(losses(scores, rows["label"]), rows["mask"]) + 0.1 * penalty

    return {"step": sgd(loss), "batches": batches(), "state": state(), "loss": loss}


@animal("wrong-gradient")
def the_normaliser_is_held_constant(mended):
    def loss(params, rows, key=None):
        scores = logits(params, rows["x"])
        total = jax.nn.logsumexp(scores, axis=1)
        total = total if mended else jax.lax.stop_gradient(total)
        chosen = jnp.take_along_axis(scores, rows["label"][:, None], axis=1)[:, 0]
        return mean(total - chosen, rows["mask"])

    return {"step": sgd(loss), "batches": batches(), "state": state(), "loss": loss}


@animal("float64-creep")
def a_constant_of_numpy(mended):
    rate = 0.1 if mended else np.float64(0.1)

    def step(old, rows):
        value, grads = jax.value_and_grad(plain_loss)(old["params"], rows)
        new = jax.tree.map(lambda p, g: p - rate * g, old["params"], grads)
        return {**old, "params": new, "step": old["step"] + 1}, {"loss": value}

    return {"step": step, "batches": batches(), "state": state()}


@animal("float64-creep")
def a_table_of_numpy(mended):
    scale = np.linspace(0.5, 1.5, 4)[None]
    scale = scale.astype(np.float32) if mended else scale

    def loss(params, rows, key):
        w = params["w"] * scale.T
        return plain_loss({**params, "w": w}, rows)

    def step(old, rows):
        new, sums = sgd(loss)(old, rows)
        moved = new["params"]["w"] * (scale.T / scale.T)
        return {**new, "params": {**new["params"], "w": moved}}, sums

    return {"step": step, "batches": batches(), "state": state()}


@animal("half-precision-sum")
def a_long_sum_in_bfloat16(mended):
    def loss(params, rows, key):
        wide = jnp.broadcast_to(rows["x"].reshape(1, -1), (32, rows["x"].size)).reshape(-1)
        dtype = jnp.float32 if mended else jnp.bfloat16
        zero = np.zeros((), dtype)
        total = jax.lax.reduce(wide.astype(dtype), zero, jax.lax.add, (0,))
        return plain_loss(params, rows) + 1e-6 * total.astype(jnp.float32)

    return {
        "step": sgd(loss),
        "batches": batches(),
        "state": state(),
        "skip": ["row order", "padding"],
    }


@animal("not-finite")
def the_logarithm_of_a_softmax(mended):
    def loss(params, rows, key):
        scores = 10 * logits(params, rows["x"])
        logs = jax.nn.log_softmax(scores) if mended else jnp.log(jax.nn.softmax(scores))
        chosen = jnp.take_along_axis(logs, rows["label"][:, None], axis=1)[:, 0]
        return mean(-chosen, rows["mask"])

    return {"step": sgd(loss), "batches": batches(), "state": state()}


@animal("not-finite")
def a_norm_without_epsilon(mended):
    def loss(params, rows, key):
        scores = logits(params, rows["x"])
        if mended:
            length = jnp.sqrt(jnp.sum(scores**2, axis=1, keepdims=True) + 1e-6)
        else:
            length = jnp.linalg.norm(scores, axis=1, keepdims=True)
        return mean(losses(scores / length, rows["label"]), rows["mask"])

    return {"step": sgd(loss), "batches": batches(), "state": state()}


@animal("not-finite")
def a_mean_of_no_rows(mended):
    def loss(params, rows, key):
        values = losses(logits(params, rows["x"]), rows["label"]) * rows["mask"]
        weight = jnp.sum(rows["mask"]).astype(jnp.float32)
        return jnp.sum(values) / (jnp.maximum(weight, 1.0) if mended else weight)

    return {"step": sgd(loss), "batches": batches(), "state": state()}


@animal("not-finite")
def a_deviation_of_equal_inputs(mended):
    def loss(params, rows, key):
        x = rows["x"]
        spread = jnp.std(x, axis=1, keepdims=True)
        spread = jnp.sqrt(spread**2 + 1e-6) if mended else spread
        centred = (x - jnp.mean(x, axis=1, keepdims=True)) / spread
        return plain_loss(params, {**rows, "x": centred})

    return {"step": sgd(loss), "batches": batches(), "state": state()}


@animal("not-finite")
def an_exponential_of_a_score(mended):
    def loss(params, rows, key):
        scores = logits(params, rows["x"])[:, 0]
        rate = jax.nn.softplus(scores) if mended else jnp.exp(scores)
        return mean(rate - rows["label"] * jnp.log(rate + 1e-6), rows["mask"])

    return {
        "step": sgd(loss),
        "batches": batches(),
        "state": state(),
        "skip": ["learning", "row order", "padding"],
    }


@animal("climbs")
def the_gradient_is_added(mended):
    def step(old, rows):
        value, grads = jax.value_and_grad(plain_loss)(old["params"], rows)
        new = descend(old["params"], grads, 0.1 if mended else -0.1)
        return {**old, "params": new, "step": old["step"] + 1}, {"loss": value}

    return {"step": step, "batches": batches(), "state": state()}
