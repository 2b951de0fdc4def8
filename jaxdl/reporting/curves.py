"""What the records say over the steps, thinned so that no peak is lost.

Reads from: protocols. Used by: the rest of reporting.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from jaxdl.protocols import Record

__all__ = ["Line", "Series", "metric_names", "series", "thin"]

_NOT_FINITE = {"nan", "inf", "-inf", "infinity", "-infinity"}
_FIRST = ("loss", "accuracy")


class Series(NamedTuple):
    """One measure of one split.

    Attributes:
        split: its name.
        steps: ascending ``[M]``.
        values: ``[M]``; NaN where it was not finite.
    """

    split: str
    steps: npt.NDArray[np.float64]
    values: npt.NDArray[np.float64]

    @property
    def finite(self) -> npt.NDArray[np.bool_]:
        """Where there is a number ``[M]``."""
        return np.isfinite(self.values)


class Line(NamedTuple):
    """A series as it is drawn.

    Attributes:
        x: steps.
        y: values, or the means of bins; NaN where the line is broken.
        low: the least of each bin, or ``None`` where every record is drawn.
        high: the greatest of each bin, or ``None``.
        bad: steps whose value was not finite.
        records: how many there were.
    """

    x: npt.NDArray[np.float64]
    y: npt.NDArray[np.float64]
    low: npt.NDArray[np.float64] | None
    high: npt.NDArray[np.float64] | None
    bad: npt.NDArray[np.float64]
    records: int


def metric_names(records: Iterable[Record]) -> list[str]:
    """The measures that are numbers, the loss first.

    Args:
        records: of a run.

    Examples:
        >>> metric_names([Record(1, "train", {"f1": 0.5, "loss": None, "matrix": [[1]]})])
        ['loss', 'f1']
    """
    found = {n for each in records for n, value in each.values.items() if _is_number(value)}
    return sorted(found, key=lambda n: (_FIRST.index(n) if n in _FIRST else len(_FIRST), n))


def series(records: Iterable[Record], name: str) -> list[Series]:
    """One measure by split, ``train`` first.

    Args:
        records: of a run.
        name: of the measure.
    """
    found: dict[str, list[tuple[int, float]]] = {}
    for each in records:
        if name in each.values and _is_number(each.values[name]):
            found.setdefault(each.split, []).append((each.step, _float(each.values[name])))
    ordered = sorted(found, key=lambda split: (split != "train", split))
    return [_series(split, found[split]) for split in ordered]


def thin(given: Series, most: int = 150) -> Line:
    """The series as it is drawn: every record where they are few, else bins of equal width.

    Args:
        given: the series.
        most: how many bins; up to twice as many records are drawn as they are.

    Examples:
        >>> steps = np.arange(1000.0)
        >>> line = thin(Series("train", steps, np.where(steps == 500, 9.0, 1.0)), most=10)
        >>> len(line.x), float(line.high.max()), float(line.low.min())
        (10, 9.0, 1.0)
    """
    good = given.finite
    bad = given.steps[~good]
    if len(given.steps) <= 2 * most:
        return Line(given.steps, given.values, None, None, bad, len(given.steps))
    edges = np.linspace(given.steps[0], given.steps[-1], most + 1)
    place = np.clip(np.searchsorted(edges, given.steps, side="right") - 1, 0, most - 1)
    filled = np.unique(place)
    x, y, low, high = (np.full(len(filled), np.nan) for _ in range(4))
    for n, bin_ in enumerate(filled):
        here = place == bin_
        x[n] = given.steps[here].mean()
        values = given.values[here & good]
        if values.size:
            y[n], low[n], high[n] = values.mean(), values.min(), values.max()
    return Line(x, y, low, high, bad, len(given.steps))


def _series(split: str, points: Sequence[tuple[int, float]]) -> Series:
    table = np.array(sorted(points, key=lambda point: point[0]), np.float64)
    return Series(split, table[:, 0], table[:, 1])


def _is_number(value: Any) -> bool:
    if isinstance(value, str):
        return value.lower() in _NOT_FINITE
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _float(value: Any) -> float:
    try:
        given = math.nan if value is None or isinstance(value, str) else float(value)
    except OverflowError:
        return math.nan
    return given if math.isfinite(given) else math.nan
