"""Moments of a run at which it kills itself, or waits long enough to be hit."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time

from jaxdl.checkpoints import Checkpoints, handler, store
from jaxdl.loop.journal import Journal
from jaxdl.placement import PlacedFunction, guard


def die() -> None:
    """No handler runs, nothing is flushed."""
    os.kill(os.getpid(), signal.SIGKILL)


class Wrap:
    """Dies the ``number``-th time that a function is called, before it or after."""

    def __init__(self, number: int) -> None:
        self._left = number

    def __call__(self, owner, name: str, *, before: bool = True, after: float = 0.0) -> None:
        real = getattr(owner, name)

        def wrapped(*args, **kwargs):
            if before:
                self._count(after)
            result = real(*args, **kwargs)
            if not before:
                self._count(after)
            return result

        setattr(owner, name, wrapped)

    def _count(self, after: float) -> None:
        self._left -= 1
        if self._left == 0:
            time.sleep(after)
            die()


def during_compile(number: int) -> None:
    """Dies a while after a compile began."""
    real = guard.Guarded.compile

    def compile_(self, *args):
        threading.Timer(0.02 * number, die).start()
        return real(self, *args)

    guard.Guarded.compile = compile_


def after_commit(number: int) -> None:
    """Dies when a checkpoint is whole, or nearly."""
    wrap = Wrap(number)
    wrap(Checkpoints, "wait", before=False)
    wrap(store, "_save", before=False, after=0.3)


PHASES = {
    "time": lambda n: threading.Timer(n / 1000, die).start(),
    "step": lambda n: Wrap(n)(Journal, "add"),
    "record": lambda n: Wrap(n)(Journal, "log", before=False),
    "evaluation": lambda n: Wrap(n)(PlacedFunction, "__call__"),
    "compile": during_compile,
    "save": lambda n: Wrap(n)(store, "snapshot", before=False),
    # The data is written while the manifest waits: the process dies between the two.
    "data": lambda n: Wrap(n)(handler, "part_text", after=0.2),
    "committed": after_commit,
}


def arm(moment: str) -> None:
    """Kills this process at ``PHASE:N``, the ``N``-th time that it comes to a phase."""
    phase, number = moment.split(":")
    PHASES[phase](int(number))


def slow_down(options) -> None:
    """Makes one kind of wait long enough to be hit."""
    if options.slow_evaluation:
        real, calls = PlacedFunction.__call__, iter(range(10**6))

        def evaluate(self, state, batch):
            if int(state.step) == options.slow_evaluation and next(calls):
                time.sleep(60)
            return real(self, state, batch)

        PlacedFunction.__call__ = evaluate
    if options.slow_save:
        write = handler.part_text
        handler.part_text = lambda *args: time.sleep(60) or write(*args)
    if options.slow_compile:
        # A wait in C, like that for the compiler: no Python handler runs meanwhile.
        compile_ = guard.Guarded.compile

        def compiling(self, *args):
            print("compiling", file=sys.stderr, flush=True)
            for _ in range(60):
                ctypes.CDLL(None).usleep(999_999)
            return compile_(self, *args)

        guard.Guarded.compile = compiling
