"""The one check that shapes cannot make: that every label names a class.

A label out of range trains in silence (XLA clamps or fills the index), so it is looked for
before compute is spent.

Reads from: errors, data.source. Used by: data.columns, recipe.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from jaxdl.data.source import Source
from jaxdl.errors import DataError, closest

__all__ = ["check_labels"]

_CHUNK = 65_536


def check_labels(source: Source, num_classes: int, *, field: str = "label") -> None:
    """Checks that every value of an integer field lies in ``[0, num_classes)``.

    Reads the whole field: free on columns, a decoding of every record otherwise.

    Args:
        source: any source.
        num_classes: how many classes there are.
        field: the name of the field, any shape, integer dtype.

    Raises:
        DataError: there is no such field, it is not integer, or values are out of range; the
            message names the first rows.

    Examples:
        >>> from jaxdl import data
        >>> check_labels(data.arrays({"label": np.array([0, 1, 2])}), num_classes=3)
    """
    if field not in source.spec:
        raise DataError(
            f"the source has no field {field!r}",
            expected=f"an integer field with values from 0 to {num_classes - 1}",
            do=closest(field, source.spec),
        )
    dtype = np.dtype(source.spec[field].dtype)
    if dtype.kind not in "iub":
        raise DataError(
            f"field {field!r} is {dtype}, labels are class numbers",
            expected="an integer field",
            do="convert it, or do not give num_classes",
        )
    for start in range(0, len(source), _CHUNK):
        values = _values(source, field, start, min(start + _CHUNK, len(source)))
        outside = (values < 0) | (values >= num_classes)
        if outside.any():
            wrong = np.unique(np.argwhere(outside)[:, 0])
            found = sorted({int(value) for value in values[outside]})[:5]
            raise DataError(
                f"field {field!r} holds {found} at rows {(wrong[:5] + start).tolist()}"
                + (" and others" if len(wrong) > 5 else ""),
                expected=f"values from 0 to {num_classes - 1} ({num_classes} classes)",
                do="correct the labels, or give the true number of classes",
            )


def _values(source: Source, field: str, start: int, stop: int) -> npt.NDArray[Any]:
    columns = getattr(source, "columns", None)
    if columns is not None:
        return columns[field][start:stop]
    return source.gather(np.arange(start, stop))[field]
