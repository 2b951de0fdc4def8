"""Two systems on the same rows in one call, and p-values of several comparisons together.

Reads from: errors, evaluation.rows, evaluation.intervals, evaluation.significance.
Used by: cli, and by hand.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from jaxdl.errors import BatchError
from jaxdl.evaluation.intervals import Interval, bootstrap
from jaxdl.evaluation.rows import same_rows
from jaxdl.evaluation.significance import (
    Difference,
    McNemar,
    mcnemar,
    paired_bootstrap,
    permutation_test,
)

__all__ = ["Comparison", "compare", "holm", "weighted_mean"]


class Comparison(NamedTuple):
    """Two systems on the same rows.

    Attributes:
        a: the first one's mean and its interval.
        b: the second one's.
        difference: the first's less the second's, by ``paired_bootstrap``.
        permutation: the p-value of ``permutation_test``.
        mcnemar: where the figures are truth values, right or wrong; ``None`` for others.
    """

    a: Interval
    b: Interval
    difference: Difference
    permutation: float
    mcnemar: McNemar | None


def compare(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    weight: npt.ArrayLike | None = None,
    *,
    seed: int,
    level: float = 0.95,
    resamples: int = 2_000,
) -> Comparison:
    """Compares the mean figures of two systems, with all tests that fit them.

    Intervals are those of percentiles, so that the three of them are of one kind.

    Args:
        a: the first system's figure of each row ``[B]``: whether it was right, or its loss.
        b: the second's.
        weight: of each row ``[B]``, such as its tokens; 1 when ``None``. Rows of weight 0 are left
            out.
        seed: of the draws, from 0 to 2**64 - 1.
        level: of the intervals.
        resamples: how many times to draw; the permutation test draws five times as often.

    Raises:
        BatchError: fewer than 2 rows count, the arrays differ in length, a weight is negative, or a
            figure is not finite.
        ConfigError: ``level``, ``resamples`` or ``seed`` is out of range.

    Examples:
        >>> a, b = np.ones(8, bool), np.array([False] * 6 + [True] * 2)
        >>> found = compare(a, b, seed=0)
        >>> found.difference.value, found.permutation, found.mcnemar.p_value
        (0.75, 0.03125, 0.03125)
    """
    first, second = same_rows(a, b)
    first, second, many = same_rows(a, b, np.ones(len(first)) if weight is None else weight)
    if first.ndim != 1 or second.ndim != 1 or many.ndim != 1 or not (many >= 0).all():
        raise BatchError(
            f"figures {list(first.shape)} and {list(second.shape)}, weights {list(many.shape)}"
            + (f" from {many.min()}" if many.size else ""),
            expected="one figure and one weight a row, no weight below 0",
            do="give whether each row was right, or its loss",
        )
    count = many > 0
    first, second, many = first[count], second[count], many[count].astype(np.float64)
    options: dict[str, Any] = {"seed": seed, "level": level, "resamples": resamples}

    def interval(rows: npt.NDArray[Any]) -> Interval:
        return bootstrap(weighted_mean, rows, many, method="percentile", **options)

    ends = interval(first), interval(second)
    mean: dict[str, Any] = {"statistic": weighted_mean, "seed": seed}
    difference = paired_bootstrap(first, second, many, **mean, level=level, resamples=resamples)
    _, p_value = permutation_test(first, second, many, **mean, resamples=5 * resamples - 1)
    right = first.dtype == bool and second.dtype == bool
    return Comparison(*ends, difference, p_value, mcnemar(first, second) if right else None)


def weighted_mean(values: npt.NDArray[Any], weight: npt.NDArray[Any]) -> float:
    """The mean of figures by their weights; NaN where there is no weight.

    Args:
        values: a figure a row ``[B]``.
        weight: of each row ``[B]``.

    Examples:
        >>> weighted_mean(np.array([1.0, 4.0]), np.array([2, 1]))
        2.0
    """
    whole = weight.sum()
    return float(np.dot(values, weight) / whole) if whole > 0 else float("nan")


def holm(p_values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """P-values of several tests, corrected so that any one below 0.05 is by chance in 5 % at most.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".

    Args:
        p_values: of each test ``[M]``.

    Returns:
        The corrected ones ``[M]``, in the same order.

    Raises:
        BatchError: they are not from 0 to 1.

    Examples:
        >>> holm([0.01, 0.04, 0.03]).tolist()
        [0.03, 0.06, 0.06]
    """
    given = np.asarray(p_values, np.float64)
    if given.ndim != 1 or not ((given >= 0) & (given <= 1)).all():
        raise BatchError(
            f"p-values {given.tolist()}", expected="a list of numbers from 0 to 1", do="give those"
        )
    order = np.argsort(given, kind="stable")
    raised = np.maximum.accumulate(given[order] * np.arange(len(given), 0, -1))
    corrected = np.empty_like(given)
    corrected[order] = np.minimum(raised, 1.0)
    return corrected
