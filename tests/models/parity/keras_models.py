"""A Keras model on JAX as pure functions, every variable of it random."""

from __future__ import annotations

import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

os.environ.setdefault("KERAS_BACKEND", "jax")


def keras():
    """The package, on JAX; the test is left out where it is not installed."""
    module = pytest.importorskip("keras", reason="requirements-parity.txt installs Keras")
    if module.backend.backend() != "jax":
        pytest.skip("Keras was imported with another backend")
    return module


def randomised(model):
    """The same model with random variables, variances and scales around 1."""
    rng = np.random.default_rng(2)
    for variable in model.variables:
        name, shape = variable.path.rsplit("/", 1)[1], tuple(variable.shape)
        if name == "kernel":
            # Each sum has deviation near 1, so that nothing dies or explodes on the way.
            value = rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[:-1]))
        elif name in ("gamma", "moving_variance"):
            value = rng.uniform(0.6, 1.5, shape)
        else:
            value = 0.2 * rng.normal(size=shape)
        variable.assign(value.astype(variable.dtype))
    return model


def values(variables):
    return [jnp.asarray(variable.value) for variable in variables]


def by_path(variables, arrays):
    """Arrays by layer and variable: ``{"conv1_bn/gamma": ...}``."""
    paths = ["/".join(variable.path.rsplit("/", 2)[-2:]) for variable in variables]
    assert len(set(paths)) == len(paths)
    return dict(zip(paths, arrays, strict=True))


def call(model, images, *, train: bool):
    """``(logits, statistics by path)``."""

    @functools.partial(jax.jit, static_argnames="train")
    def run(trained, others, x, *, train):
        return model.stateless_call(trained, others, x, training=train)

    given = values(model.trainable_variables), values(model.non_trainable_variables)
    with jax.numpy_rank_promotion("allow"):
        logits, others = run(*given, images, train=train)
    return logits, by_path(model.non_trainable_variables, others)


def gradients(model, images, loss, *, train: bool = True):
    """Of ``loss(logits)``, by path."""

    @jax.jit
    def gradient(trained, others, x):
        def scalar(trained):
            return loss(model.stateless_call(trained, others, x, training=train)[0])

        return jax.grad(scalar)(trained)

    given = values(model.trainable_variables), values(model.non_trainable_variables)
    with jax.numpy_rank_promotion("allow"):
        return by_path(model.trainable_variables, gradient(*given, images))


def difference(got, expected) -> float:
    """The largest difference relative to the largest value."""
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    assert got.shape == expected.shape
    return float(np.abs(got - expected).max() / np.abs(expected).max())


def apart(got, expected) -> float:
    """The norm of the difference of two trees relative to the norm of the second."""
    pairs = list(zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True))
    error = sum(float(np.sum(np.square(np.asarray(a) - np.asarray(b)))) for a, b in pairs)
    size = sum(float(np.sum(np.square(np.asarray(b)))) for _, b in pairs)
    return float(np.sqrt(error / size))


def cross_entropy(labels):
    def loss(logits):
        return -jax.nn.log_softmax(logits)[jnp.arange(len(labels)), labels].mean()

    return loss
