"""Where data lies on disk, and how a folder appears there whole or not at all.

Everything is under one root: the argument, else the environment variable ``JAXDL_DATA_DIR``, else
``~/.cache/jaxdl``, looked up at every call. A folder is made beside its place and renamed into it
under a lock, so that readers and other processes never see half of it.

Reads from: errors. Used by: data.cache, data.prepared, data.preparing, data.handwritten.
"""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from jaxdl.errors import CacheError

__all__ = [
    "cache_folder",
    "check_space",
    "data_folder",
    "disk_errors",
    "locked",
    "move_into_place",
    "scratch",
]

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


def data_folder(given: str | os.PathLike[str] | None = None) -> Path:
    """The folder of prepared data sets, laid out as TFDS does (``NAME/VERSION``).

    Args:
        given: the user's choice.

    Returns:
        ``given``, else ``$JAXDL_DATA_DIR``, else ``~/.cache/jaxdl``; it need not exist.
    """
    chosen = given or os.environ.get("JAXDL_DATA_DIR") or Path("~", ".cache", "jaxdl")
    return Path(chosen).expanduser()


def cache_folder(
    given: str | os.PathLike[str] | None = None,
    data_dir: str | os.PathLike[str] | None = None,
) -> Path:
    """The folder of decoded columns.

    Args:
        given: the user's choice.
        data_dir: the user's choice of the data folder.

    Returns:
        ``given``, else ``columns`` in the data folder; it need not exist.
    """
    return Path(given).expanduser() if given else data_folder(data_dir) / "columns"


@contextmanager
def locked(final: Path) -> Generator[None]:
    """Holds the lock of the folder ``final``, waiting for whoever has it. A dying process lets go.

    Args:
        final: the folder's place; its parent is made.
    """
    import fcntl

    final.parent.mkdir(parents=True, exist_ok=True)
    with (final.parent / f".{final.name}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextmanager
def scratch(final: Path) -> Generator[Path]:
    """A new folder beside ``final``, on the same file system, that is gone at the end.

    Only while holding ``locked(final)``: it also removes what a killed process left behind.

    Args:
        final: the folder that is being made.
    """
    for left_behind in final.parent.glob(f".{final.name}-*"):
        shutil.rmtree(left_behind, ignore_errors=True)
    folder = final.parent / f".{final.name}-{uuid.uuid4().hex[:12]}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def move_into_place(new: Path, final: Path) -> None:
    """Renames ``new`` to ``final``; a folder that was there is moved into ``new``'s parent.

    Args:
        new: a complete folder inside ``scratch(final)``.
        final: its place.
    """
    if final.exists():
        final.rename(new.parent / "replaced")
    new.rename(final)


def check_space(folder: Path, needed: int) -> None:
    """Finds out before the work whether the disk has room.

    Args:
        folder: where something will be written; it need not exist.
        needed: bytes.

    Raises:
        OSError: ``ENOSPC``; ``disk_errors`` says the rest.
    """
    free = _free(folder)
    if free < needed:
        words = f"{os.strerror(errno.ENOSPC)}: {needed:,} bytes, {free:,} are free"
        raise OSError(errno.ENOSPC, words)


@contextmanager
def disk_errors(folder: Path, needed: int | None = None) -> Generator[None]:
    """Turns "disk full" and "not writable" of the block into errors that say what to do.

    Args:
        folder: what the block writes.
        needed: how many bytes that takes, where it is known.

    Raises:
        CacheError: the block met a full disk or a folder that may not be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            size = f"{needed:,} bytes" if needed is not None else "more room"
            raise CacheError(
                f"the disk is too full to write {folder}",
                expected=f"{size}; {_free(folder):,} bytes are free",
                do="free some space, or give a folder on a larger disk (or set JAXDL_DATA_DIR)",
            ) from error
        if error.errno in _FORBIDDEN:
            raise CacheError(
                f"{folder} cannot be written: {error}",
                expected="a folder that may be written",
                do="give cache_dir= and data_dir= (or set JAXDL_DATA_DIR) to a folder of your own",
            ) from error
        raise


def _free(folder: Path) -> int:
    place = folder.absolute()
    there = next(path for path in (place, *place.parents) if path.exists())
    return shutil.disk_usage(there).free
