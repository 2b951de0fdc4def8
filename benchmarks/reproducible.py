"""What the same bits on any number of devices cost: ``reproducible(shards=8)`` over ``mean()``.

``accumulate(8)`` is a third party: it loops over the batch too, which the CPU compiler serves badly
(it makes the gradients of convolutions fast outside of loops only). Run with
``python benchmarks/reproducible.py``. The devices are virtual ones of one CPU, which share its
cores: the ratio is that of all work done, not of one device's.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import jax
import numpy as np
import optax
from pairs import Row, compare

import jaxdl
from jaxdl import gradients, models

BATCH, SHARDS = 128, 8


@dataclass(frozen=True)
class Cost(Row):
    """A line of the table, with what each program takes on one device beside its arguments."""

    ours_temp_bytes: int
    theirs_temp_bytes: int
    params_bytes: int


def placed_step(model, gradient, devices: int) -> jaxdl.placement.PlacedStep:
    """One model's step on the first so many devices."""
    objective = jaxdl.supervised(model, optax.softmax_cross_entropy_with_integer_labels)
    pure = jaxdl.make_train_step(objective, optax.adamw(1e-3), gradient=gradient)
    return jaxdl.jit(pure, devices=jax.devices()[:devices])


def cost_row(name: str, model, other, *, devices: int, steps: int, pairs: int) -> Cost:
    """One model on one number of devices, on a resident batch, against another estimator."""
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.random((BATCH, 28, 28, 1), dtype=np.float32),
        "label": rng.integers(0, 10, BATCH).astype(np.int32),
    }
    estimators = {"ours": gradients.reproducible(shards=SHARDS), "theirs": other}
    placed = {k: placed_step(model, each, devices) for k, each in estimators.items()}
    states = {k: step.init(0, batch) for k, step in placed.items()}
    resident = placed["ours"].put(batch)

    def block(label):
        def run():
            state = states[label]
            for _ in range(steps):
                state, sums = placed[label](state, resident)
            jax.block_until_ready((state, sums))
            states[label] = state

        return run

    row = compare(name, block("ours"), block("theirs"), pairs=pairs, units=steps)
    temp = {k: step.program.memory_analysis().temp_size_in_bytes for k, step in placed.items()}
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(states["ours"].params))
    return Cost(**asdict(row), ours_temp_bytes=temp["ours"], theirs_temp_bytes=temp["theirs"],
                params_bytes=size)  # fmt: skip


def show(rows: list[Cost], out: Path | None) -> None:
    """Prints the table and, when ``out`` is given, appends one JSON line a row to it."""
    print(
        f"{'reproducible(shards=8)':34} {'ratio':>7} {'95 % interval':>16} "
        f"{'ours us':>10} {'other us':>10} {'ours KiB':>10} {'other KiB':>10} {'params KiB':>10}"
    )
    for row in rows:
        interval = f"{row.low:.3f} .. {row.high:.3f}"
        print(
            f"{row.name:34} {row.ratio:7.3f} {interval:>16} {row.ours_us:10.1f} "
            f"{row.theirs_us:10.1f} {row.ours_temp_bytes / 1024:10.0f} "
            f"{row.theirs_temp_bytes / 1024:10.0f} {row.params_bytes / 1024:10.0f}"
        )
    if out is not None:
        with out.open("a") as file:
            file.writelines(json.dumps(asdict(row)) + "\n" for row in rows)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--steps", type=int, default=20, help="steps in a timed block")
    parser.add_argument("--json", type=Path, default=None, help="append one JSON line a row here")
    options = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    tried = {"MLP": models.MLP((128, 64, 10)), "CNN": models.CNN(num_classes=10)}
    cases = [
        (1, "mean()", gradients.mean()),
        (1, "accumulate(8)", gradients.accumulate(8)),
        (8, "mean()", gradients.mean()),
    ]
    rows = [
        cost_row(
            f"{name}, {devices} CPU device{'s' * (devices > 1)}, {against}",
            model,
            other,
            devices=devices,
            steps=options.steps,
            pairs=options.pairs,
        )
        for name, model in tried.items()
        for devices, against, other in cases
    ]
    show(rows, options.json)


if __name__ == "__main__":
    main()
