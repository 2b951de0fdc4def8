"""The model's state under ``reproducible``: its types stay, and what changed it is named."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdl
from jaxdl import gradients
from jaxdl.errors import ObjectiveError
from jaxdl.protocols import Aux, Objective

BATCH = {"x": np.arange(8, dtype=np.float32)}


def step_with(state_of, old):
    def loss(params, model_state, batch, key, *, train):
        return params * jnp.sum(batch["x"]), Aux(jnp.float32(len(batch["x"])), state_of(batch), {})

    objective = Objective(lambda key, batch: (jnp.ones(()), old), loss)
    step = jaxdl.make_train_step(
        objective, optax.sgd(0.1), gradient=gradients.reproducible(shards=2)
    )
    return jax.jit(step.update)(step.init(jax.random.key(0), BATCH), BATCH)[0]


def test_a_half_precision_state_is_averaged_wide_and_stays_half():
    old = {"mean": jnp.zeros((), jnp.bfloat16), "count": jnp.int32(0)}
    new = step_with(
        lambda batch: {
            "mean": jnp.mean(batch["x"]).astype(jnp.bfloat16),
            "count": jnp.max(batch["x"]).astype(jnp.int32),
        },
        old,
    ).model_state
    assert (new["mean"].dtype, float(new["mean"])) == (jnp.bfloat16, 3.5)
    assert (new["count"].dtype, int(new["count"])) == (jnp.int32, 7)


def test_a_state_of_another_structure_is_named_by_the_step():
    with pytest.raises(ObjectiveError, match="changed the structure of the train state"):
        step_with(
            lambda batch: {"mean": jnp.zeros(()), "more": jnp.zeros(())}, {"mean": jnp.zeros(())}
        )
