"""Private gradients in a step: on one device, on many, with parts that are frozen or not finite."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from private_case import BATCH, CLIP, KEY, OBJECTIVE, ROWS, norm

import jaxdl
from jaxdl import gradients, losses, models


def assert_close(got, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), got, expected)


def step_of(**options):
    estimator = gradients.private(CLIP, expected_batch_size=6, **options)
    return jaxdl.make_train_step(OBJECTIVE, optax.sgd(1.0), gradient=estimator)


def moved(placed, batch=BATCH):
    before = placed.init(0, batch)
    params = jax.tree.map(np.asarray, before.params)
    state, sums = placed(before, placed.put(batch))
    return jax.tree.map(lambda a, b: a - np.asarray(b), params, state.params), sums


@pytest.fixture(scope="module")
def on_one(devices):
    return moved(jaxdl.jit(step_of(), devices=devices[:1]))


@pytest.mark.parametrize(
    "layout",
    [pytest.param(jaxdl.data_parallel, marks=pytest.mark.slow), jaxdl.fsdp],
    ids=["data", "fsdp"],
)
def test_a_mesh_of_devices_moves_the_parameters_alike(on_one, layout, devices):
    options = {"microbatches": 2 if layout is jaxdl.fsdp else 1}
    got, sums = moved(jaxdl.jit(step_of(**options), layout=layout(), devices=devices))
    assert_close(got, on_one[0])
    assert jaxdl.report(sums) == pytest.approx(jaxdl.report(on_one[1]), rel=1e-5)


def copy_of(device, field):
    return field[device]


def test_pmap_moves_the_parameters_alike(on_one, devices):
    got, sums = moved(jaxdl.pmap(step_of(microbatches=2), devices=devices[:4]))
    for device in range(4):
        assert_close(jax.tree.map(partial(copy_of, device), got), on_one[0])
    assert jaxdl.report(sums) == pytest.approx(jaxdl.report(on_one[1]), rel=1e-5)


def test_a_step_says_how_many_rows_it_clipped(on_one):
    assert 0 < norm(on_one[0]) <= CLIP
    assert {"loss", "accuracy", "clipped", "not_finite"} == set(jaxdl.report(on_one[1]))


def test_frozen_parameters_neither_move_nor_count_in_the_norm():
    step = jaxdl.make_train_step(
        OBJECTIVE,
        optax.sgd(1.0),
        gradient=gradients.private(1e-3, expected_batch_size=1),
        freeze="dense_0",
    )
    batch = {**BATCH, "mask": np.eye(ROWS, dtype=np.float32)[1]}
    state = step.init(jax.random.key(0), batch)
    new, _ = jax.jit(step.update)(state, batch)
    change = jax.tree.map(lambda a, b: np.asarray(a - b), state.params, new.params)
    assert not any(leaf.any() for leaf in jax.tree.leaves(change["dense_0"]))
    assert norm(change) == pytest.approx(1e-3, rel=1e-3)


def test_a_row_that_is_not_finite_skips_no_step():
    step = jaxdl.make_train_step(
        OBJECTIVE,
        optax.sgd(1.0),
        gradient=gradients.private(CLIP, expected_batch_size=6),
        nonfinite="skip",
    )
    image = BATCH["image"].copy()
    image[0] = np.nan
    state = step.init(jax.random.key(0), BATCH)
    new, sums = jax.jit(step.update)(state, {**BATCH, "image": image})
    report = jaxdl.report(sums)
    assert (report["skipped"], report["not_finite"]) == (0, 1)
    assert np.isfinite(report["loss"])
    assert 0 < norm(jax.tree.map(jnp.subtract, state.params, new.params)) < CLIP * 5 / 6


def test_microbatches_bound_the_memory():
    objective = jaxdl.supervised(models.MLP((256, 3)), losses.softmax_cross_entropy)
    batch = {
        "image": jax.ShapeDtypeStruct((64, 64), np.float32),
        "label": jax.ShapeDtypeStruct((64,), np.int32),
    }
    shapes = jax.eval_shape(objective.init, KEY, batch)

    def bytes_of(microbatches):
        gradient = gradients.private(1.0, expected_batch_size=64, microbatches=microbatches)
        run = jax.jit(lambda p, s, b: gradient(objective)(p, s, b, KEY)[0])
        return run.lower(*shapes, batch).compile().memory_analysis().temp_size_in_bytes

    assert bytes_of(16) < bytes_of(1) / 8
