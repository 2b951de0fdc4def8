"""What a data source is: rows of named fields, gathered by index.

Order, batching, padding and hosts are somebody else's business (``order``, ``batches``), so four
members are all that a source of one's own must have.

Reads from: nothing of jaxdl. Used by: everything else in data.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
import numpy.typing as npt

__all__ = ["Source"]


@runtime_checkable
class Source(Protocol):
    """Rows of named fields, in a fixed order, gathered by index.

    Attributes:
        spec: shape and dtype of one row, by field.
        fingerprint: a hexadecimal digest; equal fingerprints mean equal rows in equal order.
    """

    @property
    def spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape and dtype of one row, by field."""
        ...

    @property
    def fingerprint(self) -> str:
        """Equal fingerprints mean equal rows in equal order."""
        ...

    def __len__(self) -> int: ...

    def gather(self, indices: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[Any]]:
        """New arrays of shape ``[len(indices), ...]``, never views of the source."""
        ...
