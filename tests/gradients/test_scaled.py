"""The loss scale: gradients that float16 would lose, and a scale that finds its size."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdl
from jaxdl import gradients, losses
from jaxdl.errors import ObjectiveError
from jaxdl.objectives import from_mean, supervised, with_precision
from jaxdl.protocols import Aux, Mean, Objective

RNG = np.random.default_rng(0)
ROWS = 16
BATCH = {
    "x": RNG.normal(size=(ROWS, 8)).astype(np.float32),
    "y": RNG.normal(size=(ROWS, 4)).astype(np.float32),
}


class Faint(nn.Module):
    """An MLP whose loss is so small that the gradients of its outputs are no float16."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(4)(nn.tanh(nn.Dense(8)(x)))


def faint(size=1e-7):
    def loss(outputs, targets):
        return size * losses.mean_squared_error(outputs, targets)

    return supervised(Faint(), loss, inputs="x", targets="y")


def gradient_of(objective, estimator, batch=BATCH, **given):
    params, state = objective.init(jax.random.key(0), batch)

    def run(params, batch):
        gradient = gradients.remembering.bind(estimator(objective), None, None)
        return gradient(params, state, batch, jax.random.key(1), divisor=lambda w: w, **given)

    return jax.jit(run)(params, batch)[0]


def norm(tree):
    return jnp.sqrt(sum(jnp.vdot(x, x) for x in jax.tree.leaves(tree)))


def norm_error(got, expected):
    off = norm(jax.tree.map(jnp.subtract, got, expected))
    return float(off / norm(expected))


def test_gradients_that_underflow_are_kept_by_the_scale():
    exact = gradient_of(faint(), gradients.mean())
    half = with_precision(faint(), "f16")
    lost = gradient_of(half, gradients.mean())
    assert all(not np.any(g) for g in jax.tree.leaves(lost))
    assert all(np.any(g) for g in jax.tree.leaves(exact))
    kept = gradient_of(half, gradients.scaled(scale=2.0**20))
    assert norm_error(kept, exact) < 0.01
    assert {g.dtype.name for g in jax.tree.leaves(kept)} == {"float32"}


@pytest.mark.parametrize("scale", [1.0, 1024.0, 3.0, 1e-3])
@pytest.mark.parametrize("rows", [None, ROWS - 3])
def test_in_float32_the_scale_changes_nothing(scale, rows):
    batch = BATCH if rows is None else {**BATCH, "mask": (np.arange(ROWS) < rows)}
    exact = gradient_of(faint(1.0), gradients.mean(), batch)
    for inner in (None, gradients.accumulate(4)):
        got = gradient_of(faint(1.0), gradients.scaled(inner, scale=scale), batch)
        assert norm_error(got, exact) < 1e-6


def test_each_example_is_scaled_alike_however_the_batch_is_cut():
    seen = {}

    def probe(name):
        @jax.custom_vjp
        def same(x):
            return x

        def backward(_, cotangent):
            jax.debug.callback(lambda c: seen.setdefault(name, set()).add(float(c)), cotangent)
            return (cotangent,)

        same.defvjp(lambda x: (x, None), backward)

        def loss(params, state, batch, key, *, train):
            total, weight = jaxdl.reductions.masked_sum(batch["x"] * params, batch.get("mask"))
            return same(total), Aux(weight, state, {})

        return Objective(lambda key, batch: (jnp.ones(()), {}), loss)

    mask = {"mask": np.ones((ROWS, 8), np.float32)}
    for name, inner, given in (
        ("mean", None, {}),
        ("accumulate", gradients.accumulate(4), {}),
        ("reproducible", gradients.reproducible(shards=8), {}),
        ("masked", gradients.accumulate(2), mask),
    ):
        step = jaxdl.make_train_step(
            probe(name), optax.sgd(0.0), gradient=gradients.scaled(inner, scale=1024.0)
        )
        batch = {**BATCH, **given}
        state = step.init(jax.random.key(0), batch)
        jax.block_until_ready(jax.jit(step.update)(state, batch))
        jax.effects_barrier()
    assert set(seen) == {"mean", "accumulate", "reproducible", "masked"}
    assert all(cotangents == {1024.0 / 128} for cotangents in seen.values())


def watched(objective, optimizer, **options):
    step = jaxdl.make_train_step(objective, optimizer, gradient=gradients.scaled(**options))
    return step.init(jax.random.key(0), BATCH), jax.jit(step.update)


def test_a_scale_that_is_too_large_falls_and_the_run_learns():
    half = with_precision(faint(1.0), "f16")
    state, update = watched(half, optax.adam(1e-2), initial=2.0**24, growth_interval=50)
    start, reports = state, []
    for _ in range(60):
        before, (state, sums) = state, update(state, BATCH)
        reports.append(jaxdl.report(sums))
        if reports[-1]["skipped"]:
            same = (before.params, before.opt_state.optimizer, before.model_state)
            jax.tree.map(
                np.testing.assert_array_equal,
                same,
                (state.params, state.opt_state.optimizer, state.model_state),
            )
            assert state.opt_state.gradient.scale == before.opt_state.gradient.scale / 2
    skips = sum(r["skipped"] for r in reports)
    assert 1 <= skips < 12
    assert [r["skipped"] for r in reports[:skips]] == [1] * skips
    assert reports[0]["loss_scale"] == 2.0**24
    assert reports[skips]["loss_scale"] == 2.0 ** (24 - skips)
    # 50 good steps later it grows, and may overflow again.
    assert reports[-1]["loss_scale"] in (2.0 ** (25 - skips), 2.0 ** (24 - skips))
    assert reports[-1]["loss"] < 0.7 * reports[skips]["loss"]
    assert int(state.step) == 60
    assert jax.tree.structure(start) == jax.tree.structure(state)


def test_the_scale_grows_falls_and_stays_within_its_bounds():
    estimator = gradients.scaled(
        initial=4.0, growth_interval=2, factor=4.0, smallest=2.0, largest=32.0
    )
    memory, seen = estimator.begin(), []
    for finite in (True, True, True, False, False, False, True, True, True, True, True, True):
        memory = estimator.after(memory, jnp.asarray(finite))
        seen.append((float(memory.scale), int(memory.good_steps)))
    assert seen[:6] == [(4, 1), (16, 0), (16, 1), (4, 0), (2, 0), (2, 0)]
    assert seen[6:] == [(2, 1), (8, 0), (8, 1), (32, 0), (32, 1), (32, 0)]


def test_a_batch_that_is_not_finite_is_skipped_though_nonfinite_says_nothing():
    objective = from_mean(lambda p, b: jnp.mean(p * b["x"]), lambda k, b: jnp.ones(()))
    state, update = watched(objective, optax.sgd(0.1), initial=8.0)
    bad = {**BATCH, "x": np.full_like(BATCH["x"], np.nan)}
    state, sums = update(state, bad)
    assert jaxdl.report(sums)["skipped"] == 1
    assert float(state.params) == 1.0
    assert float(state.opt_state.gradient.scale) == 4.0


def jit8(step):
    return jaxdl.jit(step)


PLACED = {
    "jit": jit8,
    "fsdp": functools.partial(jaxdl.jit, layout=jaxdl.fsdp(min_size=1)),
    "pmap": jaxdl.pmap,
}


@pytest.mark.parametrize(
    ("inner", "placements"),
    [
        (gradients.accumulate(2), ["fsdp", "pmap"]),
        pytest.param(gradients.mean(), ["jit", "fsdp", "pmap"], marks=pytest.mark.slow),
        pytest.param(gradients.reproducible(shards=8), ["jit", "pmap"], marks=pytest.mark.slow),
    ],
)
def test_the_scale_is_the_same_wherever_the_step_is_placed(inner, placements):
    half = with_precision(faint(1.0), "f16")
    pure = jaxdl.make_train_step(
        half,
        optax.adam(1e-2),
        gradient=gradients.scaled(inner, initial=64.0, growth_interval=3),
        ema_decay=0.5,
        freeze="Dense_0/bias",
    )
    # One device alone sees the row that overflows.
    bad = {**BATCH, "x": np.where(np.arange(ROWS)[:, None] == 5, np.float32(1e30), BATCH["x"])}
    trails, ends = [], []
    for placement in placements:
        step = PLACED[placement](pure)
        state, trail = step.init(jax.random.key(0), BATCH), []
        for index in range(9):
            state, sums = step(state, bad if index in (1, 2, 6) else BATCH)
            report = jaxdl.report(sums)
            trail.append((report["loss_scale"], report["skipped"]))
        trails.append(trail)
        ends.append(jax.device_get(jax.tree.map(lambda x: x.mean(), state.params)))
    assert all(trail == trails[0] for trail in trails)
    assert trails[0] == list(
        zip([64, 64, 32, 16, 16, 16, 32, 16, 16], [0, 1, 1, 0, 0, 0, 1, 0, 0], strict=True)
    )
    for end in ends[1:]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=5e-3), end, ends[0])


def test_the_metrics_of_the_objective_are_not_scaled():
    plain = jaxdl.make_train_step(faint(1.0), optax.sgd(0.1))
    state, update = watched(faint(1.0), optax.sgd(0.1))
    _, sums = update(state, BATCH)
    _, expected = jax.jit(plain.update)(plain.init(jax.random.key(0), BATCH), BATCH)
    assert float(sums["loss"].total) == pytest.approx(float(expected["loss"].total), rel=1e-6)
    assert isinstance(sums["loss_scale"], Mean)


@pytest.mark.parametrize(
    "options",
    [
        {"scale": 0},
        {"scale": -1.0},
        {"scale": float("nan")},
        {"scale": float("inf")},
        {"scale": True},
        {"scale": "static"},
        {"initial": 0.5},
        {"initial": 2.0**30},
        {"factor": 1.0},
        {"growth_interval": 0},
        {"growth_interval": 2.5},
        {"smallest": 0.0},
        {"inner": 1024.0},
        {"inner": gradients.scaled()},
        {"inner": faint()},
    ],
    ids=lambda options: " ".join(options),
)
def test_what_is_refused(options, untyped):
    with pytest.raises(ObjectiveError, match="scaled"):
        gradients.scaled(**options)


def test_estimators_that_break_the_contract_are_named():
    def without_aux(objective):
        return lambda p, s, b, k: gradients.mean()(objective)(p, s, b, k)[0]

    def elsewhere(objective):
        return lambda p, s, b, k: (p, Aux(1.0, s, {}))

    for inner, message in ((without_aux, "no Aux"), (elsewhere, "never called")):
        with pytest.raises(ObjectiveError, match=message):
            gradient_of(faint(), gradients.scaled(inner, scale=2.0))


def test_a_memory_that_is_hidden_is_said_so():
    def around(objective):
        return gradients.scaled()(objective)

    step = jaxdl.make_train_step(faint(), optax.sgd(0.1), gradient=around)
    state = step.init(jax.random.key(0), BATCH)
    with pytest.raises(ObjectiveError, match="outermost"):
        step.update(state, BATCH)
