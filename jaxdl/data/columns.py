"""Sources that need no decoding: whole arrays, in memory, in an ``.npz`` file or mapped from disk.

Reads from: errors, protocols, data.labels, data.npy. Used by: data.cache, recipe.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpy.typing as npt

from jaxdl.data.labels import check_labels
from jaxdl.data.npy import column_sha256, digest
from jaxdl.errors import DataError, closest
from jaxdl.protocols import EXAMPLE_KEY

__all__ = ["Columns", "arrays", "check_field", "npz"]


class Columns:
    """A source whose fields are whole arrays, in memory or mapped from disk.

    Args:
        columns: one array a field, shape ``[rows, ...]``; they are not copied.
        class_names: the names of the classes of integer fields, where they are known.
        fingerprint: of these columns, when it is known already; else it is computed when asked.

    Raises:
        DataError: no fields, no rows, unequal rows, a reserved name, or a field that is no array
            of numbers.
    """

    def __init__(
        self,
        columns: Mapping[str, npt.NDArray[Any]],
        *,
        class_names: Mapping[str, Sequence[str]] | None = None,
        fingerprint: str | None = None,
    ):
        _check_columns(columns)
        self.columns = dict(columns)
        self.class_names = {name: tuple(names) for name, names in (class_names or {}).items()}
        self._fingerprint = fingerprint
        self._rows = len(next(iter(self.columns.values())))

    def __len__(self) -> int:
        return self._rows

    @property
    def spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape and dtype of one row, by field."""
        return {
            name: jax.ShapeDtypeStruct(column.shape[1:], column.dtype)
            for name, column in self.columns.items()
        }

    @property
    def fingerprint(self) -> str:
        """The digest of names, dtypes, shapes and bytes (measured: 1.7 GB/s), computed once."""
        if self._fingerprint is None:
            hashes = {name: column_sha256(column) for name, column in self.columns.items()}
            self._fingerprint = digest(hashes)
        return self._fingerprint

    def gather(self, indices: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[Any]]:
        """The rows at ``indices``, in that order.

        NumPy releases the interpreter's lock while it copies. Every call allocates: JAX on the
        CPU may alias the memory of an array it is given, so a buffer must not be used twice.
        """
        return {name: np.take(column, indices, axis=0) for name, column in self.columns.items()}


def arrays(
    fields: Mapping[str, npt.ArrayLike],
    *,
    num_classes: int | None = None,
    class_names: Mapping[str, Sequence[str]] | None = None,
) -> Columns:
    """A source of arrays that are in memory already.

    Args:
        fields: by field name, arrays of shape ``[rows, ...]`` with equal ``rows``.
        num_classes: when given, every ``label`` is checked to lie in ``[0, num_classes)``.
        class_names: the names of the classes of integer fields.

    Returns:
        A source over the arrays; they are not copied, so do not write to them.

    Raises:
        DataError: the fields are not arrays of numbers of equal length, or a label is out of
            range.

    Examples:
        >>> source = arrays({"image": np.zeros((5, 28, 28, 1), np.uint8), "label": np.arange(5)})
        >>> len(source), source.spec["image"].shape
        (5, (28, 28, 1))
        >>> source.gather(np.array([4, 0]))["label"]
        array([4, 0])
    """
    source = Columns(
        {name: np.asarray(value) for name, value in fields.items()}, class_names=class_names
    )
    if num_classes is not None:
        check_labels(source, num_classes)
    return source


def npz(
    path: str | os.PathLike[str],
    fields: Mapping[str, str] | None = None,
    *,
    num_classes: int | None = None,
) -> Columns:
    """A source of the arrays of an ``.npz`` file, read into memory. Pickles are never loaded.

    Args:
        path: the file.
        fields: field name -> key in the file, such as ``{"image": "x_train"}``; ``None`` takes
            every key under its own name.
        num_classes: as in ``arrays``.

    Returns:
        A source of the arrays.

    Raises:
        DataError: the file is missing, is no ``.npz``, holds pickled objects, or lacks a key; or
            as ``arrays``.

    Examples:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "toy.npz"
        >>> np.savez(file, x=np.zeros((3, 2)), y=np.array([0, 1, 0]))
        >>> len(npz(file, {"image": "x", "label": "y"}))
        3
    """
    path = Path(path)
    do = "write it with numpy.savez(path, image=..., label=...)"
    if not path.is_file():
        raise DataError(f"there is no file {path}", expected="an .npz file", do=do)
    try:
        # Opened here: NumPy leaves its own handle open when the file turns out to be no archive.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("it holds one array without a name")
            wanted = {key: key for key in archive.files} if fields is None else dict(fields)
            for key in wanted.values():
                if key not in archive.files:
                    raise DataError(
                        f"{path} has no array {key!r}",
                        expected=f"one of {', '.join(archive.files) or 'none'}",
                        do=closest(key, archive.files),
                    )
            loaded = {name: archive[key] for name, key in wanted.items()}
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{path} cannot be read as .npz: {error}",
            expected="an archive of plain arrays, without pickled objects",
            do=do,
        ) from error
    return arrays(loaded, num_classes=num_classes)


def check_field(name: str, column: npt.NDArray[Any]) -> None:
    """Checks that a field can be a column of a batch.

    Args:
        name: of the field.
        column: its values, shape ``[rows, ...]``.

    Raises:
        DataError: it is no array of numbers with rows, or its name is reserved.
    """
    if column.ndim == 0 or column.dtype.kind in "OSUMm" or column.dtype.fields is not None:
        raise DataError(
            f"field {name!r} is {column.dtype}{list(column.shape)}",
            expected="an array of numbers whose first axis counts the rows",
            do="convert it with numpy.asarray, or leave the field out",
        )
    if name == EXAMPLE_KEY:
        raise DataError(
            f"a field is named {EXAMPLE_KEY!r}, which the train step adds itself",
            expected="any other name",
            do="rename the field",
        )


def _check_columns(columns: Mapping[str, npt.NDArray[Any]]) -> None:
    shapes = {name: f"{column.dtype}{list(column.shape)}" for name, column in columns.items()}
    for name, column in columns.items():
        check_field(name, column)
    lengths = {column.shape[0] for column in columns.values()}
    if len(lengths) != 1:
        raise DataError(
            f"the fields have these shapes: {shapes or 'there is no field'}",
            expected="at least one field, and one number of rows for all",
            do="give every field one entry an example",
        )
    if lengths == {0}:
        raise DataError(
            f"the data set is empty: {shapes}",
            expected="at least one row",
            do="check the split, the slice or the file it came from",
        )
