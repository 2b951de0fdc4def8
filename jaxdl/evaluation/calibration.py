"""Whether probabilities can be believed, on the host: reliability, calibration error, Brier score.

``metrics.expected_calibration_error`` is the same error summed over batches on the device.

Reads from: errors, metrics, evaluation.rows. Used by: cli, and by hand.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from jaxdl.errors import BatchError, ConfigError
from jaxdl.evaluation.rows import same_rows
from jaxdl.metrics.sums import quotient

__all__ = [
    "Reliability",
    "brier_score",
    "calibration_error",
    "log_loss",
    "reliability",
    "top_label",
]


class Reliability(NamedTuple):
    """By bin ``[M]`` of what was predicted.

    Attributes:
        low: the bin's lower edge, not in it (but 0 is in the first).
        high: its upper edge, in it.
        rows: how many are in it.
        predicted: the mean probability in it; NaN where there are none.
        observed: the share that came true; NaN where there are none.
    """

    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]
    rows: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.float64]
    observed: npt.NDArray[np.float64]


def top_label(
    probabilities: npt.ArrayLike, labels: npt.ArrayLike
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """The confidence of each prediction, and whether it was right.

    Args:
        probabilities: ``[B, K]``, each row of sum 1.
        labels: class numbers ``[B]``.

    Returns:
        The largest probability ``[B]``, and whether its class is the label ``[B]``. Among equal
        ones the lower class counts.

    Raises:
        BatchError: these are no probabilities, or no labels of them.
    """
    table, true = _checked(probabilities, labels)
    return table.max(axis=1), table.argmax(axis=1) == true


def reliability(
    probabilities: npt.ArrayLike,
    outcomes: npt.ArrayLike,
    *,
    bins: int = 15,
    equal: Literal["width", "count"] = "width",
) -> Reliability:
    """What was predicted against what came true, by bin of probability.

    For many classes give ``*top_label(probabilities, labels)``. The table is that of
    ``sklearn.calibration.calibration_curve``, with empty bins kept.

    Args:
        probabilities: of an event, ``[B]``.
        outcomes: whether it came true ``[B]``: truth values, or 0 and 1.
        bins: ``M``.
        equal: ``"width"``, or ``"count"``: edges at the quantiles of the probabilities.

    Returns:
        The table.

    Raises:
        BatchError: these are no probabilities, or no outcomes of them.
        ConfigError: there is no bin.
    """
    if bins < 1:
        raise ConfigError(f"bins is {bins}", expected="at least 1", do="use the default")
    given, true = same_rows(probabilities, outcomes, least=1)
    chance = np.asarray(given, np.float64)
    if chance.ndim != 1 or true.ndim != 1:
        raise BatchError(
            f"probabilities of shape {list(chance.shape)}, outcomes of {list(true.shape)}",
            expected="one of each a row",
            do="give *top_label(probabilities, labels)",
        )
    _check_range(chance, true, 2)
    steps = np.linspace(0.0, 1.0, bins + 1)
    edges = steps if equal == "width" else np.quantile(chance, steps)
    index = np.searchsorted(edges[1:-1], chance)
    count = np.bincount(index, minlength=bins)
    return Reliability(
        edges[:-1],
        edges[1:],
        count,
        quotient(np.bincount(index, chance, bins), count),
        quotient(np.bincount(index, true.astype(np.float64), bins), count),
    )


def calibration_error(table: Reliability) -> float:
    """How far what was predicted is from what came true, averaged over the rows.

    Source: Guo et al. 2017, arXiv:1706.04599, equation 3, when the bins are of equal width.

    Args:
        table: from ``reliability``.

    Examples:
        >>> calibration_error(reliability([0.75, 0.75, 0.25, 0.25], [1, 1, 0, 1], bins=2))
        0.25
    """
    gap = np.abs(np.nan_to_num(table.predicted) - np.nan_to_num(table.observed))
    return float((table.rows * gap).sum() / table.rows.sum())


def brier_score(probabilities: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    r"""The mean squared error of probabilities; 0 is best.

    Source: Brier 1950, "Verification of forecasts expressed in terms of probability".

    Args:
        probabilities: ``[B, K]``, each row of sum 1; or of an event, ``[B]``.
        labels: class numbers ``[B]``; or 0 and 1.

    Returns:
        :math:`\frac1B \sum_{ik} (p_{ik} - [y_i = k])^2`, from 0 to 2; of an event
        :math:`\frac1B \sum_i (p_i - y_i)^2`, from 0 to 1: half of what two classes give.

    Raises:
        BatchError: these are no probabilities, or no labels of them.

    Examples:
        >>> brier_score([0.5, 1.0], [1, 1])
        0.125
    """
    if np.ndim(probabilities) == 1:  # pyright: ignore[reportArgumentType]  # numpy's own gap
        given, true = same_rows(probabilities, labels, least=1)
        _check_range(given, true, 2)
        return float(np.mean((given.astype(np.float64) - true) ** 2))
    table, true = _checked(probabilities, labels)
    return float(np.mean(((table - np.eye(table.shape[1])[true]) ** 2).sum(axis=1)))


def log_loss(probabilities: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    r"""The mean of :math:`-\log` of the probability of what came true, in nats; 0 is best.

    Args:
        probabilities: ``[B, K]``, each row of sum 1; or of an event, ``[B]``.
        labels: class numbers ``[B]``; or 0 and 1.

    Returns:
        The loss. A probability of 0 counts as float64's 2.2e-16, as in scikit-learn's ``log_loss``,
        so that it is finite.

    Raises:
        BatchError: these are no probabilities, or no labels of them.

    Examples:
        >>> round(log_loss([[0.5, 0.5], [0.25, 0.75]], [0, 1]), 4)
        0.4904
    """
    if np.ndim(probabilities) == 1:  # pyright: ignore[reportArgumentType]  # numpy's own gap
        given, true = same_rows(probabilities, labels, least=1)
        chance = given.astype(np.float64)
        _check_range(chance, true, 2)
        own = np.where(true == 1, chance, 1 - chance)
    else:
        table, true = _checked(probabilities, labels)
        own = table[np.arange(len(true)), true]
    least = np.finfo(np.float64).eps
    return float(-np.mean(np.log(np.clip(own, least, 1 - least))))


def _checked(
    probabilities: npt.ArrayLike, labels: npt.ArrayLike
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    table, true = same_rows(probabilities, labels, least=1)
    if table.ndim != 2 or true.ndim != 1 or true.dtype.kind not in "iub":
        raise BatchError(
            f"probabilities of shape {list(table.shape)}, labels {true.dtype} of "
            f"{list(true.shape)}",
            expected="probabilities [B, K] and integer labels [B]",
            do="give softmax(scores) and class numbers",
        )
    table = table.astype(np.float64)
    _check_range(table, true, table.shape[1])
    sums = table.sum(axis=1)
    if not np.allclose(sums, 1.0, rtol=0, atol=1e-2):
        raise BatchError(
            f"rows of probabilities sum to {sums.min():g} .. {sums.max():g}",
            expected="1",
            do="give softmax(scores)",
        )
    return table, true.astype(np.int64)


def _check_range(chance: npt.NDArray[Any], true: npt.NDArray[Any], classes: int) -> None:
    if not (chance.min() >= 0 and chance.max() <= 1):
        raise BatchError(
            f"probabilities are from {chance.min():g} to {chance.max():g}",
            expected="from 0 to 1, none of them NaN",
            do="give softmax(scores) or sigmoid(scores), not the scores",
        )
    if not (true.min() >= 0 and true.max() < classes):
        raise BatchError(
            f"labels are from {true.min()} to {true.max()}",
            expected=f"from 0 to {classes - 1}",
            do="leave rows out that do not count",
        )
