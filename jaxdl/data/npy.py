"""The bytes of a ``.npy`` file and their SHA-256, so that a column in memory and its file agree.

Reads from: nothing of jaxdl. Used by: data.sources, data.cache.
"""

from __future__ import annotations

import hashlib
import io
import json
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["column_sha256", "digest", "npy_header"]

_BLOCK = 1 << 24


def npy_header(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    """What a ``.npy`` file of a C-ordered array begins with.

    Args:
        shape: of the whole array.
        dtype: of its elements.

    Returns:
        Magic string and header; the array's bytes follow them in the file.
    """
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer,
        {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape},
    )
    return buffer.getvalue()


def column_sha256(column: npt.NDArray[Any]) -> str:
    """SHA-256 of the ``.npy`` file that would hold ``column``, without writing it.

    Args:
        column: shape ``[rows, ...]``.

    Returns:
        64 hexadecimal digits.
    """
    sha = hashlib.sha256(npy_header(column.shape, column.dtype))
    rows = max(1, _BLOCK // max(1, column.nbytes // max(1, len(column))))
    for start in range(0, len(column), rows):
        sha.update(np.ascontiguousarray(column[start : start + rows]).view(np.uint8).data)
    return sha.hexdigest()


def digest(value: object) -> str:
    """SHA-256 of ``value`` written as JSON with sorted keys.

    Args:
        value: anything JSON can hold.

    Returns:
        64 hexadecimal digits.

    Examples:
        >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
        True
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
