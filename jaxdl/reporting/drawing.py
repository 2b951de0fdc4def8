"""Axes, lines, bars and points, as shapes of SVG whose colours are the page's.

Reads from: reporting.blocks, .curves. Used by: the rest of reporting.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from jaxdl.reporting.blocks import Drawing, Shape
from jaxdl.reporting.curves import Line

__all__ = ["Axis", "axis", "calibration_chart", "line_chart", "scatter_chart", "wants_logarithm"]

WIDTH, HEIGHT = 360, 220
"""Of every figure: what a phone shows at full size, so that letters keep theirs."""
_TOP, _BOTTOM, _RIGHT, _LETTER = 10, 38, 20, 6.3
_MARKS = 40
_FARTHEST = 1e150
Array = npt.NDArray[np.float64]


class Axis(NamedTuple):
    """From values to places.

    Attributes:
        low: the value at one end.
        high: the value at the other.
        ticks: values that are written.
        logarithmic: whether equal ratios are equally long.
    """

    low: float
    high: float
    ticks: tuple[float, ...]
    logarithmic: bool = False

    def share(self, values: Array) -> Array:
        """How far along the axis values lie, from 0 to 1; NaN where they have no place.

        Args:
            values: any.
        """
        with np.errstate(invalid="ignore", divide="ignore"):
            if self.logarithmic:
                ends = math.log(self.low), math.log(self.high)
                return (np.log(values) - ends[0]) / (ends[1] - ends[0])
            return (values - self.low) / (self.high - self.low)


def wants_logarithm(values: Array) -> bool:
    """Whether values are positive and so far apart that a plain axis would hide the small ones.

    Args:
        values: any.
    """
    finite = values[np.isfinite(values)]
    return bool(finite.size and finite.min() > 0 and finite.max() / 50 > finite.min())


def axis(values: Array, *, logarithmic: bool = False, ticks: int = 5, tight: bool = False) -> Axis:
    """An axis over values, its ends at ticks beyond them.

    Args:
        values: those to show; what is not finite is passed over.
        logarithmic: all are positive.
        ticks: about how many.
        tight: the ends are the least and the greatest value.

    Examples:
        >>> axis(np.array([0.0, 400.0])).ticks
        (0.0, 100.0, 200.0, 300.0, 400.0)
    """
    finite = np.clip(values[np.isfinite(values)], -_FARTHEST, _FARTHEST)
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if logarithmic:
        low, high = max(low, 1 / _FARTHEST) / 1.1, high * 1.1
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        sides = (1, 2, 5) if len(powers) < 4 else (1,)
        marks = [side * 10.0**power for power in powers for side in sides]
        marks = [mark for mark in marks if low <= mark <= high]
        return Axis(low, high, tuple(marks[:: 1 + len(marks) // 8]), True)
    if high - low <= 1e-12 * max(abs(low), abs(high)):
        room = abs(high) * 0.1 or 1.0
        low, high = low - room, high + room
    step = _nice((high - low) / ticks)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    marks = [float(f"{n * step:.12g}") for n in range(first, last + 1)]
    if tight:
        return Axis(low, high, tuple(mark for mark in marks if low <= mark <= high))
    return Axis(marks[0], marks[-1], tuple(marks))


def line_chart(lines: Sequence[tuple[int, Line]], *, x: str, logarithmic: bool) -> Drawing:
    """Lines over a common axis, each with its band where it is thinned.

    Args:
        lines: the number of each one's colour, and the line.
        x: what the horizontal axis shows.
        logarithmic: the vertical axis.
    """
    ys = [part for _, line in lines for part in (line.y, line.low, line.high) if part is not None]
    across = axis(np.concatenate([line.x for _, line in lines]), ticks=5, tight=True)
    # There is no half of a step.
    across = across._replace(ticks=tuple(tick for tick in across.ticks if tick == int(tick)))
    frame = _Frame(across, axis(np.concatenate(ys), logarithmic=logarithmic))
    shapes = frame.around(x)
    for colour, line in lines:
        if line.low is not None and line.high is not None:
            shapes.append(Shape("path", {"class": f"band s{colour}", "d": frame.band(line)}))
    for colour, line in lines:
        shapes.append(Shape("path", {"class": f"line s{colour}", "d": frame.path(line.x, line.y)}))
        shapes += frame.lonely(colour, line)
    for colour, line in lines:
        for step in line.bad[:: 1 + len(line.bad) // _MARKS]:
            shapes.append(frame.cross(colour, float(step)))
    return Drawing(WIDTH, HEIGHT, tuple(shapes))


def calibration_chart(low: Array, high: Array, predicted: Array, observed: Array) -> Drawing:
    """What came true by what was predicted, over the diagonal of perfect calibration.

    Args:
        low: lower edges ``[M]``.
        high: upper edges ``[M]``.
        predicted: means ``[M]``; NaN where there are none.
        observed: shares ``[M]``; NaN where there are none.
    """
    unit = Axis(0.0, 1.0, (0.0, 0.2, 0.4, 0.6, 0.8, 1.0))
    frame = _Frame(unit, unit)
    shapes = frame.around("confidence")
    for n in np.flatnonzero(np.isfinite(observed)):
        left, right = frame.x(low[n]), frame.x(high[n])
        top, bottom = frame.y(observed[n]), frame.y(0.0)
        shapes.append(
            Shape(
                "rect",
                {
                    "class": "bar",
                    "x": _short(left + 0.5),
                    "y": _short(top),
                    "width": _short(max(right - left - 1, 0.5)),
                    "height": _short(max(bottom - top, 0.0)),
                },
            )
        )
    ends = np.array([0.0, 1.0])
    shapes.append(Shape("path", {"class": "ideal", "d": frame.path(ends, ends)}))
    shapes += frame.dots(2, predicted, observed)
    return Drawing(WIDTH, HEIGHT, tuple(shapes))


def scatter_chart(x: Array, y: Array, *, label: str) -> Drawing:
    """Points, over the diagonal on which both are the same.

    Args:
        x: ``[M]``.
        y: ``[M]``.
        label: of the horizontal axis.
    """
    both = axis(np.concatenate([x, y]))
    frame = _Frame(both, both)
    ends = np.array([both.low, both.high])
    shapes = [
        *frame.around(label),
        Shape("path", {"class": "ideal", "d": frame.path(ends, ends)}),
        *frame.dots(1, x, y),
    ]
    return Drawing(WIDTH, HEIGHT, tuple(shapes))


class _Frame:
    """The place of a chart between its axes."""

    def __init__(self, across: Axis, up: Axis) -> None:
        self._across, self._up = across, up
        self._labels = [_tick(value) for value in up.ticks]
        self._left = 12 + _LETTER * max([len(label) for label in self._labels], default=1)

    def x(self, value: float) -> float:
        """Where a value of the horizontal axis lies."""
        return float(self._xs(np.array([value]))[0])

    def y(self, value: float) -> float:
        """Where a value of the vertical axis lies."""
        return float(self._ys(np.array([value]))[0])

    def _xs(self, values: Array) -> Array:
        return self._left + self._across.share(values) * (WIDTH - _RIGHT - self._left)

    def _ys(self, values: Array) -> Array:
        return HEIGHT - _BOTTOM - self._up.share(values) * (HEIGHT - _BOTTOM - _TOP)

    def around(self, label: str) -> list[Shape]:
        """Grid lines, numbers, and what the horizontal axis shows."""
        right, bottom = WIDTH - _RIGHT, HEIGHT - _BOTTOM
        shapes: list[Shape] = []
        for value, text in zip(self._up.ticks, self._labels, strict=True):
            y = _short(self.y(value))
            line = {"class": "grid", "x1": _short(self._left), "x2": right, "y1": y, "y2": y}
            place = {"class": "tick end", "x": _short(self._left - 6), "y": _short(float(y) + 4)}
            shapes += [Shape("line", line), Shape("text", place, text)]
        for value in self._across.ticks:
            place = {"class": "tick", "x": _short(self.x(value)), "y": bottom + 16}
            shapes.append(Shape("text", place, _tick(value)))
        middle = {"class": "tick", "x": _short((self._left + right) / 2), "y": HEIGHT - 6}
        return [*shapes, Shape("text", middle, label)]

    def path(self, x: Array, y: Array) -> str:
        """A line, broken where there is no value."""
        words: list[str] = []
        pen = "M"
        for left, top in zip(self._xs(x), self._ys(y), strict=True):
            if math.isfinite(left) and math.isfinite(top):
                words.append(f"{pen}{_short(left)} {_short(top)}")
                pen = "L"
            else:
                pen = "M"
        return "".join(words)

    def band(self, line: Line) -> str:
        """The area from the least to the greatest, for each stretch without a gap."""
        low = np.asarray(line.low)
        finite = np.isfinite(low)
        stretches = np.split(np.arange(len(low)), np.flatnonzero(np.diff(finite.astype(int))) + 1)
        words: list[str] = []
        for part in stretches:
            if part.size and finite[part[0]]:
                back = part[::-1]
                there = self.path(line.x[part], np.asarray(line.high)[part])
                words.append(there + self.path(line.x[back], low[back]).replace("M", "L", 1) + "Z")
        return "".join(words)

    def lonely(self, colour: int, line: Line) -> list[Shape]:
        """Values without a neighbour, which no line would show; all of them where they are few."""
        finite = np.isfinite(line.y)
        near = np.concatenate([[False], finite[:-1]]) | np.concatenate([finite[1:], [False]])
        chosen = finite if finite.sum() <= 12 else finite & ~near
        return self.dots(colour, line.x[chosen], line.y[chosen])

    def dots(self, colour: int, x: Array, y: Array) -> list[Shape]:
        """A point for each pair that has a place."""
        places = zip(self._xs(x), self._ys(y), strict=True)
        return [
            Shape("circle", {"class": f"dot s{colour}", "cx": _short(a), "cy": _short(b), "r": 2.5})
            for a, b in places
            if math.isfinite(a) and math.isfinite(b)
        ]

    def cross(self, colour: int, step: float) -> Shape:
        """A mark at the foot of the chart, where a value is not finite."""
        place = f"M{_short(self.x(step) - 3)} {HEIGHT - _BOTTOM - 8}"
        return Shape("path", {"class": f"cross s{colour}", "d": f"{place}l6 6m-6 0l6 -6"})


def _nice(step: float) -> float:
    """The next of 1, 2, 2.5, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(side * power for side in (1, 2, 2.5, 5, 10) if side * power >= step * 0.999)


def _tick(value: float) -> str:
    for size, sign in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size and sign != "k":
            return f"{value / size:g}{sign}"
        if abs(value) >= size:
            return f"{value / 1e3:g}k"
    return f"{value:g}"


def _short(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
