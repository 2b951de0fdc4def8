"""Which rows of the batch an entry belongs to, followed through reshapes and into loops.

Beside a value that came from the batch by moving rows alone goes an array of row numbers, of the
shape of the value's leading axes: ``[B]`` for a field, ``[n, B / n]`` for one split in ``n``.

Reads from: nothing of jaxdl. Used by: replay.interpreter, replay.nonfinite.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["bad_rows", "follow_rows"]

_SAME = {"convert_element_type", "copy", "copy_p", "sharding_constraint"}


def follow_rows(
    primitive: str, params: Mapping[str, Any], rows: np.ndarray | None, shape: tuple[int, ...]
) -> np.ndarray | None:
    """The row numbers of an equation's output, or ``None`` when they are lost.

    Args:
        primitive: the name of the equation's primitive, which has one input.
        params: the equation's parameters.
        rows: the row numbers of the input.
        shape: of the output.

    Examples:
        >>> follow_rows("reshape", {}, np.arange(4), (2, 2, 5)).tolist()
        [[0, 1], [2, 3]]
    """
    if rows is None:
        return None
    if primitive in _SAME:
        return rows
    if primitive == "reshape":
        for axes in range(1, len(shape) + 1):
            if np.prod(shape[:axes]) == rows.size:
                return rows.reshape(shape[:axes])
    if primitive == "transpose":
        first = tuple(params["permutation"])[: rows.ndim]
        if sorted(first) == list(range(rows.ndim)):
            return rows.transpose(first)
    return None


def bad_rows(bad: np.ndarray, rows: np.ndarray | None) -> tuple[int, ...]:
    """The rows that hold a bad entry, in order; empty when the value's first axis is not theirs.

    Args:
        bad: booleans, of the value's shape.
        rows: the row numbers that the batch axis stands for here, shape ``[rows]``; a scalar where
            a loop takes one row at a time; ``None`` when nothing is known.

    Examples:
        >>> bad_rows(np.array([[False, True], [False, False]]), np.array([4, 6]))
        (4,)
    """
    if rows is None:
        return ()
    if rows.ndim == 0:
        return (int(rows),)
    if bad.ndim == 0 or bad.shape[0] != rows.shape[0]:
        return ()
    hit = bad.reshape(bad.shape[0], -1).any(axis=1)
    return tuple(sorted(int(row) for row in rows[hit]))
