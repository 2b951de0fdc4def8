"""Ctrl-C and SIGTERM: the running step ends, the run is saved, and the process leaves.

Python runs a signal's handler between two of its own instructions, so a compile or a stalled wait
would hold it back. A thread therefore hears of signals too: it ends the process where nothing is
unsaved, and at the second signal always.

On many processes JAX's preemption service listens to SIGTERM, and all processes agree on the step
at which they stop.

Reads from: errors. Used by: loop.fit, recipe.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import jax

from jaxdl.errors import Interrupted

__all__ = ["PREEMPTED", "Signals"]

PREEMPTED = 75
"""The exit code of a run that a SIGTERM ended after saving: start it again and it goes on. It is
``EX_TEMPFAIL`` of sysexits: a temporary failure, try again."""

_GRACE = 1.0
_CTRL_C, _TERM = "interrupted by Ctrl-C", "preempted by SIGTERM"


class Signals:
    """What asked the run to end. A context manager; it listens in the main thread only.

    Attributes:
        reason: why the run is to end, ``None`` while nothing asked for it.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self._waits = self._idles = self._handled = 0
        self._before: dict[int, Any] = {}
        self._pipe: tuple[int, int] | None = None
        self._wakeup = -1
        self._watcher: threading.Thread | None = None

    @property
    def preempted(self) -> bool:
        """Whether it was a SIGTERM."""
        return self.reason == _TERM

    def __enter__(self) -> Signals:
        if threading.current_thread() is not threading.main_thread():
            return self
        # Another handler of SIGTERM would hide it from JAX's preemption service.
        numbers = [signal.SIGINT] + ([signal.SIGTERM] if jax.process_count() == 1 else [])
        self._before = {number: signal.signal(number, self._handle) for number in numbers}
        self._pipe = os.pipe()
        os.set_blocking(self._pipe[1], False)
        self._wakeup = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        self._watcher = threading.Thread(target=self._watch, name="jaxdl-signals", daemon=True)
        self._watcher.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._pipe is None:
            return
        signal.set_wakeup_fd(self._wakeup)
        for number, before in self._before.items():
            signal.signal(number, before)
        os.close(self._pipe[1])
        self._pipe = None
        if self._watcher is not None:
            self._watcher.join(_GRACE)

    def seen_at(self, step: int) -> bool:
        """Whether the run is to end, as all processes agree.

        Args:
            step: updates done.
        """
        if self.reason is None and jax.process_count() > 1:
            from jax.experimental import multihost_utils

            if multihost_utils.reached_preemption_sync_point(step):
                self.reason = _TERM
        return self.reason is not None

    @contextmanager
    def waiting(self) -> Generator[None]:
        """While open, a signal raises ``Interrupted``, as it does when one came before.

        Raises:
            Interrupted: a signal asked the run to end.
        """
        self._waits += 1
        try:
            if self.reason is not None:
                raise _interrupted(self.reason)
            yield
        finally:
            self._waits -= 1

    @contextmanager
    def idle(self) -> Generator[None]:
        """While open, nothing is unsaved: a SIGTERM ends the process at once."""
        self._idles += 1
        try:
            yield
        finally:
            self._idles -= 1

    def _handle(self, number: int, frame: Any) -> None:
        self._handled += 1
        if self.reason is not None:
            if number == signal.SIGTERM:
                _leave(128 + number, "SIGTERM again: leaving at once")
            raise KeyboardInterrupt
        self.reason = _TERM if number == signal.SIGTERM else _CTRL_C
        name = "SIGTERM" if number == signal.SIGTERM else "Ctrl-C"
        sys.stderr.write(f"{name}: ending after the running step (again to stop at once)\n")
        sys.stderr.flush()
        if self._waits:
            raise _interrupted(self.reason)

    def _watch(self) -> None:
        pipe, heard = self._pipe, 0
        while pipe is not None:
            number = (os.read(pipe[0], 1) or b"\0")[0]
            if number == 0:
                os.close(pipe[0])
                return
            if number not in self._before:
                continue
            heard += 1
            if heard == 1 and number == signal.SIGTERM and self._idles:
                _leave(PREEMPTED, "SIGTERM: nothing is unsaved; start again to go on")
            if heard > 1:
                # The main thread may be able to end in order; a compiler cannot be woken.
                deadline = time.monotonic() + (_GRACE if number == signal.SIGINT else 0.0)
                while time.monotonic() < deadline and self._handled < heard:
                    time.sleep(0.01)
                if self._handled < heard:
                    _leave(128 + number, "again: leaving at once")


def _interrupted(reason: str) -> Interrupted:
    return Interrupted(reason, expected="a run to its last step", do="start it again to go on")


def _leave(code: int, message: str) -> None:
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()
    os._exit(code)
