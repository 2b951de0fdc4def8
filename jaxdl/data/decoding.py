"""A source that decodes each row when it is asked for: what a cache is made from, and the way to
read records that are too large to keep decoded.

Reads from: errors, data.source. Used by: data.image_files, data.prepared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
import numpy.typing as npt

from jaxdl.data.columns import check_field
from jaxdl.errors import DataError

__all__ = ["RandomAccess", "Records", "records"]


@runtime_checkable
class RandomAccess(Protocol):
    """A sequence of examples: a list, a ``tfds.data_source``, a Grain data source."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class Records:
    """A source over a random-access sequence of examples; see ``records``.

    Args:
        examples: decoded one at a time, at every ``gather``.
        fingerprint: as ``Source.fingerprint``.
        transform: from an example to the fields of one row.
        class_names: the names of the classes of integer fields.
    """

    def __init__(
        self,
        examples: RandomAccess,
        *,
        fingerprint: str,
        transform: Callable[[Any], Mapping[str, Any]] | None = None,
        class_names: Mapping[str, Sequence[str]] | None = None,
    ):
        if len(examples) == 0:
            raise DataError(
                "the data set is empty",
                expected="at least one row",
                do="check the split, the slice or the folder it came from",
            )
        self.fingerprint = fingerprint
        self.class_names = {name: tuple(names) for name, names in (class_names or {}).items()}
        self._examples = examples
        self._transform = transform
        self._spec: dict[str, jax.ShapeDtypeStruct] | None = None

    def __len__(self) -> int:
        return len(self._examples)

    @property
    def spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape and dtype of one row, by field; those of row 0, to which all others must keep."""
        if self._spec is None:
            row = {name: np.asarray(value) for name, value in self._row(0).items()}
            for name, value in row.items():
                check_field(name, value[None])
            self._spec = {n: jax.ShapeDtypeStruct(v.shape, v.dtype) for n, v in row.items()}
        return self._spec

    def gather(self, indices: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[Any]]:
        """Decodes the rows at ``indices``, in that order.

        Raises:
            DataError: a row differs from row 0 in fields, shape or dtype.
        """
        batch = {
            name: np.empty((len(indices), *row.shape), row.dtype) for name, row in self.spec.items()
        }
        for place, index in enumerate(indices.tolist()):
            row = self._row(index)
            for name, column in batch.items():
                value = np.asarray(row[name]) if name in row else None
                if value is None or (value.shape, value.dtype) != (column.shape[1:], column.dtype):
                    raise _uneven(name, index, value, column)
                column[place] = value
        return batch

    def _row(self, index: int) -> Mapping[str, Any]:
        example = self._examples[index]
        return example if self._transform is None else self._transform(example)


def records(
    examples: RandomAccess,
    *,
    fingerprint: str,
    transform: Callable[[Any], Mapping[str, Any]] | None = None,
) -> Records:
    """A source that decodes each row whenever it is asked for.

    For examples too large to keep decoded. Decoding is slow (measured: 4,000 to 12,000 28x28 PNG
    records a second, against 5,000,000 gathered rows): use ``cached(records(...))`` when the rows
    fit on the disk, else ``Batches(...).to_grain()`` with Grain's worker processes.

    Args:
        examples: anything with a length and an index, such as a ``tfds.data_source``.
        fingerprint: a digest or text that changes whenever the rows or ``transform`` change;
            only you can know.
        transform: from an example to a mapping of arrays, the fields of one row.

    Returns:
        A source.

    Raises:
        DataError: there is no example.

    Examples:
        >>> source = records([{"x": 1.0}, {"x": 2.0}], fingerprint="two numbers, version 1")
        >>> source.gather(np.array([1, 0, 1]))["x"]
        array([2., 1., 2.])
    """
    return Records(examples, fingerprint=fingerprint, transform=transform)


def _uneven(
    name: str, index: int, value: npt.NDArray[Any] | None, column: npt.NDArray[Any]
) -> DataError:
    got = "missing" if value is None else f"{value.dtype}{list(value.shape)}"
    return DataError(
        f"field {name!r} is {got} in row {index} and {column.dtype}{list(column.shape[1:])} in "
        "row 0",
        expected="one shape and dtype in all rows, as the columns of a batch must have",
        do="bring the rows to one shape: size=(height, width) for images, a transform that pads or "
        "crops for other fields, or leave the field out",
    )
