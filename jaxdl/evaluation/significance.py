"""Whether one system is better than another, measured on the same rows.

Reads from: errors, data, evaluation.rows. Used by:
evaluation.comparing, and by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from jaxdl.data.order import check_seed
from jaxdl.errors import BatchError
from jaxdl.evaluation.rows import check_level, same_rows

__all__ = ["Difference", "McNemar", "mcnemar", "paired_bootstrap", "permutation_test"]

_CELLS = 1 << 22


class McNemar(NamedTuple):
    """What two classifiers got right, each alone.

    Attributes:
        only_a: rows that only the first got right.
        only_b: rows that only the second got right.
        p_value: two-sided, of the two being equally often right.
    """

    only_a: int
    only_b: int
    p_value: float


class Difference(NamedTuple):
    """The first system's figure less the second's.

    Attributes:
        value: over all rows.
        low: the lower end of its interval.
        high: the upper end.
        p_value: two-sided, of there being no difference.
    """

    value: float
    low: float
    high: float
    p_value: float


def mcnemar(right_a: npt.ArrayLike, right_b: npt.ArrayLike, *, exact: bool = True) -> McNemar:
    """McNemar's test of two classifiers on the same rows.

    Source: McNemar 1947, "Note on the sampling error of the difference between correlated
    proportions"; the correction is Edwards's of 1948. Where both are alone right equally often
    nothing is corrected, as in R, and p is 1.

    Args:
        right_a: whether the first was right ``[B]``.
        right_b: whether the second was ``[B]``.
        exact: the binomial distribution; chi-squared with the correction when false, for many
            rows.

    Raises:
        BatchError: the arrays differ in length, or are not truth values ``[B]``.

    Examples:
        >>> a, b = np.ones(8, bool), np.array([False] * 6 + [True] * 2)
        >>> mcnemar(a, b)
        McNemar(only_a=6, only_b=0, p_value=0.03125)
    """
    from scipy import stats

    first, second = same_rows(right_a, right_b)
    for each in (first, second):
        if each.ndim != 1 or not np.isin(each, (0, 1)).all():
            raise BatchError(
                f"an array {each.dtype} of shape {list(each.shape)}",
                expected="truth values [B]",
                do="give predictions == labels",
            )
    a = int(np.count_nonzero(first.astype(bool) & ~second.astype(bool)))
    b = int(np.count_nonzero(second.astype(bool) & ~first.astype(bool)))
    if a == b:
        return McNemar(a, b, 1.0)
    if exact:
        return McNemar(a, b, float(stats.binomtest(min(a, b), a + b).pvalue))
    return McNemar(a, b, float(stats.chi2.sf((abs(a - b) - 1) ** 2 / (a + b), 1)))


def paired_bootstrap(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    *shared: npt.ArrayLike,
    seed: int,
    statistic: Callable[..., Any] = np.mean,
    level: float = 0.95,
    resamples: int = 2_000,
) -> Difference:
    """The difference of two systems, by drawing rows with replacement for both at once.

    The interval is that of percentiles. The p-value is the share of draws whose difference is as
    far from the measured one as that is from 0, with the rows as measured counted as one more:
    Berg-Kirkpatrick et al. 2012, "An empirical investigation of statistical significance in NLP",
    two-sided.

    Args:
        a: the first system's rows ``[B, ...]``, such as whether each was right, or predictions.
        b: the second's.
        *shared: what both are measured against, such as labels ``[B]``.
        seed: of the draws, from 0 to 2**64 - 1.
        statistic: from a system's rows, and those of ``shared``, to its figure.
        level: of the interval.
        resamples: how many times to draw.

    Raises:
        BatchError: fewer than 2 rows, or arrays of different lengths; the statistic is not finite
            for some of the draws.
        ConfigError: ``level``, ``resamples`` or ``seed`` is out of range.
    """
    check_level(level, resamples)
    first, second, *both = same_rows(a, b, *shared, least=2)
    rng = np.random.default_rng(check_seed(seed))

    def difference(rows: Any) -> float:
        other = [each[rows] for each in both]
        return float(statistic(first[rows], *other)) - float(statistic(second[rows], *other))

    count = len(first)
    value = difference(slice(None))
    draws = np.array([difference(rng.integers(0, count, count)) for _ in range(resamples)])
    _check_finite(value, draws)
    # A rounding more or less must not tell equal draws apart.
    far = np.abs(draws - value) >= abs(value) * (1 - 1e-12)
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    p_value = (1 + np.count_nonzero(far)) / (1 + resamples)
    return Difference(value, float(low), float(high), float(p_value))


def permutation_test(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    *shared: npt.ArrayLike,
    seed: int,
    statistic: Callable[..., Any] = np.mean,
    resamples: int = 9_999,
) -> tuple[float, float]:
    """The difference of two systems, against what exchanging their rows at random would give.

    Also called approximate randomisation. Through ``scipy.stats.permutation_test``: every exchange
    is tried where there are no more than ``resamples`` of them, and the p-value is exact then.

    Args:
        a: the first system's rows ``[B]``, such as whether each was right, or predictions.
        b: the second's.
        *shared: what both are measured against, such as labels ``[B, ...]``.
        seed: of the exchanges, from 0 to 2**64 - 1.
        statistic: from a system's rows, and those of ``shared``, to its figure.
        resamples: how many exchanges to try.

    Returns:
        The difference, and its two-sided p-value.

    Raises:
        BatchError: fewer than 2 rows, or arrays of different lengths or of more than one axis.
        ConfigError: ``resamples`` or ``seed`` is out of range.

    Examples:
        >>> permutation_test([1.0, 1.0, 1.0], [0.0, 0.0, 0.0], seed=0)
        (1.0, 0.25)
    """
    from scipy import stats

    check_level(0.95, resamples)
    first, second, *both = same_rows(a, b, *shared, least=2)
    if first.ndim != 1 or second.ndim != 1:
        raise BatchError(
            f"systems of shapes {list(first.shape)} and {list(second.shape)}",
            expected="a number a row, [B]",
            do="give a figure a row, or predicted classes",
        )

    def difference(x: Any, y: Any) -> float:
        return float(statistic(x, *both)) - float(statistic(y, *both))

    found: Any = stats.permutation_test(
        (first, second),
        difference,
        permutation_type="samples",
        vectorized=False,
        n_resamples=resamples,
        batch=max(1, _CELLS // len(first)),
        rng=np.random.default_rng(check_seed(seed)),
    )
    return float(found.statistic), float(found.pvalue)


def _check_finite(value: float, draws: npt.NDArray[np.float64]) -> None:
    if not (np.isfinite(value) and np.isfinite(draws).all()):
        raise BatchError(
            f"the difference is {value}, and not finite for "
            f"{np.count_nonzero(~np.isfinite(draws))} of {draws.size} draws",
            expected="a finite number for any rows",
            do="give the statistic a value where a class is absent, such as zero_division=0",
        )
