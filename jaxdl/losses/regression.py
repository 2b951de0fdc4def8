"""Losses of real-valued predictions, one value an example.

Reads from: errors, losses.shapes. Used by: objectives, by choice.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxdl.losses.shapes import check_same_shape

__all__ = ["huber", "mean_absolute_error", "mean_squared_error"]


def mean_squared_error(predictions: Any, targets: Any) -> jax.Array:
    r"""Squared error, averaged over the features of each example.

    .. math:: \ell_b = \frac{1}{D} \sum_d (\hat y_{bd} - y_{bd})^2

    Args:
        predictions: shape ``[B]`` or ``[B, ...]``.
        targets: the same shape.

    Returns:
        Shape ``[B]``.

    Raises:
        BatchError: the shapes differ.

    Examples:
        >>> mean_squared_error(jnp.array([[1.0, 3.0]]), jnp.array([[0.0, 0.0]])).tolist()
        [5.0]
    """
    check_same_shape(predictions, targets, "mean_squared_error")
    return _over_features(optax.losses.squared_error(_real(predictions), _real(targets)))


def mean_absolute_error(predictions: Any, targets: Any) -> jax.Array:
    """Absolute error, averaged over the features of each example.

    Args:
        predictions: shape ``[B]`` or ``[B, ...]``.
        targets: the same shape.

    Returns:
        Shape ``[B]``.

    Raises:
        BatchError: the shapes differ.
    """
    check_same_shape(predictions, targets, "mean_absolute_error")
    return _over_features(jnp.abs(_real(predictions) - _real(targets)))


def huber(predictions: Any, targets: Any, *, delta: float = 1.0) -> jax.Array:
    """Huber's loss, averaged over features: squared within ``delta``, linear beyond.

    Source: Huber 1964, "Robust estimation of a location parameter".

    Args:
        predictions: shape ``[B]`` or ``[B, ...]``.
        targets: the same shape.
        delta: where the loss turns linear, in the targets' unit.

    Returns:
        Shape ``[B]``; half the squared error where it is small.

    Raises:
        BatchError: the shapes differ.
    """
    check_same_shape(predictions, targets, "huber")
    return _over_features(optax.losses.huber_loss(_real(predictions), _real(targets), delta=delta))


def _real(x: Any) -> jax.Array:
    x = jnp.asarray(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _over_features(values: jax.Array) -> jax.Array:
    return jnp.mean(values, axis=tuple(range(1, values.ndim)))
