"""Decode once: any source as memory-mapped ``.npy`` columns with a manifest of checksums.

Decoding a 28x28 PNG record takes 80 to 230 microseconds, gathering its decoded row 0.1. So a
source is read through once, into one file a field, and gathered from there ever after. The
folder appears whole or not at all; it is verified when it is opened, and made again, with a
warning, when it was damaged.

Reads from: errors, data.columns, data.folders, data.npy, data.source. Used by: data.prepared,
data.image_files.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from jaxdl.data.columns import Columns
from jaxdl.data.folders import (
    cache_folder,
    check_space,
    disk_errors,
    locked,
    move_into_place,
    scratch,
)
from jaxdl.data.manifest import Column, Manifest, read_manifest, write_manifest
from jaxdl.data.npy import digest, npy_header
from jaxdl.data.source import Source
from jaxdl.errors import CacheError, DataError

__all__ = ["cached", "open_columns"]

VERIFY_ALWAYS_BYTES = 1 << 30
"""Up to this size every opening reads and checks every byte (measured: 1.7 GB/s)."""

_CHUNK_BYTES = 1 << 24


def cached(
    source: Source,
    cache_dir: str | os.PathLike[str] | None = None,
    *,
    name: str = "columns",
) -> Columns:
    """The rows of ``source`` as memory-mapped columns, decoded at most once.

    The folder is ``cache_dir/NAME-FINGERPRINT``: a source that changes gets a new one. Processes
    that ask at the same time decode once and wait for it. To free the space, delete the folder.

    Args:
        source: whose rows all have one shape.
        cache_dir: ``None`` is ``columns`` in the data folder (see ``data.folders``).
        name: the readable part of the folder's name.

    Returns:
        The columns, equal to the rows of ``source``, in its order.

    Raises:
        CacheError: the folder cannot be written, or the disk is full (looked at before anything
            is decoded; what was written is removed).
        DataError: the source is empty or its rows differ in shape or dtype.

    Warns:
        UserWarning: the cache was damaged and is made again.
    """
    folder = cache_folder(cache_dir) / f"{name}-{source.fingerprint[:16]}"
    try:
        return _open_made_from(source, folder)
    except CacheError:
        pass  # absent or damaged: decided below, under the lock
    needed = _bytes_needed(source)
    with disk_errors(folder, needed), locked(folder):
        try:
            return _open_made_from(source, folder)
        except CacheError as error:
            if folder.exists():
                warnings.warn(
                    f"the cache is made again from its source: {error.what}", stacklevel=2
                )
        with scratch(folder) as temporary:
            check_space(folder, needed)
            _write(source, temporary / "columns")
            move_into_place(temporary / "columns", folder)
        return open_columns(folder)


def open_columns(folder: str | os.PathLike[str]) -> Columns:
    """Opens the columns that ``cached`` wrote, without their source.

    Sizes, dtypes and shapes are always checked. The checksums of all bytes are checked when the
    columns have at most 1 GiB together, or when a file's modification time is not the one that
    the manifest recorded (a larger cache that was changed under an unchanged time is not caught).

    Args:
        folder: the one that holds ``manifest.json``.

    Returns:
        The columns, mapped read-only from disk.

    Raises:
        CacheError: it is missing, incomplete or altered.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    always = sum(column.bytes for column in manifest.columns.values()) <= VERIFY_ALWAYS_BYTES
    try:
        columns = {
            name: _open_column(folder / column.file, column, always=always)
            for name, column in manifest.columns.items()
        }
    except (OSError, ValueError) as error:
        raise _damaged(folder, str(error)) from error
    return Columns(
        columns,
        class_names=manifest.class_names,
        fingerprint=digest({name: entry.sha256 for name, entry in manifest.columns.items()}),
    )


def _open_made_from(source: Source, folder: Path) -> Columns:
    if read_manifest(folder).made_from != source.fingerprint:
        raise _damaged(folder, "it was made from another source")
    return open_columns(folder)


def _open_column(path: Path, column: Column, *, always: bool) -> npt.NDArray[Any]:
    stat = path.stat()
    if stat.st_size != column.bytes:
        raise ValueError(f"{path.name} has {stat.st_size} bytes, not {column.bytes}")
    if always or stat.st_mtime_ns != column.mtime_ns:
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != column.sha256:
                raise ValueError(f"the bytes of {path.name} do not have their checksum")
    array = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    if (str(array.dtype), array.shape) != (column.dtype, column.shape):
        raise ValueError(f"{path.name} holds {array.dtype}{list(array.shape)}")
    return array


def _damaged(folder: Path, why: str) -> CacheError:
    return CacheError(
        f"the cache {folder} is damaged: {why}",
        expected="the files that its manifest names, unchanged",
        do=f"delete {folder}; it is made again from its source",
    )


def _write(source: Source, folder: Path) -> None:
    folder.mkdir()
    rows, spec = len(source), source.spec
    row_bytes = sum(_row_bytes(row) for row in spec.values())
    step = max(1, min(4096, _CHUNK_BYTES // max(1, row_bytes)))
    with ExitStack() as stack:
        writers = {
            name: stack.enter_context(_ColumnFile(folder, name, (rows, *row.shape), row.dtype))
            for name, row in spec.items()
        }
        for start in range(0, rows, step):
            chunk = source.gather(np.arange(start, min(start + step, rows)))
            for name, writer in writers.items():
                writer.append(np.ascontiguousarray(chunk[name]))
    columns = {name: writer.entry() for name, writer in writers.items()}
    class_names = getattr(source, "class_names", {})
    write_manifest(folder, Manifest(source.fingerprint, columns, class_names))


class _ColumnFile:
    """One ``.npy`` file written piece by piece, hashed on the way.

    Written with ``write``, never through a memory map: on a full disk a map dies by a signal.
    """

    def __init__(self, folder: Path, name: str, shape: tuple[int, ...], dtype: Any):
        self._path = folder / f"{quote(name, safe='')}.npy"
        self._shape, self._dtype = shape, np.dtype(dtype)
        self._sha = hashlib.sha256()

    def __enter__(self) -> _ColumnFile:
        self._file = self._path.open("wb")
        self._put(npy_header(self._shape, self._dtype))
        return self

    def __exit__(self, failed: object, *_: object) -> None:
        with self._file:
            self._file.flush()
            if failed is None:
                os.fsync(self._file.fileno())

    def append(self, rows: npt.NDArray[Any]) -> None:
        self._put(rows.reshape(-1).view(np.uint8).data)

    def _put(self, data: bytes | memoryview) -> None:
        self._sha.update(data)
        self._file.write(data)

    def entry(self) -> Column:
        stat = self._path.stat()
        return Column(
            file=self._path.name,
            shape=self._shape,
            dtype=str(self._dtype),
            bytes=stat.st_size,
            sha256=self._sha.hexdigest(),
            mtime_ns=stat.st_mtime_ns,
        )


def _row_bytes(row: Any) -> int:
    return int(np.prod(row.shape, dtype=np.int64)) * np.dtype(row.dtype).itemsize


def _bytes_needed(source: Source) -> int:
    for name, row in source.spec.items():
        if np.dtype(np.lib.format.dtype_to_descr(np.dtype(row.dtype))) != row.dtype:
            raise DataError(
                f"field {name!r} is {row.dtype}, which a .npy file cannot hold",
                expected="one of NumPy's own dtypes",
                do="convert the field, for example to float32",
            )
    columns = sum(len(source) * _row_bytes(row) for row in source.spec.values())
    return columns + 4096 * (len(source.spec) + 1)
