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
_BAR = 12
_LEAST_STALL = 0.05
_RATES = {"steps_per_second": "steps/s", "examples_per_second": "examples/s"}


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
        self._start = self._step = self._steps = 0
        self._shown = 0.0
        self._talks = False

    def open(self, start: int, steps: int) -> None:
        """Shows the bar, or nothing yet."""
        self._stream = self._stream or sys.stderr
        self._start = self._step = start
        self._steps, self._shown = steps, time.monotonic()
        self._talks = jax.process_index() == 0
        if self._talks and self._stream.isatty():
            self._bar = _make_bar(self._stream)
            self._task = self._bar.add_task("", total=steps, completed=start, values="compiling")
            self._bar.start()

    def tick(self, step: int) -> None:
        """Moves the bar, at most ten times a second."""
        if self._bar is None:
            return
        if self._step == self._start:
            self._bar.update(self._task, values="training")
        self._step, now = step, time.monotonic()
        if now - self._shown >= _REFRESH:
            self._shown = now
            self._bar.update(self._task, completed=step)

    def record(self, record: Record) -> None:
        """Shows the record."""
        if not self._talks:
            return
        is_train = record.split == "train"
        if self._bar is not None:
            if is_train:
                # What the bar, the count and the time take of the line.
                taken = _BAR + 2 * len(str(self._steps)) + len("/") + len("0:00:00") + 3
                words = _words(record, self._bar.console.width - taken)
                self._bar.update(self._task, values=words)
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
        """Leaves the bar where the run ended."""
        if self._bar is not None:
            self._bar.update(self._task, completed=self._step)
            self._bar.stop()
            self._bar = None

    def _line(self, record: Record) -> str:
        place = f"step {record.step:>{len(str(self._steps))}}/{self._steps}"
        left = ""
        rate = record.values.get("steps_per_second")
        if rate and record.step < self._steps:
            left = f"  {_duration((self._steps - record.step) / rate)} left"
        return f"{place}  {record.split:10}  {_words(record)}{left}"


def _words(record: Record, room: int = 1000) -> str:
    """Loss first, then rates, then the rest; those that fit into so many characters."""
    rates = [name for name in _RATES if name in record.values]
    others = [name for name in record.values if name != "loss" and name not in rates]
    shown: dict[str, str] = {}
    for name in ["loss"] * ("loss" in record.values) + rates + others:
        value = record.values[name]
        if name == "stall" and value < _LEAST_STALL:
            continue
        if np.ndim(value) == 0:
            part = f"{name} {_short(value)}"
            if name in rates:
                part = f"{value:,.{0 if value >= 10 else 2}f} {_RATES[name]}"
            if len("  ".join([*shown.values(), part])) <= room:
                shown[name] = part
    return "  ".join(shown.pop(name) for name in sorted(shown, key=lambda name: name in rates))


def _short(value: Any) -> str:
    plain = isinstance(value, float) and 1e-3 <= abs(value) < 1e4
    return f"{value:.4f}" if plain else f"{value:.4g}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def _make_bar(stream: Any) -> Any:
    from rich import progress
    from rich.console import Console
    from rich.table import Column

    return progress.Progress(
        progress.BarColumn(bar_width=_BAR),
        progress.MofNCompleteColumn(table_column=Column(no_wrap=True)),
        progress.TimeRemainingColumn(table_column=Column(no_wrap=True)),
        progress.TextColumn(
            "{task.fields[values]}", table_column=Column(no_wrap=True, overflow="ellipsis")
        ),
        console=Console(file=stream),
        refresh_per_second=10,
    )
