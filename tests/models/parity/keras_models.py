"""A Keras model on JAX as pure functions, every variable of it random."""

from __future__ import annotations

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


def evaluated(model, images, loss):
    """``(logits, gradients of loss(logits) by path)``, as in evaluation."""

    @jax.jit
    def gradient(trained, others, x):
        def scalar(trained):
            logits = model.stateless_call(trained, others, x, training=False)[0]
            return loss(logits), logits

        return jax.grad(scalar, has_aux=True)(trained)

    given = values(model.trainable_variables), values(model.non_trainable_variables)
    with jax.numpy_rank_promotion("allow"):
        found, logits = gradient(*given, images)
    return logits, by_path(model.trainable_variables, found)


def trained(model, images):
    """``(logits, statistics by path)``, as in training."""

    @jax.jit
    def run(trained, others, x):
        return model.stateless_call(trained, others, x, training=True)

    given = values(model.trainable_variables), values(model.non_trainable_variables)
    with jax.numpy_rank_promotion("allow"):
        logits, others = run(*given, images)
    return logits, by_path(model.non_trainable_variables, others)


def our_evaluation(model, variables, images, loss):
    """``evaluated`` of ours: ``(logits, gradients)``."""

    @jax.jit
    def gradient(params):
        def scalar(params):
            logits = model.apply({**variables, "params": params}, images)
            return loss(logits), logits

        return jax.grad(scalar, has_aux=True)(params)

    found, logits = gradient(variables["params"])
    return logits, found


def difference(got, expected) -> float:
    """The largest difference relative to the largest value."""
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    assert got.shape == expected.shape
    return float(np.abs(got - expected).max() / np.abs(expected).max())


def worst(got, expected) -> float:
    """The largest ``difference`` of any leaf."""
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True)
    return max(difference(*pair) for pair in pairs)


def cross_entropy(labels):
    def loss(logits):
        return -jax.nn.log_softmax(logits)[jnp.arange(len(labels)), labels].mean()

    return loss
