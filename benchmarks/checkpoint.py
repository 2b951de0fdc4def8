"""What a checkpoint costs: how long a save holds the step and slows the steps after it, how long
verifying takes, and how soon a run that was cut makes its next step.

Run with ``python benchmarks/checkpoint.py [--json FILE]``. The state is 200 MB: parameters and the
moments of Adam. Times of one machine mean little; the ratios are taken in turn, in one run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl import checkpoints
from jaxdl.checkpoints import Checkpoints

MEGABYTES = 200
ROUNDS = 9


def make_state(megabytes: int):
    """Parameters and two moments: 24 leaves of noise."""
    rows = megabytes * 1_000_000 // 24 // 4 // 1024

    @jax.jit
    def make(key):
        keys = jax.random.split(key, 24)
        leaves = [jax.random.normal(each, (rows, 1024)) for each in keys]
        return {"params": leaves[:8], "mu": leaves[8:16], "nu": leaves[16:]}

    return make(jax.random.key(0))


@jax.jit
def small_step(x):
    """A step that computes and does not touch the state."""
    for _ in range(4):
        x = jnp.tanh(x @ x)
    return x


def donating():
    """A step that reads and writes all of the state in place."""
    return jax.jit(lambda s: jax.tree.map(lambda x: x * 0.999, s), donate_argnums=0)


def seconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def copied(state) -> float:
    """A plain copy of the same bytes into memory that is written for the first time."""
    arrays = [np.asarray(leaf) for leaf in jax.tree.leaves(state)]
    return seconds(lambda: [np.copy(array) for array in arrays])


def hold_row(folder: Path) -> dict[str, float]:
    """Milliseconds until ``save`` returns, beside a memory copy of the same bytes."""
    state = make_state(MEGABYTES)
    step = donating()
    holds, copies = [], []
    store = Checkpoints(folder)
    for number in range(1, ROUNDS + 2):
        state = jax.block_until_ready(step(state))
        copies.append(copied(state))
        holds.append(seconds(partial(store.save, number, state)))
        store.wait()
    store.close()
    hold, copy = statistics.median(holds[1:]), statistics.median(copies[1:])
    return {
        "save holds the step, ms": hold * 1e3,
        "memory copy of the same bytes, ms": copy * 1e3,
        "ratio": hold / copy,
    }


def slow_row(folder: Path, step: Callable, state, name: str) -> dict[str, float]:
    """Time of 20 steps after a save begins over 20 steps without one."""
    big = make_state(MEGABYTES)
    store, ratios = Checkpoints(folder), []

    def twenty(now):
        for _ in range(20):
            now = step(now)
            jax.block_until_ready(now)
        return now

    holder = [state]

    def run():
        holder[0] = twenty(holder[0])

    run()
    for number in range(1, ROUNDS + 1):
        plain = seconds(run)
        store.save(number, holder[0] if step is not small_step else big)
        ratios.append(seconds(run) / plain)
        store.wait()
    store.close()
    return {f"20 steps beside a save, {name}": statistics.median(ratios)}


def verify_row(folder: Path) -> dict[str, float]:
    """Seconds a gigabyte of restoring with and without comparing the hashes."""
    state = make_state(MEGABYTES)
    store = Checkpoints(folder)
    store.save(1, state)
    store.close()
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
    times: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(ROUNDS):
        for check in (True, False):
            reader = Checkpoints(folder, verify=check)
            times[check].append(seconds(partial(reader.restore, like)))
    manifest, _ = checkpoints.open_step(folder, 1)
    alone = [seconds(lambda: checkpoints.verify(folder / "1", manifest)) for _ in range(5)]
    gigabytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) / 1e9
    with_hashes, without = (statistics.median(times[check]) / gigabytes for check in (True, False))
    return {
        "restore with hashes, s/GB": with_hashes,
        "restore without, s/GB": without,
        "hashes cost, s/GB": with_hashes - without,
        "jaxdl checkpoint verify, s/GB": statistics.median(alone) / gigabytes,
    }


RESTART = """
import os, sys, time
begin = time.perf_counter()
import jax
jax.config.update("jax_compilation_cache_dir", sys.argv[2])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
import dataclasses, importlib.util, pathlib
spec = importlib.util.spec_from_file_location("digits", sys.argv[3])
digits = importlib.util.module_from_spec(spec)
sys.modules["digits"] = digits
spec.loader.exec_module(digits)
from jaxdl.protocols import Hook
from jaxdl.recipe import train
imported = time.perf_counter()

class First(Hook):
    first = None
    def tick(self, step):
        if self.first is None:
            self.first, self.number = time.perf_counter(), step
            print(imported - begin, self.first - imported, step, flush=True)
        if step == self.number + 120:
            os._exit(0)  # as a lost machine would

recipe = dataclasses.replace(digits.recipe(digits.Config()), hooks=[First()], checkpoint_every=50)
train(recipe, pathlib.Path(sys.argv[1]), progress=False)
"""


def restart_row(folder: Path) -> dict[str, float]:
    """Seconds from a process's start to its first step: cold, and gone on with a warm cache."""
    example = Path(__file__).parents[1] / "examples" / "digits.py"

    def start() -> tuple[float, float, float]:
        words = [sys.executable, "-c", RESTART, str(folder / "run"), str(folder / "cache")]
        done = subprocess.run([*words, str(example)], capture_output=True, text=True, check=True)
        imports, first, step = map(float, done.stdout.split()[-3:])
        return imports, first, step

    cold = start()
    warm = [start() for _ in range(5)]
    if min(step for _, _, step in warm) <= 1:
        raise RuntimeError("a run did not go on")
    return {
        "imports, s": statistics.median(imports for imports, _, _ in warm),
        "new run to its first step, cold compile cache, s": cold[1],
        "gone on to its next step, warm cache, s": statistics.median(first for _, first, _ in warm),
    }


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, default=None, help="append one JSON line a row here")
    options = parser.parse_args()
    rows: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as root:
        matrix = jax.random.normal(jax.random.key(1), (512, 512))
        jobs = [
            hold_row,
            lambda at: slow_row(at, small_step, matrix, "steps that compute"),
            lambda at: slow_row(at, donating(), make_state(MEGABYTES), "steps that rewrite it all"),
            verify_row,
            restart_row,
        ]
        for number, job in enumerate(jobs):
            folder = Path(root) / str(number)
            folder.mkdir()
            rows.append(job(folder))
            shutil.rmtree(folder)
            for name, value in rows[-1].items():
                print(f"{name:52} {value:10.3f}", flush=True)
    if options.json is not None:
        with options.json.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)


if __name__ == "__main__":
    main()
