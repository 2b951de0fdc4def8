"""Errors of real-valued predictions, and the share of variance they explain.

Reads from: errors, protocols, metrics.selection, metrics.sums. Used by: recipes, by choice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from jaxdl.errors import BatchError
from jaxdl.metrics.selection import counted, targets_of
from jaxdl.metrics.sums import quotient
from jaxdl.protocols import Batch, Mean, Metric

__all__ = ["explained_variance", "mean_absolute_error", "mean_squared_error", "r2"]


class _Spread(NamedTuple):
    """Sums of which the variance of many batches is read, however far the values are from 0.

    A batch is measured about a centre near its own mean, of two parts of 8 bits. What centre and
    sums make together is kept by parts too (last axis), so that each product is exact in float32.
    """

    weight: Any
    first: Any
    second: Any
    near: Any


class _Explained(NamedTuple):
    """Of the targets, and of what the predictions leave of them."""

    targets: _Spread
    errors: _Spread
    squares: Any
    rows: Any


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


def r2(*, target: str = "label", origin: float = 0.0, by_column: bool = False) -> Metric:
    r"""The coefficient of determination, :math:`1 - \sum (y - \hat y)^2 / \sum (y - \bar y)^2`.

    The denominator is read from additive moments, each batch's about its own mean. On one device or
    a mesh its relative error is about :math:`10^{-7}`, however far the targets are from 0. Where
    shards are summed apart (``pmap``) it is about :math:`10^{-7} (1 + (d / \sigma)^2)`, with
    :math:`d` the distance of the mean from ``origin``. Squares must fit into float32.

    Args:
        target: the batch field of real targets, of the outputs' shape.
        origin: a rough mean of the targets, in their unit.
        by_column: measure each entry of the last axis by itself and report the mean over them, as
            scikit-learn's ``r2_score`` does for targets ``[B, D]``. Otherwise all entries are one
            set of numbers.

    Returns:
        A metric; where the targets do not vary it reports 1 for no error and 0 otherwise, and NaN
        for fewer than two entries, as scikit-learn's ``r2_score``.
    """

    def read(sums: _Explained) -> dict[str, float]:
        values = _explained(np.asarray(sums.squares, np.float64), sums.targets)
        few = np.asarray(sums.rows) < 2
        return {"r2": float(np.mean(np.where(few, np.nan, values)))}

    return Metric(_measured(target, origin, by_column=by_column), read)


def explained_variance(
    *, target: str = "label", origin: float = 0.0, by_column: bool = False
) -> Metric:
    r"""The share of variance explained, :math:`1 - Var(y - \hat y) / Var(y)`: ``r2`` without bias.

    Args:
        target: as ``r2``.
        origin: as ``r2``.
        by_column: as ``r2``.

    Returns:
        A metric; where the targets do not vary it reports 1 if the errors do not either and 0
        otherwise, as scikit-learn's ``explained_variance_score``.
    """

    def read(sums: _Explained) -> dict[str, float]:
        left = _variation(sums.errors)
        values = _explained(left, sums.targets)
        empty = np.asarray(sums.rows) < 1
        return {"explained_variance": float(np.mean(np.where(empty, np.nan, values)))}

    return Metric(_measured(target, origin, by_column=by_column), read)


def _measured(target: str, origin: float, *, by_column: bool) -> Callable[[Any, Batch], _Explained]:
    def measure(outputs: Any, batch: Batch) -> _Explained:
        predictions, targets, weights = _entries(outputs, batch, target)
        columns = targets.shape[-1] if by_column and targets.ndim > 1 else 1
        y, e, w = (x.reshape(-1, columns) for x in (targets, targets - predictions, weights))
        return _Explained(
            _spread(y - origin, w),
            _spread(e, w),
            jnp.sum(w * jnp.square(e), axis=0),
            jnp.sum((w > 0).astype(jnp.int32), axis=0),
        )

    return measure


def _spread(values: jax.Array, weights: jax.Array) -> _Spread:
    """Of columns ``[N, C]``."""
    weight = jnp.sum(weights, axis=0)
    some = jnp.where(weight > 0, weight, jnp.ones_like(weight))
    centres = jnp.zeros((2, *weight.shape))
    for i in range(2):
        centre = _rounded(jnp.sum(weights * values, axis=0) / some)
        values, centres = values - centre[None], centres.at[i].set(centre)
    # The last mean, so that rounding in the first ones does not look like variance.
    rest = jnp.sum(weights * values, axis=0) / some
    left = values - rest[None]
    sum_left = jnp.sum(weights * left, axis=0)
    first = weight * rest + sum_left
    near = jnp.sum(weights * jnp.square(left), axis=0) + rest * (sum_left + first)
    c, d = (centre[:, None] for centre in centres)
    weight_parts, first_parts = _parts(weight), _parts(first)
    centred = jnp.concatenate([weight_parts * c, weight_parts * d, first[:, None]], axis=1)
    squares = [weight_parts * product for product in (c * c, 2 * c * d, d * d)]
    crossed = [2 * c * first_parts, 2 * d * first_parts, near[:, None]]
    return _Spread(weight, centred, jnp.concatenate([*squares, *crossed], axis=1), near)


def _rounded(x: jax.Array) -> jax.Array:
    """The first 8 bits of float32 numbers, so that products of three of them are exact."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32) & jnp.uint32(0xFFFF0000)
    return jax.lax.bitcast_convert_type(bits, jnp.float32)


def _parts(x: jax.Array) -> jax.Array:
    """``[C]`` as ``[C, 3]`` of 8 bits each, which add up to it."""
    high = _rounded(x)
    middle = _rounded(x - high)
    return jnp.stack([high, middle, x - high - middle], axis=1)


def _variation(spread: _Spread) -> npt.NDArray[np.float64]:
    """The sum of squares about the mean ``[C]``; 0 where it is no more than rounding."""
    weight, first, second, near = (np.asarray(x, np.float64) for x in spread)
    of_mean = quotient(np.square(first.sum(-1)), weight, 0.0)
    found = second.sum(-1) - of_mean
    return np.where(found <= 1e-6 * near + 1e-13 * of_mean, 0.0, found)


def _explained(left: npt.NDArray[np.float64], targets: _Spread) -> npt.NDArray[np.float64]:
    whole = _variation(targets)
    constant = np.where(left == 0, 1.0, 0.0)
    return np.where(whole > 0, 1.0 - quotient(left, whole, 0.0), constant)


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
