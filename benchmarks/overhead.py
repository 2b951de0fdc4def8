"""What jaxdl costs: its step over the hand-written step, and its whole loop over a bare loop.

Run with ``python benchmarks/overhead.py [--data-dir DIR]``. With a data folder that holds a
prepared MNIST the loop runs on it; otherwise on random images of its size.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from pairs import Row, compare, show

import jaxdl
from jaxdl import data, gradients, models

BATCH = 128


def hand_written(model, optimizer, *, microbatches: int = 1, ema_decay: float | None = None):
    """The step that a careful person writes: mean loss, gradient, update, donated state."""

    def mean_loss(params, batch):
        logits = model.apply({"params": params}, batch["image"])
        each = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        return jnp.mean(each)

    def accumulated(params, batch):
        def body(carry, piece):
            return jax.tree.map(jnp.add, carry, jax.value_and_grad(mean_loss)(params, piece)), None

        rows = jax.tree.map(lambda x: x.reshape(-1, microbatches, *x.shape[1:]), batch)
        zeros = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
        sums, _ = jax.lax.scan(body, zeros, jax.tree.map(lambda x: x.swapaxes(0, 1), rows))
        return jax.tree.map(lambda x: x / microbatches, sums)

    differentiate = accumulated if microbatches > 1 else jax.value_and_grad(mean_loss)

    def update(state, batch):
        loss, grads = differentiate(state.params, batch)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        new = state.replace(step=state.step + 1, params=params, opt_state=opt_state)
        if ema_decay is not None:
            new = new.replace(ema=optax.incremental_update(params, state.ema, 1.0 - ema_decay))
        return new, loss

    return jax.jit(update, donate_argnums=0)


def step_row(name: str, model, *, steps: int, pairs: int, **options) -> Row:
    """One model's step, ours against the hand-written, on a resident batch."""
    optimizer = optax.adam(1e-3)
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.random((BATCH, 28, 28, 1), dtype=np.float32),
        "label": rng.integers(0, 10, BATCH).astype(np.int32),
    }
    microbatches = options.get("microbatches", 1)
    gradient = gradients.accumulate(microbatches) if microbatches > 1 else gradients.mean()
    placed = jaxdl.jit(
        jaxdl.make_train_step(
            jaxdl.supervised(model, optax.softmax_cross_entropy_with_integer_labels),
            optimizer,
            gradient=gradient,
            ema_decay=options.get("ema_decay"),
        ),
        layout=jaxdl.single(),
    )
    resident = placed.put(batch)
    states = {"ours": placed.init(0, batch), "theirs": placed.init(0, batch)}
    by_hand = hand_written(model, optimizer, **options)

    def block(label, step):
        def run():
            state = states[label]
            for _ in range(steps):
                state, out = step(state, resident)
            jax.block_until_ready((state, out))
            states[label] = state

        return run

    return compare(name, block("ours", placed), block("theirs", by_hand), pairs=pairs, units=steps)


def loop_row(data_dir: str | None, *, steps: int, pairs: int) -> Row:
    """``fit`` with its prefetch, logging and checks, against a loop of three lines."""
    if data_dir:
        source = data.tfds("mnist", split="train", data_dir=data_dir)
    else:
        rng = np.random.default_rng(0)
        source = data.arrays(
            {
                "image": rng.integers(0, 256, (60000, 28, 28, 1)).astype(np.uint8),
                "label": rng.integers(0, 10, 60000).astype(np.int32),
            }
        )
    batches = data.Batches(source, BATCH, remainder="drop")
    model, optimizer = models.MLP((128, 64, 10)), optax.adam(1e-3)
    objective = jaxdl.supervised(model, optax.softmax_cross_entropy_with_integer_labels)
    placed = jaxdl.jit(jaxdl.make_train_step(objective, optimizer), layout=jaxdl.single())
    by_hand = hand_written(model, optimizer)
    start = jax.device_get(placed.init(0, batches[0]))

    def ours():
        jaxdl.fit(placed, batches, steps=steps, state=placed.place(start), start=0)

    def theirs():
        state = placed.place(start)
        for k in range(steps):
            state, loss = by_hand(state, batches[k])
        jax.block_until_ready((state, loss))

    return compare("fit over bare loop, MNIST MLP", ours, theirs, pairs=pairs, units=steps)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", default=None, help="folder of a prepared TFDS mnist")
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--json", type=Path, default=None, help="append one JSON line a row here")
    options = parser.parse_args()
    pairs = options.pairs
    rows = [
        step_row("step: MLP 784-128-64-10", models.MLP((128, 64, 10)), steps=200, pairs=pairs),
        step_row("step: CNN", models.CNN(num_classes=10), steps=20, pairs=pairs),
        step_row(
            "step: MLP, EMA, 4 microbatches",
            models.MLP((128, 64, 10)),
            steps=200,
            pairs=pairs,
            microbatches=4,
            ema_decay=0.99,
        ),
        loop_row(options.data_dir, steps=938, pairs=max(7, pairs // 3)),
    ]
    show(rows, options.json)


if __name__ == "__main__":
    main()
