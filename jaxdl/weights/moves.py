"""How one tensor of another library's file becomes one of ours, and back.

Every move is a rearrangement: it holds for weights, for gradients and for differences alike, of
NumPy arrays, JAX arrays and tracers.

Reads from: nothing of jaxdl. Used by: weights.names, the tables of the families.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

__all__ = ["AS_IS", "KERNEL", "Move", "flattened", "part_of", "shaped"]


@dataclass(frozen=True)
class Move:
    """A rearrangement and its inverse.

    Attributes:
        take: ``(theirs, our shape) -> ours``.
        give: ``ours -> theirs``.
        part: which of the parts of their tensor ours is, from 0.
        parts: how many equal parts of ours their tensor holds, side by side.
        axis: along which of their axes.
    """

    take: Callable[[Any, tuple[int, ...]], Any]
    give: Callable[[Any], Any]
    part: int = 0
    parts: int = 1
    axis: int = 0


def _kernel_of(theirs: Any, shape: tuple[int, ...]) -> Any:
    del shape
    return theirs.transpose(*range(2, theirs.ndim), 1, 0)


def _kernel_to(ours: Any) -> Any:
    n = ours.ndim
    return ours.transpose(n - 1, n - 2, *range(n - 2))


AS_IS = Move(lambda theirs, shape: theirs, lambda ours: ours)
"""Embeddings, scales, biases, statistics; and kernels that are stored ``[in, out]``."""

KERNEL = Move(_kernel_of, _kernel_to)
"""PyTorch's ``[out, in, *taps]`` to ours, ``[*taps, in, out]``: dense layers and convolutions."""


def shaped(theirs: Callable[[tuple[int, ...]], tuple[int, ...]]) -> Move:
    """A tensor with the same numbers in another shape, such as ``[1, T, D]`` for ``[T, D]``.

    Args:
        theirs: their shape from ours.

    Examples:
        >>> import numpy as np
        >>> shaped(lambda shape: (1, *shape)).give(np.zeros((3, 2))).shape
        (1, 3, 2)
    """
    return Move(
        lambda x, shape: x.reshape(shape), lambda x: x.reshape(theirs(tuple(map(int, x.shape))))
    )


def flattened(height: int, width: int) -> Move:
    """The kernel of a dense layer on a flattened image: theirs is flattened channels first.

    Args:
        height: of the image that is flattened.
        width: of it.

    Examples:
        >>> import numpy as np
        >>> flattened(2, 2).take(np.arange(8).reshape(1, 8), (8, 1))[:, 0].tolist()
        [0, 4, 1, 5, 2, 6, 3, 7]
    """

    def take(theirs: Any, shape: tuple[int, ...]) -> Any:
        images = theirs.reshape(theirs.shape[0], -1, height, width)
        return images.transpose(2, 3, 1, 0).reshape(shape)

    def give(ours: Any) -> Any:
        images = ours.reshape(height, width, -1, ours.shape[-1])
        return images.transpose(3, 2, 0, 1).reshape(ours.shape[-1], -1)

    return Move(take, give)


def part_of(move: Move, part: int, parts: int, *, axis: int) -> Move:
    """A move of one of several equal parts that they hold as one tensor.

    Args:
        move: of the part on its own.
        part: which, from 0.
        parts: how many.
        axis: of their tensor, along which the parts lie.
    """
    return replace(move, part=part, parts=parts, axis=axis)
