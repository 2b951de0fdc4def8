"""Small steps and the shapes of their batches, for tests of the planner."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

import jaxdl
from jaxdl import losses, models
from jaxdl.objectives import language_model


def like(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def mlp(sizes=(64, 8), **options):
    objective = jaxdl.supervised(models.MLP(sizes), losses.softmax_cross_entropy, inputs="x")
    return jaxdl.make_train_step(objective, optax.adam(1e-3), **options)


def rows(count, features=32):
    return {"x": like(count, features), "label": like(count, dtype=jnp.int32)}


def gpt(**options):
    sizes = {"vocab_size": 256, "num_layers": 3, "num_heads": 4, "hidden_dim": 64}
    model = models.GPT(**{**sizes, "max_length": 32, **options})
    return jaxdl.make_train_step(language_model(model), optax.adamw(1e-3))


def tokens(count, length=32):
    return {"tokens": like(count, length + 1, dtype=jnp.int32)}
