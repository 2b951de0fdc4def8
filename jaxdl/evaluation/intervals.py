"""How sure a figure is: intervals by the bootstrap.

Reads from: errors, data, evaluation.rows. Used by: evaluation.comparing, cli,
and by hand.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from jaxdl.data.order import check_seed
from jaxdl.errors import BatchError
from jaxdl.evaluation.rows import check_level, same_rows

__all__ = ["Interval", "bootstrap"]

_CELLS = 1 << 22
"""Indices drawn at once: 32 MiB."""


class Interval(NamedTuple):
    """A figure and where it may lie.

    Attributes:
        value: over all rows.
        low: the lower end.
        high: the upper end.
    """

    value: float
    low: float
    high: float


def bootstrap(
    statistic: Callable[..., Any],
    *arrays: npt.ArrayLike,
    seed: int,
    level: float = 0.95,
    resamples: int = 2_000,
    method: Literal["bca", "percentile"] = "bca",
) -> Interval:
    """An interval for any statistic of rows, by drawing rows with replacement.

    Through ``scipy.stats.bootstrap``. Source: Efron 1987, "Better bootstrap confidence intervals".
    Rows are taken as independent: where several belong together (frames of one speaker), give a
    row a group.

    Args:
        statistic: from the arrays, each with the rows that were drawn, to a number.
        *arrays: of the same rows ``[B, ...]``; they are drawn together.
        seed: of the draws, from 0 to 2**64 - 1.
        level: how often such an interval should hold the true value.
        resamples: how many times to draw.
        method: ``"bca"`` corrects bias and skew, and calls the statistic ``B`` times more;
            ``"percentile"`` reads the quantiles as they are.

    Returns:
        The interval; of no width when every draw gives the same.

    Raises:
        BatchError: fewer than 2 rows, or arrays of different lengths; the statistic is not finite
            for some of the draws; or ``"bca"`` is not defined for it, as for a median that no
            single row changes.
        ConfigError: ``level``, ``resamples`` or ``seed`` is out of range.

    Examples:
        >>> right = np.array([1] * 90 + [0] * 10)
        >>> found = bootstrap(np.mean, right, seed=0, method="percentile")
        >>> [round(end, 3) for end in found]
        [0.9, 0.84, 0.96]
    """
    check_level(level, resamples)
    columns = same_rows(*arrays, least=2)
    value, (low, high), draws = _drawn(
        lambda rows: float(statistic(*(column[rows] for column in columns))),
        len(columns[0]),
        np.random.default_rng(check_seed(seed)),
        (level, resamples, {"bca": "BCa"}.get(method, method)),
    )
    bad = int(np.count_nonzero(~np.isfinite(draws)))
    if bad or not np.isfinite(value):
        raise BatchError(
            f"the statistic is {value} over all rows, and not finite for {bad} of "
            f"{resamples} draws",
            expected="a finite number for any rows",
            do="give it a value where a class is absent, such as zero_division=0",
        )
    if np.all(draws == draws[0]):
        return Interval(value, float(draws[0]), float(draws[0]))
    if not np.isfinite([low, high]).all():
        raise BatchError(
            "the bias or the skew of this statistic cannot be estimated from these rows",
            expected="a statistic that changes with single rows, to either side",
            do="use method='percentile', or measure more examples",
        )
    return Interval(value, low, high)


def _drawn(
    of_rows: Callable[[Any], float],
    count: int,
    rng: np.random.Generator,
    options: tuple[float, int, str],
) -> tuple[float, tuple[float, float], npt.NDArray[np.float64]]:
    """The value over all rows, the interval's ends, and the value for each draw."""
    from scipy import stats

    level, resamples, method = options
    everything = np.arange(count)
    with warnings.catch_warnings():
        # Of draws that are all the same; the caller sees it by the draws.
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        with np.errstate(invalid="ignore", divide="ignore"):
            found: Any = stats.bootstrap(
                (everything,),
                of_rows,
                n_resamples=resamples,
                batch=max(1, _CELLS // count),
                vectorized=False,
                confidence_level=level,
                method=method,
                rng=rng,
            )
    ends = found.confidence_interval
    draws = np.asarray(found.bootstrap_distribution)
    return of_rows(everything), (float(ends.low), float(ends.high)), draws
