"""Batches with some left out: what a run reads after it went back to before they spoiled it.

Reads from: nothing of jaxdl. Used by: recipe.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["Skipping", "with_skipped"]

Ranges = tuple[tuple[int, int], ...]


class Skipping:
    """``batches`` without the batches of some ranges: those after them move up.

    Args:
        batches: by number.
        skipped: ``(first, stop)`` pairs of batch numbers, in any order.

    Attributes:
        batch_size: of ``batches``, where they have one.
        skipped: the ranges, ascending and apart.

    Examples:
        >>> [Skipping([0, 10, 20, 30, 40, 50], [(1, 3)])[k] for k in range(3)]
        [0, 30, 40]
    """

    def __init__(self, batches: Any, skipped: Sequence[tuple[int, int]]) -> None:
        self._batches = batches
        self.skipped = _merged(skipped)
        self.batch_size = getattr(batches, "batch_size", None)

    def number(self, k: int) -> int:
        """Which batch comes ``k``-th."""
        for first, stop in self.skipped:
            if k >= first:
                k += stop - first
        return k

    def __getitem__(self, k: int) -> Any:
        """The ``k``-th batch of those that are left."""
        return self._batches[self.number(k)]


def with_skipped(skipped: Sequence[tuple[int, int]], first: int, last: int) -> Ranges:
    """The ranges with the batches of some steps added.

    Args:
        skipped: ranges of batch numbers that are left out already.
        first: the first step to leave out the batch of, counted from 1.
        last: the last one.

    Examples:
        >>> with_skipped([(1, 3)], 2, 3)
        ((1, 5),)
    """
    before = Skipping((), skipped)
    return _merged([*skipped, (before.number(first - 1), before.number(last - 1) + 1)])


def _merged(ranges: Sequence[tuple[int, int]]) -> Ranges:
    merged: list[tuple[int, int]] = []
    for first, stop in sorted((int(first), int(stop)) for first, stop in ranges):
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((first, stop))
    return tuple(merged)
