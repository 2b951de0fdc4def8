"""A loop of one's own around the step builder: no recipe, no ``fit``, an objective by hand.

Run it with ``python examples/own_objective.py``. What is jaxdl's: the step, its place, the data.
A linear classifier of the handwritten digits; the noise shows how a step's key is used.

Measured: test accuracy 95.3 %, 3 s on 2 CPU cores.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

import jaxdl
from jaxdl import data
from jaxdl.protocols import Aux, Batch, ModelState, Objective, Params

STEPS, BATCH_SIZE, REPORT_EVERY = 400, 64, 100


def init(key: Any, batch: Batch) -> tuple[Params, ModelState]:
    """The parameters of a linear classifier of images; there is no other state."""
    pixels = batch["image"][0].size
    return {"kernel": 0.01 * jax.random.normal(key, (pixels, 10)), "bias": jnp.zeros((1, 10))}, {}


def loss(params: Params, state: ModelState, batch: Batch, key: Any, *, train: bool) -> Any:
    """The SUM of the cross-entropy over the rows that count, and how many these are."""
    image = batch["image"].reshape(len(batch["image"]), -1) / 255.0
    if train:
        image = image + 0.1 * jax.random.normal(key, image.shape)
    logits = image @ params["kernel"] + params["bias"]
    each = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
    right = jnp.argmax(logits, axis=-1) == batch["label"]
    counts = batch.get("mask", jnp.ones(len(image)))
    sums = {"accuracy": jaxdl.Mean(jnp.sum(right * counts), jnp.sum(counts))}
    return jnp.sum(each * counts), Aux(jnp.sum(counts), state, sums)


def main() -> float:
    """Trains, and returns the test accuracy."""
    train = data.Batches(data.digits(split="train"), BATCH_SIZE, seed=0)
    test = data.Batches(data.digits(split="test"), BATCH_SIZE, shuffle=False)
    objective = Objective(init, loss)
    step = jaxdl.jit(jaxdl.make_train_step(objective, optax.adam(1e-2), ema_decay=0.98))
    measure = jaxdl.jit(jaxdl.make_eval_step(objective, use_ema=True))

    state, window = step.init(0, train[0]), []
    for k in range(STEPS):
        state, sums = step(state, train[k])
        window.append(sums)
        if (k + 1) % REPORT_EVERY == 0:
            report = jaxdl.report(jaxdl.metrics.total(window))
            print(f"step {k + 1}  loss {report['loss']:.4f}  accuracy {report['accuracy']:.4f}")
            window = []

    report = jaxdl.report(jaxdl.metrics.total([measure(state, batch) for batch in test.epoch()]))
    print(f"test  loss {report['loss']:.4f}  accuracy {report['accuracy']:.4f}")
    return report["accuracy"]


if __name__ == "__main__":
    main()
