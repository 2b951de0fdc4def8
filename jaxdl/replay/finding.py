"""What is said about the first value of a program that is not finite: data and its reading.

Reads from: nothing of jaxdl. Used by: replay.trail, replay.nonfinite, and by hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "Kind", "Operand", "Source"]

Kind = Literal["nan", "inf"]
"""``"nan"`` when a value holds any NaN, ``"inf"`` when it holds infinities alone."""

Source = Literal["equation", "input", "constant"]
"""What brought the value into the program."""

_SHOWN_ROWS = 10


@dataclass(frozen=True)
class Operand:
    """The values that a floating input of an equation held. Complex numbers count by magnitude.

    Attributes:
        shape: of the input.
        dtype: its name, such as ``"float32"``.
        low: the smallest value.
        high: the largest value.
        smallest: the smallest magnitude; 0 when any entry is 0.
        entry: the value at the place of the output's first non-finite entry, or ``None`` when the
            two shapes differ.
    """

    shape: tuple[int, ...]
    dtype: str
    low: float
    high: float
    smallest: float
    entry: float | None = None

    def describe(self) -> str:
        """One phrase, such as ``float32[64, 10] from -2.1 to 0``.

        Examples:
            >>> Operand((64, 10), "float32", -2.1, 0.0, 0.0).describe()
            'float32[64, 10] from -2.1 to 0'
        """
        text = _type(self.dtype, self.shape)
        if self.low == self.high:
            return f"{text} of {self.low:.6g}"
        text += f" from {self.low:.6g} to {self.high:.6g}"
        if self.low < 0.0 < self.high:
            text += f" (magnitude from {self.smallest:.6g})"
        return text if self.entry is None else f"{text}, {self.entry:.6g} there"


@dataclass(frozen=True)
class Finding:
    """The first value that is not finite, and what made it.

    Attributes:
        kind: ``"nan"`` when the value holds any NaN, else ``"inf"``.
        source: an equation of the program, an input that was so already, or a constant.
        primitive: the innermost primitive, such as ``"log"``; ``""`` without an equation.
        path: the input's path, such as ``"batch/image"``; ``""`` without one.
        layer: the modules that the equation belongs to, such as ``"MLP/dense_1"``, or ``""``.
        direction: the pass of a differentiated function in which the value does harm, or ``None``
            outside of one. A local derivative such as ``0.5 / sqrt(x)``, which JAX computes on the
            way forward, belongs to the backward pass.
        where: ``file:line`` of the code that asked for it, or ``None`` when JAX does not say.
        shape: of the value.
        dtype: its name.
        count: how many of its entries are not finite.
        rows: which rows of the whole batch are concerned. When the value has no batch axis they
            are those of the first value made from it that has one. Empty when there is none.
        iterations: the iteration of each loop around the equation, the outermost first. With
            ``gradients.accumulate`` the first is the microbatch.
        operands: what the equation's floating inputs held.
    """

    kind: Kind
    source: Source
    primitive: str
    path: str
    layer: str
    direction: Literal["forward", "backward"] | None
    where: str | None
    shape: tuple[int, ...]
    dtype: str
    count: int
    rows: tuple[int, ...]
    iterations: tuple[int, ...]
    operands: tuple[Operand, ...]

    def describe(self) -> str:
        """A few plain lines for a person.

        Examples:
            >>> zero = Operand((4,), "float32", -2.1, 0.0, 0.0, 0.0)
            >>> print(Finding("inf", "equation", "log", "", "MLP/dense_1", "forward", "net.py:42",
            ...               (4,), "float32", 1, (2,), (), (zero,)).describe())
            first non-finite value: inf from `log` in MLP/dense_1 (forward), net.py:42
            float32[4], 1 of 4 entries; row 2
            its input was float32[4] from -2.1 to 0, 0 there
        """
        lines = [f"first non-finite value: {self._origin()}", self._extent()]
        texts = [operand.describe() for operand in self.operands]
        if len(texts) == 1:
            lines.append(f"its input was {texts[0]}")
        elif texts:
            lines.append("its inputs were " + "; and ".join(texts))
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.describe()

    def _origin(self) -> str:
        if self.source == "input":
            return f"{self.kind} in the input {self.path}"
        if self.source == "constant":
            return f"{self.kind} in a constant of the program"
        text = f"{self.kind} from `{self.primitive}`"
        text += f" in {self.layer}" if self.layer else ""
        text += f" ({self.direction})" if self.direction else ""
        return text + (f", {self.where}" if self.where else "")

    def _extent(self) -> str:
        size = 1
        for length in self.shape:
            size *= length
        text = f"{_type(self.dtype, self.shape)}, {self.count} of {size} entries"
        if self.rows:
            shown = _listed(self.rows[:_SHOWN_ROWS])
            more = len(self.rows) - _SHOWN_ROWS
            text += f"; row{'s' if len(self.rows) > 1 else ''} {shown}"
            text += f" and {more} more" if more > 0 else ""
        if self.iterations:
            text += f"; iteration{'s' if len(self.iterations) > 1 else ''} "
            text += _listed(self.iterations)
        return text


def _type(dtype: str, shape: tuple[int, ...]) -> str:
    return f"{dtype}{list(shape)}"


def _listed(numbers: tuple[int, ...]) -> str:
    return ", ".join(str(n) for n in numbers)
