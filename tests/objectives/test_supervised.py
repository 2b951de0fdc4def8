"""Objectives from modules and from mean losses: the contract, the mask, the errors."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxdl
from jaxdl.errors import BatchError, ObjectiveError
from jaxdl.objectives import from_mean, from_nnx, supervised


def squared(out, y):
    return (out[..., 0] - y) ** 2


def batch(rows: int = 6) -> dict[str, jax.Array]:
    keys = jax.random.split(jax.random.key(5))
    return {"x": jax.random.normal(keys[0], (rows, 3)), "y": jax.random.normal(keys[1], (rows,))}


FIELDS = {"inputs": "x", "targets": "y"}


class Flagged(nn.Module):
    """Takes both of the keywords that an objective may pass."""

    @nn.compact
    def __call__(self, x, *, train=False, mask=None):
        scale = self.param("scale", nn.initializers.ones, ())
        seen = self.variable("seen", "rows", lambda: jnp.zeros(()))
        if train:
            seen.value = seen.value + (x.shape[0] if mask is None else jnp.sum(mask))
        return scale * x


def test_train_mask_and_state_reach_the_module():
    objective = supervised(Flagged(), lambda out, y: jnp.sum(out, -1) - y, **FIELDS)
    params, state = objective.init(jax.random.key(0), batch())
    assert float(state["seen"]["rows"]) == 0.0
    mask = jnp.array([1.0, 1, 0, 0, 0, 0])
    _, aux = objective.loss(params, state, {**batch(), "mask": mask}, jax.random.key(1), train=True)
    assert float(aux.model_state["seen"]["rows"]) == 2.0
    assert float(aux.weight) == 2.0
    _, aux = objective.loss(params, state, batch(), jax.random.key(1), train=False)
    assert float(aux.model_state["seen"]["rows"]) == 0.0


def test_masked_rows_reach_neither_loss_nor_gradient():
    objective = supervised(nn.Dense(1), squared, **FIELDS)
    rows = batch()
    params, state = objective.init(jax.random.key(0), rows)
    poisoned = {**rows, "y": rows["y"].at[4:].set(1e6), "mask": jnp.array([1, 1, 1, 1, 0, 0])}
    short = jax.tree.map(lambda x: x[:4], rows)

    def loss(params, batch):
        return objective.loss(params, state, batch, jax.random.key(1), train=True)[0]

    expected = jax.value_and_grad(loss)(params, short)
    got = jax.value_and_grad(loss)(params, poisoned)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), got, expected)


def test_token_losses_are_weighted_by_tokens():
    objective = supervised(nn.Dense(1), squared, **FIELDS)
    rows = {"x": jnp.ones((2, 5, 3)), "y": jnp.zeros((2, 5))}
    params, state = objective.init(jax.random.key(0), rows)
    mask = jnp.array([[1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])
    _, aux = objective.loss(params, state, {**rows, "mask": mask}, jax.random.key(0), train=True)
    assert float(aux.weight) == 4.0


def test_missing_field_gets_a_did_you_mean():
    objective = supervised(nn.Dense(1), squared, inputs="x", targets="label")
    rows = {"x": jnp.ones((2, 3)), "labels": jnp.zeros((2,))}
    params, state = objective.init(jax.random.key(0), rows)
    with pytest.raises(BatchError, match=r"no field 'label'(.|\n)*did you mean 'labels'"):
        objective.loss(params, state, rows, jax.random.key(0), train=True)


@pytest.mark.usefixtures("untyped")
def test_batch_that_is_no_mapping():
    objective = supervised(nn.Dense(1), squared)
    with pytest.raises(BatchError, match="the batch is a tuple"):
        objective.init(jax.random.key(0), (jnp.ones((2, 3)),))


def test_mean_loss_is_refused():
    objective = supervised(nn.Dense(1), lambda out, y: jnp.mean(out), **FIELDS)
    params, state = objective.init(jax.random.key(0), batch())
    with pytest.raises(ObjectiveError, match="one number for the batch"):
        objective.loss(params, state, batch(), jax.random.key(0), train=True)


def test_mask_of_another_shape():
    objective = supervised(nn.Dense(1), squared, **FIELDS)
    params, state = objective.init(jax.random.key(0), batch())
    with pytest.raises(BatchError, match=r"mask has shape \[3\]"):
        objective.loss(
            params, state, {**batch(), "mask": jnp.ones(3)}, jax.random.key(0), train=True
        )


@pytest.mark.usefixtures("untyped")
def test_supervised_wants_a_linen_module():
    with pytest.raises(ObjectiveError, match="from_nnx"):
        supervised(nnx.Linear(3, 1, rngs=nnx.Rngs(0)), squared)


class NnxNet(nnx.Module):
    """BatchNorm, Dropout and a list of layers: every kind of state that NNX has."""

    def __init__(self, rngs: nnx.Rngs):
        self.first = nnx.Linear(3, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.rest = nnx.List([nnx.Linear(4, 1, rngs=rngs)])

    def __call__(self, x):
        return self.rest[0](self.dropout(self.norm(self.first(x))))


@pytest.mark.parametrize("built", [False, True])
def test_nnx_trains_like_any_other(built):
    model = NnxNet(nnx.Rngs(0)) if built else NnxNet
    objective = from_nnx(model, squared, **FIELDS)
    step = jaxdl.make_train_step(objective, optax.adam(1e-2))
    state = step.init(jax.random.key(0), batch())
    assert "first/kernel" in jaxdl.tree_paths.leaf_paths(state.params)
    update = jax.jit(step.update)
    first, _ = update(state, batch())
    again, _ = update(state, batch())
    jax.tree.map(np.testing.assert_array_equal, first.params, again.params)
    mean = state.model_state["norm"]["mean"]
    assert not np.array_equal(first.model_state["norm"]["mean"], mean)
    evaluate = jax.jit(jaxdl.make_eval_step(objective))
    before = jaxdl.report(jax.device_get(evaluate(state, batch())))["loss"]
    for _ in range(60):
        state, _ = update(state, batch())
    after = jaxdl.report(jax.device_get(evaluate(state, batch())))["loss"]
    assert after < 0.7 * before
    jax.tree.map(
        np.testing.assert_array_equal,
        evaluate(state, batch())["loss"],
        evaluate(state.replace(step=state.step + 1), batch())["loss"],
    )


def test_nnx_equals_linen_with_the_same_weights():
    linen = supervised(nn.Dense(1), squared, **FIELDS)
    params, state = linen.init(jax.random.key(3), batch())
    other = from_nnx(lambda rngs: nnx.Linear(3, 1, rngs=rngs), squared, **FIELDS)
    other.init(jax.random.key(0), batch())
    arguments = (params, state, batch(), jax.random.key(0))
    a, _ = linen.loss(*arguments, train=True)
    b, _ = other.loss(*arguments, train=True)
    np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.usefixtures("untyped")
def test_nnx_refuses_what_is_no_module():
    with pytest.raises(ObjectiveError, match="from_nnx got a int"):
        from_nnx(3, squared)


def test_mean_loss_adapted_is_the_same_step():
    """The mean of a loss, made a sum, gives the step that the per-example loss gives."""
    per_example = supervised(nn.Dense(1), squared, **FIELDS)

    def mean_loss(params, batch, key):
        out = nn.Dense(1).apply({"params": params}, batch["x"])
        loss = jnp.mean(squared(out, batch["y"]))
        return loss, {"copy": loss}

    adapted = from_mean(mean_loss, init=lambda key, batch: per_example.init(key, batch)[0])
    optimizer = optax.sgd(0.1)
    results = [
        step.update(step.init(jax.random.key(0), batch()), batch())
        for step in (jaxdl.make_train_step(o, optimizer) for o in (per_example, adapted))
    ]
    (a, a_sums), (b, b_sums) = results
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), a.params, b.params)
    report = jaxdl.report(jax.device_get(b_sums))
    assert report["copy"] == pytest.approx(report["loss"])
    assert float(a_sums["loss"].weight) == float(b_sums["loss"].weight) == 6.0


def test_mean_loss_and_masks():
    masked_batch = {**batch(), "mask": jnp.array([1.0, 1, 1, 1, 0, 0])}
    blind = from_mean(lambda p, b: jnp.mean((p - b["y"]) ** 2))
    with pytest.raises(BatchError, match="a mean loss cannot see"):
        blind.loss(jnp.zeros(()), {}, masked_batch, None, train=True)
    sees = from_mean(lambda p, b: jnp.mean((p - b["y"]) ** 2, where=b["mask"] > 0), masked=True)
    total, aux = sees.loss(jnp.zeros(()), {}, masked_batch, None, train=True)
    np.testing.assert_allclose(total, jnp.sum(batch()["y"][:4] ** 2), rtol=1e-6)
    assert float(aux.weight) == 4.0


def test_mean_loss_without_init_and_without_mean():
    objective = from_mean(lambda p, b: b["y"])
    with pytest.raises(ObjectiveError, match="from_mean was given no init"):
        objective.init(jax.random.key(0), batch())
    with pytest.raises(ObjectiveError, match=r"returned shape \[6\]"):
        objective.loss(None, {}, batch(), None, train=True)
