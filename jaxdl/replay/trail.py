"""The non-finite values of one run of a program, each with those it was made from.

Only non-finite values are kept, and of each only numbers about it: a run without them leaves
nothing. Going back from a non-finite result therefore stays among non-finite values.

Reads from: replay.finding. Used by: replay.interpreter, replay.nonfinite.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.replay.finding import Kind, Operand, Source

__all__ = ["Node", "Trail", "bad_entries", "summarize"]


@dataclass(frozen=True)
class Node:
    """A value that is not finite.

    Attributes:
        source: what brought it into the program.
        kind: whether it holds a NaN, or infinities alone.
        shape: of the value.
        dtype: its name.
        count: how many entries are not finite.
        rows: the rows of the batch that hold one.
        parents: the numbers of the non-finite values that explain it.
        equations: the chain of equations that made it, innermost last.
        iterations: of the loops around it, outermost first.
        operands: what the equation's inputs held, kept where it may be the cause.
        path: of an input.
    """

    source: Source
    kind: Kind
    shape: tuple[int, ...]
    dtype: str
    count: int
    rows: tuple[int, ...] = ()
    parents: tuple[int, ...] = ()
    equations: tuple[Any, ...] = ()
    iterations: tuple[int, ...] = ()
    operands: tuple[Operand, ...] = ()
    path: str = ""


class Trail:
    """All non-finite values of a run, numbered in the order in which they were made."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []

    def add(self, node: Node) -> int:
        """Keeps a value.

        Args:
            node: the value.

        Returns:
            Its number.
        """
        self.nodes.append(node)
        return len(self.nodes) - 1

    def explain(self, kind: Kind, candidates: Iterable[int]) -> tuple[int, ...]:
        """Those among an equation's non-finite inputs that explain its output.

        A NaN is explained by the inputs that hold a NaN, and only without one by infinities.

        Args:
            kind: of the output.
            candidates: the numbers of the inputs.
        """
        known = tuple(dict.fromkeys(candidates))
        nans = tuple(n for n in known if self.nodes[n].kind == "nan")
        return nans if kind == "nan" and nans else known

    def cause(self, results: Sequence[int]) -> int:
        """The number of the first cause of the non-finite results; see ``find_nonfinite``.

        Args:
            results: the numbers of the non-finite results, at least one.
        """
        back = self.back(self._telling(results))
        rules = (
            self._is_nan_input,
            self._is_input,
            self._is_made,
            self._is_turned,
            self._is_equation,
        )
        for rule in rules:
            for number in back:
                if rule(number):
                    return number
        return back[0]

    def back(self, results: Iterable[int]) -> list[int]:
        """The numbers of all values that explain the results, in the order they were made.

        Args:
            results: the numbers of non-finite results.
        """
        seen: set[int] = set()
        ahead = list(results)
        while ahead:
            number = ahead.pop()
            if number not in seen:
                seen.add(number)
                ahead.extend(self.nodes[number].parents)
        return sorted(seen)

    def rows_after(self, cause: int, results: Sequence[int]) -> tuple[int, ...]:
        """The rows of a cause, or of the first value made from it that has a batch axis.

        A cause outside of a loop over the batch may spoil rows in each of its iterations: theirs
        are taken together.

        Args:
            cause: the number of the first cause.
            results: the numbers of the non-finite results.
        """
        origin = self.nodes[cause]
        if origin.rows:
            return origin.rows
        reached, rows = {cause}, set[int]()
        place: list[int] = []
        for number in self.back(self._telling(results)):
            node = self.nodes[number]
            if not reached.intersection(node.parents):
                continue
            reached.add(number)
            same_iteration = node.iterations[: len(origin.iterations)] == origin.iterations
            if node.rows and same_iteration:
                place = place or [id(eqn) for eqn in node.equations]
                if [id(eqn) for eqn in node.equations] == place:
                    rows.update(node.rows)
        return tuple(sorted(rows))

    def escapes(self, cause: int, results: Sequence[int], barred: Callable[[Node], bool]) -> bool:
        """Whether a value reaches a result, or any scalar such as a loss, past some equations.

        Args:
            cause: the number of the value.
            results: the numbers of the non-finite results.
            barred: whether the way may not go through a value.
        """
        reached = {cause}
        for number in range(cause + 1, len(self.nodes)):
            node = self.nodes[number]
            if reached.intersection(node.parents) and not barred(node):
                if node.shape == ():
                    return True
                reached.add(number)
        return bool(reached.intersection(results))

    def _telling(self, results: Sequence[int]) -> Sequence[int]:
        """NaN results; without one, infinite results that the program made itself."""
        nans = [n for n in results if self.nodes[n].kind == "nan"]
        made = [] if nans else [n for n in results if any(map(self._is_made, self.back([n])))]
        return nans or made or results

    def _is_input(self, number: int) -> bool:
        return self.nodes[number].source == "input"

    def _is_nan_input(self, number: int) -> bool:
        return self._is_input(number) and self.nodes[number].kind == "nan"

    def _is_equation(self, number: int) -> bool:
        return self.nodes[number].source == "equation"

    def _is_made(self, number: int) -> bool:
        return self._is_equation(number) and not self.nodes[number].parents

    def _is_turned(self, number: int) -> bool:
        node = self.nodes[number]
        parents = [self.nodes[n].kind for n in node.parents]
        return self._is_equation(number) and node.kind == "nan" and "nan" not in parents


def bad_entries(data: Any) -> tuple[Kind, np.ndarray] | None:
    """Which entries of a value are not finite, or ``None`` when all are or it holds no floats.

    Args:
        data: an array, a scalar, or anything else that a program may hold (keys, tokens).
    """
    if not _is_float(data):
        return None
    array = np.asarray(jax.device_get(data))
    bad = np.asarray(~np.isfinite(array))
    if not bad.any():
        return None
    return ("nan" if np.isnan(array).any() else "inf"), bad


def summarize(inputs: Iterable[Any], output: Any) -> tuple[Operand, ...]:
    """What the floating inputs of an equation held, and held where its output first went bad.

    Args:
        inputs: of the equation.
        output: one of its outputs, which is not finite.
    """
    result = np.asarray(jax.device_get(output))
    marked: Callable[[Any], Any] = np.isnan if np.isnan(result).any() else np.isinf
    first = np.unravel_index(int(np.argmax(marked(result))), result.shape)
    found: list[Operand] = []
    for data in inputs:
        if not _is_float(data):
            continue
        array = np.asarray(jax.device_get(data))
        with np.errstate(all="ignore"):
            magnitude = np.abs(array).astype(np.float64)
            wide = magnitude if np.iscomplexobj(array) else array.astype(np.float64)
            at = float(wide[first]) if array.shape == result.shape and array.ndim else None
            ends = float(wide.min()), float(wide.max()), float(magnitude.min())
        found.append(Operand(array.shape, str(array.dtype), *ends, at))
    return tuple(found)


def _is_float(data: Any) -> bool:
    """Typed keys and tokens are arrays of nothing that could be finite."""
    if isinstance(data, float | complex):
        return True
    dtype = getattr(data, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jnp.inexact) and data.size > 0
