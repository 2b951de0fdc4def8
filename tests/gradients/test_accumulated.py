"""Microbatches: which rows they take, what they carry on, and how they are added."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import gradients
from jaxdl.errors import BatchError
from jaxdl.protocols import Aux, Mean, Objective

X = np.arange(8, dtype=np.float32)


def differentiated(loss, batch, microbatches, *, params=None, model_state=None, **options):
    gradient = gradients.accumulate(microbatches)(Objective(None, loss))
    params = jnp.ones(()) if params is None else params
    return gradient(params, model_state or {}, batch, jax.random.key(0), **options)


def test_rows_keys_and_state_of_each_microbatch_in_turn():
    def loss(params, model_state, batch, key, *, train):
        assert train
        place = model_state["turn"]
        state = {
            "turn": place + 1,
            "rows": model_state["rows"].at[place].set(batch["x"]),
            "drawn": model_state["drawn"].at[place].set(jax.random.uniform(key)),
        }
        return jnp.sum(batch["x"]) * params, Aux(2.0, state, {"x": Mean(jnp.sum(batch["x"]), 2.0)})

    empty = {"turn": jnp.int32(0), "rows": jnp.zeros((4, 2)), "drawn": jnp.zeros(4)}
    grads, aux = differentiated(loss, {"x": X}, 4, model_state=empty)
    assert float(grads) == X.sum()
    assert float(aux.weight) == 8.0
    assert (float(aux.metrics["x"].total), float(aux.metrics["x"].weight)) == (X.sum(), 8.0)
    assert int(aux.model_state["turn"]) == 4
    np.testing.assert_array_equal(aux.model_state["rows"], X.reshape(2, 4).T)
    keys = [jax.random.fold_in(jax.random.key(0), index) for index in range(4)]
    np.testing.assert_array_equal(
        aux.model_state["drawn"], np.array([jax.random.uniform(key) for key in keys])
    )


def test_the_divisor_is_asked_once_for_the_whole_weight():
    def loss(params, model_state, batch, key, *, train):
        weight = jnp.sum(batch["mask"])
        return params * jnp.sum(batch["x"] * batch["mask"]), Aux(weight, model_state, {})

    mask = (X < 5).astype(np.float32)
    grads, aux = differentiated(loss, {"x": X, "mask": mask}, 2, divisor=lambda weight: 3 * weight)
    assert float(aux.weight) == 5.0
    assert float(grads) == pytest.approx((X * mask).sum() / 15)


def test_half_precision_is_added_in_float32():
    def loss(params, model_state, batch, key, *, train):
        return jnp.sum(params * batch["x"]), Aux(1.0, model_state, {})

    batch = {"x": np.ones((512, 1), jnp.bfloat16)}
    grads, _ = differentiated(loss, batch, 512, params=jnp.ones((), jnp.bfloat16))
    assert grads.dtype == jnp.bfloat16
    assert float(grads) == 512.0, "a sum in bfloat16 stays at 256"


def test_a_microbatch_of_padding_makes_no_nan_of_the_state():
    def loss(params, model_state, batch, key, *, train):
        weight = jnp.sum(batch["mask"])
        state = {
            "mean": jnp.sum(batch["mask"] * batch["x"]) / weight,
            "sum": model_state["sum"] + jnp.sum(batch["mask"] * batch["x"]),
            "turns": model_state["turns"] + 1,
        }
        return params * jnp.sum(batch["mask"] * batch["x"]), Aux(weight, state, {})

    old = {"mean": jnp.float32(9.0), "sum": jnp.zeros(()), "turns": jnp.int32(0)}
    for padded, mean, count in (
        (1, X[::2].mean(), X[::2].sum()),
        (0, X[1::2].mean(), X[1::2].sum()),
    ):
        mask = (np.arange(8) % 2 != padded).astype(np.float32)
        _, aux = differentiated(loss, {"x": X, "mask": mask}, 2, model_state=old)
        assert float(aux.model_state["mean"]) == mean
        assert float(aux.model_state["sum"]) == count
        assert int(aux.model_state["turns"]) == 2
        assert aux.model_state["turns"].dtype == jnp.int32


def test_a_state_that_is_not_finite_is_the_models_own_where_rows_count():
    def loss(params, model_state, batch, key, *, train):
        return params * jnp.sum(batch["x"]), Aux(jnp.float32(4.0), {"m": jnp.float32(np.inf)}, {})

    _, aux = differentiated(loss, {"x": X}, 2, model_state={"m": jnp.float32(1.0)})
    assert np.isinf(aux.model_state["m"])


def test_rows_that_do_not_divide_are_told_the_nearest_sizes():
    def loss(params, model_state, batch, key, *, train):
        return params * jnp.sum(batch["x"]), Aux(1.0, model_state, {})

    with pytest.raises(BatchError, match="8 rows .* into 3 microbatches") as caught:
        differentiated(loss, {"x": X}, 3)
    assert "multiple of 3, such as 6 or 9" in caught.value.expected
