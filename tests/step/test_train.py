"""The pure step: what it computes, what it keeps, and what it refuses."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdl
from jaxdl import gradients
from jaxdl.errors import ObjectiveError, PathError
from jaxdl.protocols import EXAMPLE_KEY, Aux, Mean, Objective

ROWS = 8


def batch(rows: int = ROWS) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(rows)
    return {
        "x": rng.normal(size=(rows, 3)).astype(np.float32),
        "y": rng.normal(size=(rows,)).astype(np.float32),
    }


def squared_error(params, batch):
    return (batch["x"] @ params["w"] + params["b"] - batch["y"]) ** 2


def linear() -> Objective:
    """Least squares by hand, with a mask."""

    def init(key, batch):
        return {"w": jax.random.normal(key, (batch["x"].shape[1],)), "b": jnp.zeros(())}, {}

    def loss(params, model_state, batch, key, *, train):
        each = squared_error(params, batch)
        total, weight = jaxdl.reductions.masked_sum(each, batch.get("mask"))
        return total, Aux(weight, model_state, {"error": Mean(total, weight)})

    return Objective(init, loss)


def test_update_is_sgd_on_the_mean_loss():
    step = jaxdl.make_train_step(linear(), optax.sgd(0.1))
    state = step.init(jax.random.key(0), batch())
    new, sums = step.update(state, batch())
    grads = jax.grad(lambda p: jnp.mean(squared_error(p, batch())))(state.params)
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, state.params, grads)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), new.params, expected)
    mean = float(jnp.mean(squared_error(state.params, batch())))
    report = jaxdl.report(jax.device_get(sums))
    assert report["loss"] == pytest.approx(mean, rel=1e-6)
    assert report["error"] == report["loss"]
    assert int(new.step) == 1


def test_batch_of_padding_changes_nothing():
    step = jaxdl.make_train_step(linear(), optax.sgd(0.1, momentum=0.9))
    state = step.init(jax.random.key(0), batch())
    new, sums = step.update(state, {**batch(), "mask": np.zeros(ROWS, np.float32)})
    jax.tree.map(np.testing.assert_array_equal, new.params, state.params)
    assert float(sums["loss"].weight) == 0.0


def test_gradient_by_the_plain_contract_is_divided_by_the_step():
    """An estimator that knows nothing of ``divisor`` returns sums, as the contract says."""

    def estimator(objective):
        def gradient(params, model_state, batch, key):
            grads, aux = jax.grad(
                lambda p: objective.loss(p, model_state, batch, key, train=True), has_aux=True
            )(params)
            return grads, aux

        return gradient

    plain = jaxdl.make_train_step(linear(), optax.sgd(0.1), gradient=estimator)
    ours = jaxdl.make_train_step(linear(), optax.sgd(0.1))
    state = ours.init(jax.random.key(0), batch())
    a, sums = plain.update(state, batch())
    b, _ = ours.update(state, batch())
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), a.params, b.params)
    assert float(sums["loss"].weight) == ROWS


def test_ema_follows_the_new_parameters():
    step = jaxdl.make_train_step(linear(), optax.sgd(0.1), ema_decay=0.75)
    state = step.init(jax.random.key(0), batch())
    jax.tree.map(np.testing.assert_array_equal, state.ema, state.params)
    expected = state.params
    for _ in range(3):
        state, _ = step.update(state, batch())
        expected = jax.tree.map(lambda e, p: 0.75 * e + 0.25 * p, expected, state.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), state.ema, expected)


@pytest.mark.parametrize("poison", ["x", "y"])
def test_skip_keeps_the_state_and_counts(poison):
    step = jaxdl.make_train_step(linear(), optax.adam(0.1), ema_decay=0.9, nonfinite="skip")
    state = step.init(jax.random.key(0), batch())
    state, good = step.update(state, batch())
    bad = batch()
    bad[poison] = bad[poison].copy()
    bad[poison][0] = np.inf
    new, sums = step.update(state, bad)
    for name in ("params", "opt_state", "model_state", "ema"):
        jax.tree.map(np.testing.assert_array_equal, getattr(new, name), getattr(state, name))
    assert int(new.step) == 2
    assert (int(good["skipped"]), int(sums["skipped"])) == (0, 1)
    assert float(sums["loss"].weight) == 0.0
    report = jaxdl.report(jax.device_get(jax.tree.map(jnp.add, good, sums)))
    assert np.isfinite(report["loss"])


def test_propagate_lets_a_bad_gradient_through():
    step = jaxdl.make_train_step(linear(), optax.sgd(0.1))
    state = step.init(jax.random.key(0), batch())
    bad = batch()
    bad["y"] = np.full_like(bad["y"], np.nan)
    new, sums = step.update(state, bad)
    assert np.isnan(new.params["b"])
    assert "skipped" not in sums


def test_frozen_leaves_have_no_gradient_and_no_optimizer_state():
    seen = []

    def spy(grads, state, params=None):
        seen.append(grads)
        return jax.tree.map(lambda g: -0.1 * g, grads), state

    optimizer = optax.chain(
        optax.GradientTransformation(lambda params: optax.EmptyState(), spy), optax.adam(0.1)
    )
    step = jaxdl.make_train_step(linear(), optimizer, freeze="^b$", ema_decay=0.5)
    state = step.init(jax.random.key(0), batch())
    assert sorted(jaxdl.tree_paths.leaf_paths(state.opt_state)) == [
        "1/0/count",
        "1/0/mu/w",
        "1/0/nu/w",
    ]
    new, _ = step.update(state, batch())
    np.testing.assert_array_equal(new.params["b"], state.params["b"])
    assert not np.array_equal(new.params["w"], state.params["w"])
    assert seen[0]["b"] is None


def test_an_optimizer_may_watch_the_mean_loss():
    seen = []

    def watch(grads, state, params=None, *, value, **extra):
        seen.append(value)
        return grads, state

    watcher = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), watch)
    step = jaxdl.make_train_step(linear(), optax.chain(watcher, optax.sgd(0.1)))
    state = step.init(jax.random.key(0), batch())
    _, sums = step.update(state, batch())
    assert float(seen[0]) == pytest.approx(jaxdl.report(jax.device_get(sums))["loss"])


def test_frozen_pattern_that_finds_nothing():
    step = jaxdl.make_train_step(linear(), optax.sgd(0.1), freeze="^bias$")
    with pytest.raises(PathError, match="matches no parameter"):
        step.init(jax.random.key(0), batch())


class WithStatistics(nn.Module):
    """One dense layer behind a BatchNorm and a Dropout of Flax."""

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.BatchNorm(use_running_average=not train, momentum=0.5)(x)
        x = nn.Dropout(0.5, deterministic=not train)(x)
        return nn.Dense(1)(x)[:, 0]


def with_statistics() -> Objective:
    return jaxdl.supervised(
        WithStatistics(), lambda out, y: (out - y) ** 2, inputs="x", targets="y"
    )


def test_model_state_is_updated_in_training_only():
    step = jaxdl.make_train_step(with_statistics(), optax.sgd(0.1))
    state = step.init(jax.random.key(0), batch())
    new, _ = step.update(state, batch())
    stats = new.model_state["batch_stats"]["BatchNorm_0"]
    np.testing.assert_allclose(stats["mean"], 0.5 * batch()["x"].mean(0), rtol=1e-5)
    sums = jaxdl.make_eval_step(with_statistics())(new, batch())
    assert set(sums) == {"loss"}


def test_randomness_is_a_function_of_key_and_step():
    step = jaxdl.make_train_step(with_statistics(), optax.set_to_zero())
    state = step.init(jax.random.key(0), batch())

    def loss_at(index, key=state.key):
        _, sums = step.update(state.replace(step=jnp.asarray(index), key=key), batch())
        return float(sums["loss"].total)

    assert loss_at(3) == loss_at(3)
    assert loss_at(3) != loss_at(4)
    assert loss_at(3) != loss_at(3, jax.random.key(9))


def test_dropout_keeps_the_expectation_and_differs_by_example():
    class Only(nn.Module):
        @nn.compact
        def __call__(self, x, *, train=False):
            self.param("unused", nn.initializers.zeros, (1,))
            first = nn.Dropout(0.25, deterministic=not train)(x)
            return first, nn.Dropout(0.25, deterministic=not train)(x)

    objective = jaxdl.supervised(
        Only(), lambda out, y: jnp.sum(out[0], -1) * 0, inputs="x", targets="y"
    )
    rows = {"x": jnp.ones((64, 256)), "y": jnp.zeros((64,))}
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(1), jnp.arange(64))
    params, state = objective.init(jax.random.key(0), rows)
    _, aux = objective.loss(
        params, state, {**rows, EXAMPLE_KEY: keys}, jax.random.key(2), train=True
    )
    first, second = map(np.asarray, aux.outputs)
    assert set(np.unique(first)) <= {0.0, np.float32(1 / 0.75)}
    assert first.mean() == pytest.approx(1.0, abs=0.02)
    assert not np.array_equal(first[0], first[1]), "two examples share a mask"
    assert not np.array_equal(first, second), "two layers share a mask"


def test_hand_written_objective_with_a_batch_that_is_no_mapping():
    def loss(params, model_state, batch, key, *, train):
        x, y = batch
        return jnp.sum((x @ params - y) ** 2), Aux(len(y), model_state, {})

    objective = Objective(lambda key, batch: (jnp.zeros((3,)), {}), loss)
    step = jaxdl.make_train_step(objective, optax.sgd(0.1))
    rows = (batch()["x"], batch()["y"])
    state, sums = step.update(step.init(jax.random.key(0), rows), rows)
    assert float(sums["loss"].weight) == ROWS
    assert np.all(np.isfinite(state.params))


def test_update_that_changes_the_state_is_named():
    def loss(params, model_state, batch, key, *, train):
        return jnp.sum(batch["x"]) * params, Aux(1.0, {"seen": jnp.zeros((2,))}, {})

    objective = Objective(lambda k, b: (jnp.ones(()), {"seen": jnp.zeros((3,))}), loss)
    step = jaxdl.make_train_step(objective, optax.sgd(0.1))
    with pytest.raises(ObjectiveError, match=r"model_state/seen: float32\[3\] became float32\[2\]"):
        jax.eval_shape(step.update, step.init(jax.random.key(0), batch()), batch())


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": len}, "as objective"),
        ({"optimizer": 0.1}, "as optimizer"),
        ({"ema_decay": 1.5}, "ema_decay is 1.5"),
        ({"nonfinite": "ignore"}, "nonfinite is 'ignore'"),
    ],
)
def test_wrong_options_are_refused(options, message):
    given = {"objective": linear(), "optimizer": optax.sgd(0.1), **options}
    with pytest.raises(ObjectiveError, match=message):
        jaxdl.make_train_step(given.pop("objective"), given.pop("optimizer"), **given)


def test_microbatches_weighted_by_real_examples():
    """Unequal microbatches: the gradient of the union, not the mean of means."""
    mask = np.array([1, 1, 1, 0, 1, 0, 0, 0], np.float32)
    rows = {**batch(), "mask": mask}
    whole = jaxdl.make_train_step(linear(), optax.sgd(0.1))
    parts = jaxdl.make_train_step(linear(), optax.sgd(0.1), gradient=gradients.accumulate(4))
    state = whole.init(jax.random.key(0), rows)
    a, whole_sums = whole.update(state, rows)
    b, parts_sums = parts.update(state, rows)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), a.params, b.params)
    np.testing.assert_allclose(parts_sums["loss"].total, whole_sums["loss"].total, rtol=1e-6)
    assert float(parts_sums["loss"].weight) == 4.0


def test_microbatches_that_do_not_divide():
    step = jaxdl.make_train_step(linear(), optax.sgd(0.1), gradient=gradients.accumulate(3))
    with pytest.raises(jaxdl.errors.BatchError, match="8 rows .* into 3 microbatches"):
        step.update(step.init(jax.random.key(0), batch()), batch())


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize("count", [0, -1, 2.0])
def test_accumulate_refuses(count):
    with pytest.raises(ObjectiveError, match="positive number"):
        gradients.accumulate(count)
