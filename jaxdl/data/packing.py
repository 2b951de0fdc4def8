"""Documents of many lengths in rows of one: several to a row, each seeing itself alone.

Reads from: errors. Used by: recipes, by choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from jaxdl.errors import ConfigError, DataError

__all__ = ["pack"]


def pack(
    documents: Sequence[Any], length: int, *, pad_token: int = 0, split: bool = False
) -> dict[str, npt.NDArray[np.int32]]:
    """Puts each document into the first row that has room for it.

    First-fit, in the order given: the same documents give the same rows. ``models.segment_mask`` of
    the segments is the mask of attention with which no document sees another; a model whose call
    takes ``segments`` needs only those.

    The fields are a batch of ``objectives.language_model``, which reads rows one token longer than
    the model's context, and asks of each document what it would be asked alone.

    Args:
        documents: one row of token numbers each, of any lengths.
        length: ``T``, of every row.
        pad_token: what fills the rest of a row.
        split: cut a document that is longer than ``length`` into pieces, each a document of its
            own; else it is an error.

    Returns:
        Fields of shape ``[rows, T]``: ``tokens``; ``segments``, numbered from 1 in each row, 0 on
        padding; and ``positions``, from 0 in each document.

    Raises:
        ConfigError: the length is no positive number.
        DataError: there are no documents, or one is empty, too long, or no row of integers.

    Examples:
        >>> packed = pack([[5, 6, 7], [8, 9], [4]], 4)
        >>> packed["tokens"].tolist(), packed["segments"].tolist()
        ([[5, 6, 7, 4], [8, 9, 0, 0]], [[1, 1, 1, 2], [1, 1, 0, 0]])
    """
    if length < 1:
        raise ConfigError(f"length is {length}", expected="at least 1", do="give longer rows")
    pieces = _pieces(documents, length, split=split)
    rows, starts = _first_fit([len(piece) for piece in pieces], length)
    shape = (int(max(rows)) + 1, length)
    tokens = np.full(shape, pad_token, np.int32)
    segments, positions = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    counts = [0] * shape[0]
    for piece, row, start in zip(pieces, rows, starts, strict=True):
        counts[row] += 1
        own = slice(start, start + len(piece))
        tokens[row, own] = piece
        segments[row, own] = counts[row]
        positions[row, own] = np.arange(len(piece))
    return {"tokens": tokens, "segments": segments, "positions": positions}


def _pieces(documents: Sequence[Any], length: int, *, split: bool) -> list[npt.NDArray[Any]]:
    pieces: list[npt.NDArray[Any]] = []
    for index, document in enumerate(documents):
        tokens = np.asarray(document)
        if tokens.ndim != 1 or not tokens.size or tokens.dtype.kind not in "iu":
            raise DataError(
                f"document {index} has shape {list(tokens.shape)} and dtype {tokens.dtype}",
                expected="a row of at least one integer",
                do="leave empty documents out",
            )
        if len(tokens) > length and not split:
            raise DataError(
                f"document {index} has {len(tokens)} tokens",
                expected=f"at most {length}, the length of a row",
                do="cut it, give longer rows, or set split=True",
            )
        pieces += [tokens[start : start + length] for start in range(0, len(tokens), length)]
    if not pieces:
        raise DataError("there are no documents", expected="at least one", do="check the text")
    return pieces


def _first_fit(sizes: Sequence[int], length: int) -> tuple[list[int], list[int]]:
    """The row of each piece, and where in the row it begins.

    A tree over the rows holds the most room that any row below a node has, so that a piece is
    placed in as many steps as the tree is high.
    """
    leaves = 1 << max(len(sizes) - 1, 1).bit_length()
    room = [length] * (2 * leaves)
    rows: list[int] = []
    starts: list[int] = []
    for size in sizes:
        node = 1
        while node < leaves:
            node = 2 * node if room[2 * node] >= size else 2 * node + 1
        rows.append(node - leaves)
        starts.append(length - room[node])
        room[node] -= size
        while node > 1:
            node //= 2
            room[node] = max(room[2 * node], room[2 * node + 1])
    return rows, starts
