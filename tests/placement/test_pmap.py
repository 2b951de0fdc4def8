"""The classic map: states with a leading axis, and the way out of it."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdl
from jaxdl import losses, metrics, models
from jaxdl.errors import LayoutError, RecompileError


def batch(rows: int = 32) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(rows)
    return {
        "image": rng.random((rows, 4, 4, 1), dtype=np.float32),
        "label": rng.integers(0, 3, rows).astype(np.int32),
    }


@functools.cache
def pure() -> jaxdl.TrainStep:
    objective = jaxdl.supervised(models.MLP((8, 3)), losses.softmax_cross_entropy)
    return jaxdl.make_train_step(objective, optax.sgd(0.1, momentum=0.9), ema_decay=0.9)


@pytest.fixture(scope="module")
def step():
    return jaxdl.pmap(pure())


def test_state_has_a_copy_for_each_device_and_sums_are_global(step):
    state, sums = step(step.init(0, batch()), batch())
    assert {leaf.shape[0] for leaf in jax.tree.leaves(state)} == {8}
    assert float(sums["loss"].weight) == 32.0
    for leaf in jax.tree.leaves(state.params):
        np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape))


def test_way_to_a_mesh_and_back(step):
    mapped = step.init(0, batch())
    mesh = jaxdl.jit(pure())
    state = mesh.place(jaxdl.from_pmap_state(mapped))
    back = step.place(jaxdl.from_pmap_state(mapped))
    jax.tree.map(np.testing.assert_array_equal, back.params, mapped.params)
    a, _ = mesh(state, batch())
    b, _ = step(back, batch())
    b = jaxdl.from_pmap_state(b)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7), a.params, b.params
    )
    assert int(b.step) == 1


def test_unmapped_states_are_refused(step):
    state = jaxdl.jit(pure()).init(0, batch())
    with pytest.raises(LayoutError, match="a mapped state, with a leading axis of 8"):
        step(state, batch())
    with pytest.raises(LayoutError, match="without a leading axis"):
        jaxdl.from_pmap_state(state)


def test_second_compile_is_named(step):
    state, _ = step(step.init(0, batch()), batch())
    with pytest.raises(RecompileError, match="batch/image"):
        step(state, batch(64))


def test_evaluation_counts_every_row_once(step):
    objective = jaxdl.supervised(models.MLP((8, 3)), losses.softmax_cross_entropy)
    measured = {"confusion": metrics.confusion_matrix(3)}
    evaluate = jaxdl.make_eval_step(objective, measured)
    state = step.init(0, batch())
    mapped = jax.device_get(jaxdl.pmap(evaluate)(state, batch(21)))
    whole = jax.device_get(jaxdl.jit(evaluate)(jaxdl.from_pmap_state(state), batch(21)))
    np.testing.assert_array_equal(mapped["confusion"].sums, whole["confusion"].sums)
    assert int(np.sum(mapped["confusion"].sums)) == 21
    np.testing.assert_allclose(mapped["loss"].total, whole["loss"].total, rtol=1e-6)


class PlainNorm(nn.Module):
    """Flax's own BatchNorm, whose statistics are those of each device under ``pmap``."""

    @nn.compact
    def __call__(self, x, *, train=False):
        x = x.reshape(x.shape[0], -1)
        x = nn.BatchNorm(use_running_average=not train, momentum=0.0)(x)
        return nn.Dense(3)(x)


def test_statistics_of_each_device_are_averaged_by_weight():
    """Without an axis name the running mean is still the batch's; the variance is within devices.

    This is the level of sameness of a foreign BatchNorm: means agree with ``jit``, variances are
    the average of the devices' own.
    """
    objective = jaxdl.supervised(PlainNorm(), losses.softmax_cross_entropy)
    mapped = jaxdl.pmap(jaxdl.make_train_step(objective, optax.sgd(0.1)))
    state, _ = mapped(mapped.init(0, batch()), batch())
    stats = jaxdl.from_pmap_state(state).model_state["batch_stats"]["BatchNorm_0"]
    pixels = batch()["image"].reshape(8, 4, -1)
    np.testing.assert_allclose(stats["mean"], pixels.mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(stats["var"], pixels.var(1).mean(0), rtol=1e-4)


def test_randomness_by_array_differs_between_devices():
    """A key that an objective uses for its whole shard is another one on each device."""

    def loss(params, model_state, batch, key, *, train):
        noise = jax.random.uniform(key, ())
        aux = jaxdl.Aux(1.0, model_state, {"square": noise**2, "noise": noise})
        return jnp.sum(params) * noise, aux

    objective = jaxdl.Objective(lambda key, batch: (jnp.ones(()), {}), loss)
    mapped = jaxdl.pmap(jaxdl.make_train_step(objective, optax.sgd(0.1)))
    rows = {"x": np.ones((8, 1), np.float32)}
    _, sums = mapped(mapped.init(0, rows), rows)
    spread = float(sums["square"]) / 8 - (float(sums["noise"]) / 8) ** 2
    assert spread > 1e-3, "all devices drew the same number"
