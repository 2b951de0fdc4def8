"""Errors of real-valued predictions, and the share of variance they explain.

Reads from: errors, protocols, metrics.selection, metrics.sums. Used by: recipes, by choice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdl.errors import BatchError
from jaxdl.metrics.selection import counted, targets_of
from jaxdl.metrics.sums import quotient
from jaxdl.protocols import Batch, Mean, Metric

__all__ = ["mean_absolute_error", "mean_squared_error", "r2"]


class _Moments(NamedTuple):
    """Sums about a fixed origin: the residuals' squares, the targets, their squares, the weight."""

    residual: Any
    first: Any
    second: Any
    weight: Any


def mean_squared_error(*, target: str = "label") -> Metric:
    """The mean of squared errors over all entries.

    Args:
        target: the batch field of real targets, of the outputs' shape.
    """
    return _mean_error("mean_squared_error", jnp.square, target)


def mean_absolute_error(*, target: str = "label") -> Metric:
    """The mean of absolute errors over all entries.

    Args:
        target: the batch field of real targets, of the outputs' shape.
    """
    return _mean_error("mean_absolute_error", jnp.abs, target)


def r2(*, target: str = "label", origin: float = 0.0) -> Metric:
    r"""The coefficient of determination, :math:`1 - \sum (y - \hat y)^2 / \sum (y - \bar y)^2`.

    The denominator is read from additive moments about ``origin``. Its relative error is about
    :math:`10^{-7} (1 + (\bar y - o)^2 / \sigma^2)`: give an ``origin`` near the targets' mean
    when that is many standard deviations from 0.

    Args:
        target: the batch field of real targets, of the outputs' shape.
        origin: a rough mean of the targets, in their unit.

    Returns:
        A metric; where the targets do not vary it reports 1 for no error and 0 otherwise, as
        scikit-learn's ``r2_score``.
    """

    def measure(outputs: Any, batch: Batch) -> _Moments:
        predictions, targets, weights = _entries(outputs, batch, target)
        shifted = targets - origin
        return _Moments(
            jnp.sum(weights * jnp.square(predictions - targets)),
            jnp.sum(weights * shifted),
            jnp.sum(weights * jnp.square(shifted)),
            jnp.sum(weights),
        )

    def read(sums: _Moments) -> dict[str, float]:
        spread = float(sums.second) - float(quotient(sums.first, sums.weight)) * float(sums.first)
        if spread <= 0:
            return {"r2": 1.0 if float(sums.residual) == 0 else 0.0}
        return {"r2": 1.0 - float(sums.residual) / spread}

    return Metric(measure, read)


def _mean_error(name: str, error: Callable[[jax.Array], jax.Array], target: str) -> Metric:
    def measure(outputs: Any, batch: Batch) -> Mean:
        predictions, targets, weights = _entries(outputs, batch, target)
        return Mean(jnp.sum(weights * error(predictions - targets)), jnp.sum(weights))

    return Metric(measure, lambda sums: {name: float(quotient(*sums))})


def _entries(outputs: Any, batch: Batch, target: str) -> tuple[jax.Array, jax.Array, jax.Array]:
    targets = targets_of(batch, target).astype(jnp.float32)
    predictions = jnp.asarray(outputs).astype(jnp.float32)
    if predictions.shape == (*targets.shape, 1):
        predictions = predictions[..., 0]
    if predictions.shape != targets.shape:
        raise BatchError(
            f"outputs of shape {list(predictions.shape)}, targets of shape {list(targets.shape)}",
            expected="one shape (a last axis of length 1 in the outputs is dropped)",
            do="check target= and what the model returns",
        )
    weights = counted(batch, targets.shape).astype(jnp.float32)
    # A masked entry may hold anything, NaN too.
    zero = jnp.zeros_like(targets)
    keep = weights > 0
    return jnp.where(keep, predictions, zero), jnp.where(keep, targets, zero), weights
