"""A step over shards of unequal weight: what is averaged, what is kept, whose key is whose."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdl
from jaxdl import gradients
from jaxdl.protocols import EXAMPLE_KEY, Aux, Mean, Objective
from jaxdl.step.shards import crosses_shards, with_example_keys

X = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)


def loss(params, model_state, batch, key, *, train):
    total, weight = jaxdl.reductions.masked_sum(batch["x"] @ params, batch.get("mask"))
    state = {
        "mean": jnp.mean(batch["x"]),
        "seen": model_state["seen"] + batch["x"].shape[0] * jnp.int32(weight > 0),
    }
    return total, Aux(weight, state, {"x": Mean(jnp.sum(batch["x"]), weight)})


OBJECTIVE = Objective(
    lambda key, batch: (jnp.ones(3), {"mean": jnp.float32(5.0), "seen": jnp.int32(1)}), loss
)
STEP = jaxdl.make_train_step(OBJECTIVE, optax.sgd(0.1))


def over_shards(step, mask, shards=2):
    """One update under a mapped axis: the state and the sums that all shards agree on."""
    state = step.init(jax.random.key(0), {"x": X})
    rows = {"x": X.reshape(shards, -1, 3), "mask": np.reshape(mask, (shards, -1))}

    def update(rows):
        return step.update(state.replace(key=jax.random.key(1)), rows, axis_name="data")

    new, sums = jax.jit(jax.vmap(update, axis_name="data"))(rows)
    new = new.replace(key=jax.random.key_data(new.key))
    for leaf in jax.tree.leaves((new, sums)):
        np.testing.assert_allclose(leaf[0], leaf[-1], rtol=1e-6)
    return jax.tree.map(lambda leaf: leaf[0], (new, sums))


def test_model_state_is_averaged_by_weight_and_counters_are_the_largest():
    mask = np.array([1, 1, 1, 1, 1, 0, 0, 0], np.float32)
    new, sums = over_shards(STEP, mask)
    expected = (4 * X[:4].mean() + 1 * X[4:].mean()) / 5
    np.testing.assert_allclose(new.model_state["mean"], expected, rtol=1e-5)
    assert int(new.model_state["seen"]) == 5
    np.testing.assert_allclose(new.params, 1 - 0.1 * mask @ X / 5, rtol=1e-5)
    assert float(sums["loss"].weight) == 5.0


def test_a_shard_of_padding_has_no_say_in_the_model_state():
    new, _ = over_shards(STEP, np.repeat([0.0, 1.0], 4))
    np.testing.assert_allclose(new.model_state["mean"], X[4:].mean(), rtol=1e-5)


def test_one_real_row_or_half_of_one_is_enough_of_a_say():
    for weight in (1.0, 0.5):
        new, _ = over_shards(STEP, weight * np.eye(8)[6])
        np.testing.assert_allclose(new.model_state["mean"], X[4:].mean(), rtol=1e-5)
        np.testing.assert_allclose(new.params, 1 - 0.1 * X[6], rtol=1e-5)


def test_a_batch_of_padding_keeps_all_on_any_number_of_shards():
    padding = {"x": X, "mask": np.zeros(8, np.float32)}
    whole, _ = jax.jit(STEP.update)(STEP.init(jax.random.key(0), padding), padding)
    for new in (whole, over_shards(STEP, padding["mask"], 4)[0]):
        assert float(new.model_state["mean"]) == 5.0
        assert int(new.model_state["seen"]) == 1
        np.testing.assert_array_equal(new.params, np.ones(3))


def test_a_batch_of_padding_keeps_the_statistics_of_a_norm():
    class Normed(nn.Module):
        @nn.compact
        def __call__(self, x, *, train=False):
            return nn.Dense(1)(nn.BatchNorm(use_running_average=not train)(x))[:, 0]

    objective = jaxdl.supervised(Normed(), lambda out, y: out * y, inputs="x", targets="y")
    step = jaxdl.make_train_step(objective, optax.sgd(0.1))
    batch = {"x": X, "y": X[:, 0]}
    batch["mask"] = np.ones(8, np.float32)
    update = jax.jit(step.update)
    state, _ = update(jax.jit(step.init)(jax.random.key(0), batch), batch)
    new, _ = update(state, {**batch, "mask": np.zeros(8, np.float32)})
    jax.tree.map(np.testing.assert_array_equal, new.model_state, state.model_state)


def test_the_key_of_an_example_is_that_of_its_row_in_the_whole_batch():
    key = jax.random.key(3)
    whole = with_example_keys(key, {"x": X}, None)
    parts = jax.vmap(lambda x: with_example_keys(key, {"x": x}, "data"), axis_name="data")(
        X.reshape(4, 2, 3)
    )
    words = jax.random.key_data(whole[EXAMPLE_KEY])
    assert len({tuple(word) for word in words.tolist()}) == 8
    np.testing.assert_array_equal(words, jax.random.key_data(parts[EXAMPLE_KEY]).reshape(8, -1))
    np.testing.assert_array_equal(whole["x"], X)


def test_a_shard_draws_by_its_place():
    def drawing(params, model_state, batch, key, *, train):
        total, aux = loss(params, model_state, batch, key, train=train)
        return total, aux._replace(metrics={"drawn": jax.random.uniform(key)})

    step = jaxdl.make_train_step(OBJECTIVE._replace(loss=drawing), optax.sgd(0.1))
    _, sums = over_shards(step, np.ones(8), 4)
    of_step = jax.random.fold_in(jax.random.key(1), 0)
    drawn = [jax.random.uniform(jax.random.fold_in(of_step, shard)) for shard in range(4)]
    assert float(sums["drawn"]) == pytest.approx(float(sum(drawn)), rel=1e-6)


def test_estimators_that_sum_over_shards_themselves_say_so():
    assert crosses_shards(gradients.reproducible(shards=2)(OBJECTIVE))
    assert not crosses_shards(gradients.mean()(OBJECTIVE))


def test_an_optimizer_watches_no_loss_that_an_estimator_keeps_and_0_of_padding():
    seen = []

    def watch(grads, state, params=None, *, value, **extra):
        seen.append(float(value))
        return grads, state

    def without_loss(objective):
        def gradient(params, model_state, batch, key):
            grads, aux = gradients.mean()(objective)(params, model_state, batch, key)
            return grads, aux._replace(metrics={})

        return gradient

    watcher = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), watch)
    for gradient, given in ((without_loss, {}), (None, {"mask": np.zeros(8, np.float32)})):
        step = jaxdl.make_train_step(OBJECTIVE, watcher, gradient=gradient)
        step.update(step.init(jax.random.key(0), {"x": X}), {"x": X, **given})
    assert np.isnan(seen[0])
    assert seen[1] == 0.0


def test_numbers_of_python_in_the_first_state_are_arrays_of_a_fixed_type():
    """A weak type would be given back as another, and the step compiled twice."""
    optimizer = optax.GradientTransformation(
        lambda params: {"scale": jnp.asarray(1.0)},
        lambda grads, state, params=None: (grads, {"scale": state["scale"] * jnp.float32(2.0)}),
    )
    objective = Objective(
        lambda key, batch: (jnp.asarray(1.0), {}),
        lambda p, s, b, k, *, train: (jnp.sum(b["x"]) * p, Aux(8.0, s, {})),
    )
    step = jaxdl.make_train_step(objective, optimizer, ema_decay=0.5)
    state = step.init(jax.random.key(0), {"x": X})
    new, _ = step.update(state, {"x": X})
    for each in (state, new):
        leaves = jax.tree.leaves((each.params, each.opt_state, each.ema, each.step))
        assert not any(leaf.weak_type for leaf in leaves)
