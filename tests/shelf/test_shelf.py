"""What holds of every model of the shelf, as its recipes train it.

Each case (``cases_*.py``) is a tiny model of one family. The reference is two steps on one device
under ``jit``, the whole batch without padding. The same numbers come from eight devices with two
microbatches and padded rows, and from ``pmap``: one comparison over all three at once, since each
program costs seconds to compile.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from shelf_case import Case

import jaxdl
from jaxdl import data, gradients, metrics, tree_paths

pytestmark = pytest.mark.slow

ROWS, SHORT, STEPS = 16, 14, 2
SGD = optax.sgd(0.05, momentum=0.9)


def load_cases() -> list[Case]:
    found: list[Case] = []
    for path in sorted(Path(__file__).parent.glob("cases_*.py")):
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found += module.CASES
    return found


CASES = {case.name: case for case in load_cases()}
every_case = pytest.mark.parametrize("name", CASES)


def warm(pure: jaxdl.TrainStep) -> jaxdl.TrainStep:
    """Starts away from zero: a leaf of zeros would be nothing but gradients, rounding and all."""

    def init(key, batch):
        state = pure.init(key, batch)
        leaves, structure = jax.tree.flatten(state.params)
        keys = jax.random.split(key, len(leaves))
        moved = [
            x + 0.05 * jax.random.normal(k, x.shape, x.dtype)
            for k, x in zip(keys, leaves, strict=True)
        ]
        return state.replace(params=jax.tree.unflatten(structure, moved))

    return pure._replace(init=init)


def padded(batch, rows: int):
    """The batch with rows of rubbish that a mask, of rows or of rows and tokens, leaves out."""
    count = len(jax.tree.leaves(batch)[0])
    if "mask" not in batch:
        return data.pad_batch(batch, rows)
    last = {name: np.repeat(value[-1:], rows - count, axis=0) for name, value in batch.items()}
    last["mask"] = np.zeros_like(last["mask"])
    return {name: np.concatenate([value, last[name]]) for name, value in batch.items()}


def run(case: Case, *, placement="jit", devices=1, microbatches=1, rows=SHORT, dtype=None):
    """The last state and the sums of all steps, on the host, and the compiled update."""
    objective = case.objective(dtype, "data" if placement == "pmap" else None)
    gradient = gradients.mean() if microbatches == 1 else gradients.accumulate(microbatches)
    pure = warm(jaxdl.make_train_step(objective, SGD, gradient=gradient))
    place = jaxdl.pmap if placement == "pmap" else jaxdl.jit
    step = place(pure, devices=jax.devices()[:devices])
    batch = case.batch(SHORT)
    if rows > SHORT:
        batch = padded(batch, rows)
    state, collected = step.init(3, batch), []
    for _ in range(STEPS):
        state, sums = step(state, batch)
        collected.append(jax.device_get(sums))
    if placement == "pmap":
        state = jaxdl.from_pmap_state(state)
    return jax.device_get(state.replace(key=None)), metrics.total(collected), step.program


@functools.cache
def reference(name: str):
    return run(CASES[name])


def assert_same(got, expected, limit: float) -> None:
    for path, a, b in zip(
        tree_paths.leaf_paths(expected),
        jax.tree.leaves(got),
        jax.tree.leaves(expected),
        strict=True,
    ):
        scale = np.abs(np.asarray(b)).max(initial=0.0)
        worst = np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).max(initial=0.0)
        assert worst <= limit * max(scale, 1e-30), f"{path}: {worst:.2e} of {scale:.2e}"


def assert_same_run(got, expected, limit: float) -> None:
    assert_same(got[0].params, expected[0].params, limit)
    assert_same(got[0].model_state, expected[0].model_state, limit)
    assert_same(jax.tree.leaves(got[1]), jax.tree.leaves(expected[1]), limit)


@every_case
def test_eight_devices_microbatches_and_padding_change_nothing(name):
    case = CASES[name]
    found = run(case, devices=8, microbatches=1 if case.mixes_rows else 2, rows=ROWS)
    assert_same_run(found, reference(name), case.limit)


@every_case
def test_pmap_is_jit(name):
    case = CASES[name]
    found = run(case, placement="pmap", devices=8, rows=ROWS)
    assert_same_run(found, reference(name), case.limit)


@every_case
def test_the_whole_state_is_donated(name):
    # A second compile or an unused donation is an error of the guard: two steps were made.
    state, _, program = reference(name)
    memory = program.memory_analysis()
    size = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(state))
    assert memory.alias_size_in_bytes >= size


@every_case
def test_half_precision_stays_finite(name):
    state, sums, _ = run(CASES[name], dtype=jnp.bfloat16)
    expected, expected_sums, _ = reference(name)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))
    assert jax.tree.map(lambda x: x.dtype, state.params) == jax.tree.map(
        lambda x: x.dtype, expected.params
    )
    loss, exact = sums["loss"], expected_sums["loss"]
    assert loss.weight == exact.weight
    assert abs(loss.total - exact.total) <= 0.05 * abs(exact.total) + 0.05 * exact.weight
