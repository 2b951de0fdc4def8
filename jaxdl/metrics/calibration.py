"""How far scores can be trusted: ranking (AUROC) and confidence (calibration), by histogram.

Histograms are additive where sorted lists are not; the price is a stated error.

Reads from: errors, protocols, metrics.selection, metrics.sums. Used by: recipes, by choice.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.errors import BatchError, ConfigError
from jaxdl.metrics.selection import counted, targets_of
from jaxdl.metrics.sums import quotient
from jaxdl.protocols import Batch, Metric

__all__ = ["auroc", "expected_calibration_error"]


class _Ranks(NamedTuple):
    """Counts by class and score bin, shape ``[C, bins]``."""

    positive: Any
    negative: Any


class _Bins(NamedTuple):
    """By confidence bin, shape ``[bins]``: entries, right ones, summed confidence."""

    count: Any
    right: Any
    confidence: Any


def auroc(*, bins: int = 1024, target: str = "label") -> Metric:
    r"""The area under the receiver operating curve, from histograms of the scores.

    Binary logits give one area; ``K`` scores give one a class (that class against the rest), by
    softmax probability, and their mean over classes that have both kinds. Pairs in one bin count
    half, so the error is at most half the share of positive-negative pairs that fall into one
    bin: :math:`\frac12 \sum_i p_i n_i / (P N)`. Bins are equal steps of the probability.

    Args:
        bins: how many; at least 2.
        target: the batch field of class numbers (0 or 1 for binary logits).

    Returns:
        A metric that reports ``auroc``, NaN when no class has both kinds.

    Raises:
        ConfigError: fewer than 2 bins.
    """
    _check_bins(bins, 2)

    def measure(outputs: Any, batch: Batch) -> _Ranks:
        targets = targets_of(batch, target)
        scores, positive = _one_against_rest(outputs, targets)
        weights = counted(batch, targets.shape).reshape(-1)
        index = jnp.clip((scores * bins).astype(jnp.int32), 0, bins - 1)

        def histogram(index: jax.Array, chosen: jax.Array) -> jax.Array:
            kept = jnp.where(chosen, weights, jnp.zeros_like(weights))
            return jnp.zeros((bins,), weights.dtype).at[index].add(kept)

        by_class = jax.vmap(histogram)
        return _Ranks(by_class(index, positive), by_class(index, ~positive))

    return Metric(measure, lambda sums: {"auroc": _mean_area(sums)})


def expected_calibration_error(*, bins: int = 15, target: str = "label") -> Metric:
    """How far confidence is from accuracy, averaged over bins of equal width.

    Source: Guo et al. 2017, arXiv:1706.04599, equation 3; bins are ``(m/M, (m+1)/M]``.

    Args:
        bins: ``M``, at least 1.
        target: the batch field of class numbers.

    Returns:
        A metric over scores ``[..., K]`` (confidence is the largest probability) or binary logits.

    Raises:
        ConfigError: no bins.
    """
    _check_bins(bins, 1)

    def measure(outputs: Any, batch: Batch) -> _Bins:
        targets = targets_of(batch, target)
        probabilities = _probabilities(outputs, targets)
        confidence = jnp.max(probabilities, axis=-1).reshape(-1)
        right = (jnp.argmax(probabilities, axis=-1) == targets).reshape(-1)
        weights = counted(batch, targets.shape).reshape(-1)
        index = jnp.clip(jnp.ceil(confidence * bins).astype(jnp.int32) - 1, 0, bins - 1)
        empty = jnp.zeros((bins,), weights.dtype)
        return _Bins(
            empty.at[index].add(weights),
            empty.at[index].add(jnp.where(right, weights, jnp.zeros_like(weights))),
            empty.astype(jnp.float32).at[index].add(_masked(confidence, weights)),
        )

    def read(sums: _Bins) -> dict[str, float]:
        gap = np.abs(np.asarray(sums.right, np.float64) - np.asarray(sums.confidence, np.float64))
        return {"expected_calibration_error": float(quotient(gap.sum(), np.sum(sums.count)))}

    return Metric(measure, read)


def _masked(values: jax.Array, weights: jax.Array) -> jax.Array:
    return jnp.where(weights > 0, values * weights.astype(values.dtype), jnp.zeros_like(values))


def _probabilities(outputs: Any, targets: jax.Array) -> jax.Array:
    """Shape ``[..., K]``, with ``K`` = 2 for binary logits."""
    scores = jnp.asarray(outputs).astype(jnp.float32)
    if scores.shape == (*targets.shape, 1):
        scores = scores[..., 0]
    if scores.shape == targets.shape:
        return jnp.stack([jax.nn.sigmoid(-scores), jax.nn.sigmoid(scores)], axis=-1)
    if scores.shape[:-1] != targets.shape:
        raise BatchError(
            f"outputs of shape {list(scores.shape)} do not go with targets of shape "
            f"{list(targets.shape)}",
            expected=f"logits of shape {[*targets.shape, 'K']} or of the targets' shape",
            do="check target= and what the model returns",
        )
    return jax.nn.softmax(scores, axis=-1)


def _one_against_rest(outputs: Any, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Scores and positives, shape ``[C, entries]``; ``C`` is 1 for binary logits."""
    probabilities = _probabilities(outputs, targets)
    classes = probabilities.shape[-1]
    flat = probabilities.reshape(-1, classes).T
    if jnp.shape(outputs)[-1:] != (classes,) or jnp.ndim(outputs) == targets.ndim:
        return flat[1:], (targets.reshape(1, -1) == 1)
    return flat, targets.reshape(1, -1) == jnp.arange(classes)[:, None]


def _mean_area(sums: _Ranks) -> float:
    positive = np.asarray(sums.positive, np.float64)
    negative = np.asarray(sums.negative, np.float64)
    below = np.cumsum(negative, axis=1) - negative
    wins = np.sum(positive * (below + 0.5 * negative), axis=1)
    areas = quotient(wins, positive.sum(1) * negative.sum(1))
    known = areas[~np.isnan(areas)]
    return float(np.mean(known)) if known.size else float("nan")


def _check_bins(bins: int, least: int) -> None:
    if bins < least:
        raise ConfigError(f"bins is {bins}", expected=f"at least {least}", do="use the default")
