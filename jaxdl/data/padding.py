"""Rows added to a batch to fill it, and the mask that takes them out of every sum.

A padded row repeats a real row of the same batch, so that nothing (a norm, a statistic, a NaN
check) meets a value that the data does not hold.

Reads from: errors, protocols. Used by: data.batches, placement.batches.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from jaxdl.errors import BatchError
from jaxdl.protocols import MASK

__all__ = ["mask_rows", "pad_batch"]


def pad_batch(batch: Mapping[str, npt.NDArray[Any]], size: int) -> dict[str, npt.NDArray[Any]]:
    """Fills a batch up to ``size`` rows by repeating its first row, and masks what it added.

    Args:
        batch: arrays of shape ``[B, ...]``; a ``mask`` among them is kept and extended by 0.
        size: at least ``B``.

    Returns:
        New arrays of shape ``[size, ...]``, always with a ``mask`` (float32 ``[size]`` if there
        was none). Fields that needed no rows are passed through.

    Raises:
        BatchError: no field, no rows, unequal rows, or more rows than ``size``.

    Examples:
        >>> padded = pad_batch({"label": np.array([7, 8])}, 3)
        >>> padded["label"], padded["mask"]
        (array([7, 8, 7]), array([1., 1., 0.], dtype=float32))
    """
    shapes = {name: list(np.shape(value)) for name, value in batch.items()}
    rows = {shape[0] if shape else 0 for shape in shapes.values()}
    if len(rows) != 1 or not 0 < (count := rows.pop()) <= size:
        raise BatchError(
            f"the fields {shapes or 'none'} cannot be padded to {size} rows",
            expected=f"one number of rows for all fields, from 1 to {size}",
            do="give every field one entry an example, or pad to a larger size",
        )
    indices = np.zeros(size, np.int64)
    indices[:count] = np.arange(count)
    padded = dict(batch) if count == size else {n: v[indices] for n, v in batch.items()}
    return mask_rows(padded, np.arange(size) < count)


def mask_rows(
    batch: Mapping[str, npt.NDArray[Any]], real: npt.NDArray[np.bool_]
) -> dict[str, npt.NDArray[Any]]:
    """Adds ``mask``, or sets the one there is to 0, where rows are not real.

    Args:
        batch: arrays of shape ``[B, ...]``.
        real: shape ``[B]``; false on padding.

    Returns:
        The batch with ``mask``: float32 ``[B]`` of 0 and 1, or the given mask in its own dtype.
    """
    mask = batch.get(MASK)
    if mask is None:
        return {**batch, MASK: real.astype(np.float32)}
    wide = real.reshape(real.shape + (1,) * (mask.ndim - 1))
    return {**batch, MASK: np.where(wide, mask, np.zeros((), mask.dtype))}
