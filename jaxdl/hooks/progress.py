"""How far the run is: a bar on a terminal, plain lines anywhere else.

Reads from: protocols. Used by: recipe, and by hand.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import jax
import numpy as np

from jaxdl.protocols import Hook, Record

__all__ = ["Progress"]

_REFRESH = 0.1
_RATES = ("steps_per_second", "examples_per_second")


class Progress(Hook):
    """Steps, rate, loss and the time left, on process 0.

    Records of other splits than ``train`` stay as a line each. Where the stream is no terminal,
    train records are lines too, at most one every ``interval`` seconds, and the last.

    Args:
        stream: a text stream; ``sys.stderr`` at the time of the run when ``None``.
        interval: seconds between plain lines.
    """

    def __init__(self, stream: Any = None, *, interval: float = 5.0) -> None:
        self._stream = stream
        self._interval = interval
        self._bar: Any = None
        self._task: Any = None
        self._steps = 0
        self._shown = 0.0
        self._talks = False

    def open(self, start: int, steps: int) -> None:
        """Shows the bar, or nothing yet."""
        self._stream = self._stream or sys.stderr
        self._steps, self._shown = steps, time.monotonic()
        self._talks = jax.process_index() == 0
        if self._talks and self._stream.isatty():
            self._bar = _make_bar(self._stream)
            self._task = self._bar.add_task("compiling", total=steps, completed=start, values="")
            self._bar.start()

    def tick(self, step: int) -> None:
        """Moves the bar, at most ten times a second."""
        if self._bar is None:
            return
        now = time.monotonic()
        if now - self._shown >= _REFRESH or step == self._steps:
            self._shown = now
            self._bar.update(self._task, completed=step, description="training")

    def record(self, record: Record) -> None:
        """Shows the record."""
        if not self._talks:
            return
        is_train = record.split == "train"
        if self._bar is not None:
            if is_train:
                self._bar.update(self._task, values=_words(record))
            else:
                self._bar.console.print(self._line(record), highlight=False)
            return
        now = time.monotonic()
        if is_train and now - self._shown < self._interval and record.step < self._steps:
            return
        self._shown = now if is_train else self._shown
        self._stream.write(self._line(record) + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Leaves the bar as it is."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _line(self, record: Record) -> str:
        place = f"step {record.step:>{len(str(self._steps))}}/{self._steps}"
        left = ""
        rate = record.values.get("steps_per_second")
        if rate and record.step < self._steps:
            left = f"  {_duration((self._steps - record.step) / rate)} left"
        return f"{place}  {record.split:10}  {_words(record)}{left}"


def _words(record: Record) -> str:
    parts = [
        f"{name} {_short(value)}"
        for name, value in record.values.items()
        if name not in _RATES and np.ndim(value) == 0
    ]
    for name, unit in zip(_RATES, ("steps/s", "examples/s"), strict=True):
        if name in record.values:
            parts.append(f"{record.values[name]:,.{0 if record.values[name] >= 10 else 2}f} {unit}")
    return "  ".join(parts)


def _short(value: Any) -> str:
    return (
        f"{value:.4f}" if isinstance(value, float) and 1e-3 <= abs(value) < 1e4 else f"{value:.4g}"
    )


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def _make_bar(stream: Any) -> Any:
    from rich import progress
    from rich.console import Console

    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[values]}"),
        progress.TimeRemainingColumn(),
        console=Console(file=stream),
        refresh_per_second=10,
    )
