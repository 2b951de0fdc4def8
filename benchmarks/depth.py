"""A scanned GPT at several depths: lines of its program, and how long it takes to compile.

Run with ``python benchmarks/depth.py``. Seconds are those of this process on all cores, of the
compile alone; the depths are compiled in turn, in rounds, and the median of the rounds is given.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import jax
import optax

import jaxdl
from jaxdl import models
from jaxdl.objectives import language_model

DEPTHS = (2, 8, 32, 96)


def lowered(num_layers: int) -> jax.stages.Lowered:
    """The train step of a scanned GPT of small width, before it is compiled."""
    model = models.GPT(
        vocab_size=64,
        num_layers=num_layers,
        num_heads=2,
        hidden_dim=16,
        max_length=16,
        scan_layers=True,
    )
    step = jaxdl.make_train_step(language_model(model), optax.sgd(0.1))
    batch = {"tokens": jax.ShapeDtypeStruct((4, 17), "int32")}
    state = jax.eval_shape(step.init, jax.eval_shape(jax.random.key, 0), batch)
    return jax.jit(step.update, donate_argnums=0).lower(state, batch)


def lines(num_layers: int) -> int:
    """Lines of the step's StableHLO."""
    return len(lowered(num_layers).as_text().splitlines())


def compile_seconds(num_layers: int) -> float:
    """Process seconds of one compile, tracing and lowering left out."""
    program = lowered(num_layers)
    start = time.process_time()
    program.compile()
    return time.process_time() - start


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, default=None, help="append one JSON line a row here")
    options = parser.parse_args()
    jax.config.update("jax_enable_compilation_cache", False)
    compile_seconds(DEPTHS[0])
    times: dict[int, list[float]] = {depth: [] for depth in DEPTHS}
    for turn in range(options.rounds):
        for depth in DEPTHS if turn % 2 else reversed(DEPTHS):
            times[depth].append(compile_seconds(depth))
    print(f"{'layers':>6} {'lines':>7} {'compile s':>10} {'over 8':>7}")
    base = statistics.median(times[8])
    rows = []
    for depth in DEPTHS:
        seconds = statistics.median(times[depth])
        rows.append({"layers": depth, "lines": lines(depth), "compile_seconds": seconds})
        print(f"{depth:6} {rows[-1]['lines']:7} {seconds:10.2f} {seconds / base:7.3f}")
    if options.json is not None:
        with options.json.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)


if __name__ == "__main__":
    main()
