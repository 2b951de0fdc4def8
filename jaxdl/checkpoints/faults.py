"""What goes wrong with a disk, in words that say what to do; and one run a folder.

Reads from: errors. Used by: checkpoints.store, recipe.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from jaxdl.errors import CheckpointError, JaxdlError

__all__ = ["lock", "writing"]

_CAUSES = {
    errno.ENOSPC: ("the disk is full", "free some space; what was saved before is whole"),
    errno.EDQUOT: ("the disk quota is used up", "free some space; what was saved before is whole"),
    errno.EACCES: ("permission is denied", "give a folder that you may write"),
    errno.EPERM: ("permission is denied", "give a folder that you may write"),
    errno.EROFS: ("the file system is read-only", "give a folder that may be written"),
    errno.EIO: ("the file system does not answer (input/output error)", "mount it again"),
    errno.ESTALE: ("the network file system is gone (stale file handle)", "mount it again"),
    errno.ENOTCONN: ("the network file system is gone (not connected)", "mount it again"),
    errno.EHOSTDOWN: ("the network file system's host is down", "mount it again"),
    errno.ETIMEDOUT: ("the network file system does not answer", "mount it again"),
    errno.EFBIG: ("the file is larger than may be written", "raise the limit of file sizes"),
}


@contextmanager
def writing(folder: Path) -> Generator[None]:
    """Turns what goes wrong while a checkpoint is written into an error with a cause.

    Args:
        folder: of the checkpoints.

    Raises:
        CheckpointError: the block met a full disk, a folder that may not be written, a file
            system that is gone, or failed in another way.
    """
    try:
        yield
    except JaxdlError:
        raise
    except Exception as error:  # TensorStore and Orbax wrap a system's error in their own
        what, do = _cause(error)
        raise CheckpointError(
            f"a checkpoint could not be written into {folder}: {what}",
            expected="a folder that may be written, on a disk with room",
            do=f"{do}; then start again, and the run goes on from {_newest(folder)}",
        ) from error


def _cause(error: BaseException | None) -> tuple[str, str]:
    seen = error
    while seen is not None:
        if isinstance(seen, JaxdlError):
            raise seen
        number = getattr(seen, "errno", None)
        for code, words in _CAUSES.items():
            if number == code or os.strerror(code) in str(seen):
                return words
        seen = seen.__cause__ or seen.__context__
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200] if lines else ''}", "mend the cause"


def _newest(folder: Path) -> str:
    try:
        steps = sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())
    except OSError:
        steps = []
    return f"the checkpoint of step {steps[-1]}" if steps else "its start"


@contextmanager
def lock(folder: Path) -> Generator[None]:
    """Holds a run's folder; a process that dies lets go.

    Args:
        folder: of the run; it must exist.

    Raises:
        CheckpointError: another process holds it, or it cannot be written.
    """
    import fcntl

    path = folder / "lock"
    with writing(folder):
        handle = path.open("a+")
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            handle.seek(0)
            holder = handle.read().strip() or "another process"
            raise CheckpointError(
                f"the run {folder} is being trained by {holder}",
                expected="one process a run",
                do="wait for it, end it, or give another folder",
            ) from error
        handle.truncate(0)
        handle.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        handle.flush()
        yield
