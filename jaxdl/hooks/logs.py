"""Records on disk: JSON lines for programs, TensorBoard event files for people.

Only process 0 writes.

Reads from: errors, protocols. Used by: recipe, and by hand.
"""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdl.errors import CheckpointError
from jaxdl.protocols import Hook, Record

__all__ = ["JsonLines", "TensorBoard", "jsonable"]


class JsonLines(Hook):
    """Appends one line of JSON a record: ``{"step": .., "split": .., "time": .., NAME: ..}``.

    A line is written by one call of the operating system, so a reader, or a run that is killed,
    never sees half of one. Floats read back as the number they were; NaN and the infinities, which
    JSON lacks, become ``null``; arrays become lists. ``time`` is in seconds since 1970, UTC.

    Args:
        path: the file; its folder must exist. A file that is there is continued.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None
        self._lines = 0

    def open(self, start: int, steps: int) -> None:
        """Opens the file."""
        if jax.process_index() == 0:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            self._lines = self._path.read_bytes().count(b"\n")

    def remember(self) -> int:
        """How many lines there are."""
        return self._lines

    def recall(self, memory: Any) -> None:
        """Cuts what was written after that moment: it will be measured again.

        Raises:
            CheckpointError: lines are missing.
        """
        if self._file is None:
            return
        lines = self._path.read_bytes().splitlines(keepends=True)
        if len(lines) < memory:
            raise CheckpointError(
                f"{self._path} has {len(lines)} lines, and had {memory} when the run was saved",
                expected="the file as the run left it",
                do="put it back, or start again with --overwrite",
            )
        os.ftruncate(self._file, sum(map(len, lines[:memory])))
        self._lines = memory

    def record(self, record: Record) -> None:
        """Appends the record."""
        if self._file is not None:
            line = {"step": record.step, "split": record.split, "time": time.time()}
            text = json.dumps(jsonable({**line, **record.values}), allow_nan=False)
            os.write(self._file, f"{text}\n".encode())
            self._lines += 1

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def jsonable(value: Any) -> Any:
    """The value in what JSON has: arrays as lists, NaN and the infinities as ``None``.

    Args:
        value: numbers, arrays, and lists and dictionaries of them.

    Examples:
        >>> jsonable({"matrix": np.eye(2, dtype=int), "auroc": math.nan})
        {'matrix': [[1, 0], [0, 1]], 'auroc': None}
    """
    if isinstance(value, dict):
        return {str(key): jsonable(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(entry) for entry in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return jsonable(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


class TensorBoard(Hook):
    """Writes scalars as ``SPLIT/NAME`` to TensorBoard event files.

    Args:
        folder: of the event files; made when missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Any = None

    def open(self, start: int, steps: int) -> None:
        """Starts an event file."""
        if jax.process_index() == 0:
            import tensorboardX

            # What a killed run wrote beyond this step is hidden: it will be written again.
            purge = start + 1 if start else None
            self._writer = tensorboardX.SummaryWriter(str(self._folder), purge_step=purge)

    def record(self, record: Record) -> None:
        """Writes the record's numbers; arrays are left out."""
        if self._writer is not None:
            for name, value in record.values.items():
                if np.ndim(value) == 0:
                    self._writer.add_scalar(f"{record.split}/{name}", value, record.step)

    def close(self) -> None:
        """Ends the event file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
