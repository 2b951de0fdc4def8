"""A loss made of pairs of rows is not cut into parts, under whatever is wrapped around it."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdl
from jaxdl import gradients, objectives
from jaxdl.errors import ObjectiveError
from jaxdl.protocols import Aux, Objective

BATCH = {"image": np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32)}
HALVES = {
    "accumulate": gradients.accumulate(2),
    "reproducible": gradients.reproducible(shards=2),
    "scaled": gradients.scaled(gradients.accumulate(2), scale=1.0),
}


def noisy(key, image):
    return image + 0.1 * jax.random.normal(key, image.shape, image.dtype)


def contrastive(precision: str | None = None) -> Objective:
    made = objectives.contrastive(nn.Dense(3), noisy)
    return made if precision is None else objectives.with_precision(made, precision)


@pytest.mark.parametrize("gradient", HALVES)
@pytest.mark.parametrize("precision", [None, "bf16"])
def test_pairs_are_not_cut(gradient, precision):
    with pytest.raises(ObjectiveError, match="into 2 parts") as error:
        step = jaxdl.make_train_step(
            contrastive(precision), optax.sgd(0.1), gradient=HALVES[gradient]
        )
        jax.eval_shape(lambda key: step.update(step.init(key, BATCH), BATCH), jax.random.key(0))
    assert "gradients.mean()" in error.value.expected
    assert "objective._replace(mixes_rows=False)" in error.value.do


def squared_sum(params, model_state, batch, key, *, train):
    del key, train
    return (params * jnp.sum(batch["x"])) ** 2, Aux(4.0, model_state, {})


def test_one_part_is_the_batch_and_what_is_asked_for_by_name_is_cut():
    objective = Objective(None, squared_sum, mixes_rows=True)
    given = jnp.ones(()), {}, {"x": jnp.arange(1.0, 5.0)}, jax.random.key(0)
    assert float(gradients.accumulate(1)(objective)(*given)[0]) == 2 * 10**2
    cut = gradients.accumulate(2)(objective._replace(mixes_rows=False))
    assert float(cut(*given)[0]) == 2 * ((1 + 3) ** 2 + (2 + 4) ** 2)
    assert not Objective(None, squared_sum).mixes_rows
