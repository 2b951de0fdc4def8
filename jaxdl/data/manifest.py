"""The manifest of a cache folder: what its files are, and the checksum of that statement.

It is written last, so a folder without one is a folder that was never finished.

Reads from: errors, data.npy. Used by: data.cache.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from jaxdl.data.npy import digest
from jaxdl.errors import CacheError

__all__ = ["Column", "Manifest", "read_manifest", "write_manifest"]

_NAME = "manifest.json"
_FORMAT = 1


@dataclass(frozen=True)
class Column:
    """One field on disk.

    Attributes:
        file: name of the ``.npy`` file.
        shape: ``(rows, ...)``.
        dtype: NumPy's name of it.
        bytes: size of the file.
        sha256: of the file.
        mtime_ns: its modification time in nanoseconds when it was written.
    """

    file: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    sha256: str
    mtime_ns: int


@dataclass(frozen=True)
class Manifest:
    """What a cache folder holds.

    Attributes:
        made_from: fingerprint of the source it was decoded from.
        columns: by field name.
        class_names: names of the classes of integer fields.
    """

    made_from: str
    columns: Mapping[str, Column]
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, Any])


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes ``manifest.json`` into a finished folder.

    Args:
        folder: where the columns lie.
        manifest: what to say of them.
    """
    body = json.loads(json.dumps({"format": _FORMAT, **asdict(manifest)}))
    with (folder / _NAME).open("w") as file:
        json.dump({**body, "checksum": digest(body)}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def read_manifest(folder: Path) -> Manifest:
    """Reads what a cache folder should hold.

    Args:
        folder: the cache folder.

    Returns:
        The manifest.

    Raises:
        CacheError: there is none, or it was altered, or another version of jaxdl wrote it.
    """
    path = folder / _NAME
    try:
        body = json.loads(path.read_text())
        checksum = body.pop("checksum")
        if checksum != digest(body) or body.pop("format") != _FORMAT:
            raise ValueError("its checksum or format is not the one expected")
        columns = {
            name: Column(shape=tuple(entry.pop("shape")), **entry)
            for name, entry in body["columns"].items()
        }
        names = {name: tuple(names) for name, names in body["class_names"].items()}
        return Manifest(body["made_from"], columns, names)
    except FileNotFoundError as error:
        raise CacheError(
            f"there is no cache in {folder}",
            expected=f"a folder with {_NAME}",
            do="open it through its source, which makes it",
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CacheError(
            f"the manifest {path} cannot be used: {error}",
            expected="the file that jaxdl wrote, unchanged",
            do=f"delete {folder}; it is made again from its source",
        ) from error
