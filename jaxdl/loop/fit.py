"""The loop: batches in, steps run, reports out one report late, so that the device never waits.

It knows no layout, model or file: the step is placed, batch ``k`` a function of ``k``, the rest a
hook's. Between log points nothing is read from the device, and only the step's program runs on it.

Reads from: errors, protocols, data, metrics. Used by: recipe, and by hand.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np

from jaxdl import data, metrics
from jaxdl.errors import ConfigError, NonFiniteError
from jaxdl.protocols import Batch, Hook, Moment, Record, Sums

__all__ = ["BatchSource", "FitResult", "PlacedTrainStep", "fit"]


@runtime_checkable
class PlacedTrainStep(Protocol):
    """A step and its place, such as ``jaxdl.jit(step)`` gives."""

    def init(self, key: Any, batch: Batch) -> Any:
        """A new state, from a key or an integer seed."""

    def put(self, batch: Batch) -> Batch:
        """Moves a host batch to the devices; called from another thread."""

    def __call__(self, state: Any, batch: Batch) -> tuple[Any, Sums]:
        """One update with a batch that ``put`` moved; consumes the state."""
        ...


@runtime_checkable
class BatchSource(Protocol):
    """Batch ``k`` by its number, such as ``data.Batches`` or a list."""

    def __getitem__(self, k: int, /) -> Batch: ...


class FitResult(NamedTuple):
    """What a run of the loop leaves.

    Attributes:
        state: the last state.
        step: updates done, those before ``start`` included.
        stopped: why the run ended early, or ``None`` when all steps were done.
        records: all records, in the order in which they were made.
    """

    state: Any
    step: int
    stopped: str | None
    records: tuple[Record, ...]


def fit(
    step: PlacedTrainStep,
    batches: BatchSource,
    *,
    steps: int,
    seed: int = 0,
    state: Any = None,
    start: int | None = None,
    log_every: int = 50,
    hooks: Sequence[Hook] = (),
) -> FitResult:
    """Trains: update ``k + 1`` is made with ``batches[k]``.

    A background thread makes and moves the batches. Sums stay on the device until the log point
    after theirs. Ctrl-C ends the run after the running step; a second one raises at once.

    Args:
        step: a placed train step.
        batches: such as ``data.Batches``; on many hosts each gives its own rows.
        steps: the number of the last update. A run that goes on from step 200 to 500 has
            ``steps=500``.
        seed: of the new state, when none is given.
        state: where to go on from; it is consumed.
        start: updates already done; read from ``state`` when ``None``.
        log_every: steps from one train record to the next.
        hooks: called in this order.

    Returns:
        A ``FitResult``. A train record holds the mean over its steps of what the step measures,
        ``steps_per_second`` (hooks and the first step, which compiles, left out) and, where
        ``batches`` has a ``batch_size``, ``examples_per_second``.

    Raises:
        ConfigError: nothing would be done, or ``step`` is not placed.
        NonFiniteError: the loss became NaN or infinite. It is seen at the log point after the
            next, and the message names the step.
    """
    start = _first_step(state) if start is None else start
    _check(step, batches, start, steps, log_every, hooks)
    state = step.init(seed, batches[start]) if state is None else state
    journal = _Journal(hooks, log_every, start, getattr(batches, "batch_size", None))
    done = start
    with ExitStack() as stack:
        for hook in hooks:
            stack.callback(hook.close)
            hook.open(start, steps)
        interrupted = stack.enter_context(_interrupts())
        ahead = stack.enter_context(data.prefetch(batches, step.put, start=start, stop=steps))
        for k, batch in ahead:
            state, sums = step(state, batch)
            done = k + 1
            due = [hook for hook in hooks if hook.every and done % hook.every == 0]
            if due:
                # Steps still queued on the device would otherwise count as the hooks' time.
                jax.block_until_ready(state)
            journal.add(done, sums, last=done == steps)
            _visit(hooks, due, journal, Moment(done, state, journal.log))
            if interrupted or journal.stopped is not None:
                break
        journal.finish()
        late = [hook for hook in hooks if hook.every and done % hook.every]
        _visit((), late, journal, Moment(done, state, journal.log))
    reason = interrupted[0] if interrupted else journal.stopped
    return FitResult(state, done, reason if done < steps else None, tuple(journal.records))


def _visit(hooks: Sequence[Hook], due: Sequence[Hook], journal: _Journal, moment: Moment) -> None:
    for hook in hooks:
        hook.tick(moment.step)
    if due:
        begin = time.perf_counter()
        for hook in due:
            hook.at(moment)
        journal.pause(time.perf_counter() - begin)


class _Window(NamedTuple):
    first: int
    last: int
    sums: list[Sums]
    rates: dict[str, float]


class _Journal:
    """Collects the sums of steps on the device and reads each window one report late."""

    def __init__(self, hooks: Sequence[Hook], log_every: int, start: int, rows: int | None) -> None:
        self.records: list[Record] = []
        self.stopped: str | None = None
        self._hooks, self._log_every, self._rows = hooks, log_every, rows
        self._sums: list[Sums] = []
        self._waiting: _Window | None = None
        self._done, self._timed = start, 0
        self._begin: float | None = None
        self._finite: tuple[int, float] | None = None

    def add(self, step: int, sums: Sums, *, last: bool) -> None:
        """Takes the sums of one step; at a log point reads the window before, at last all."""
        self._sums.append(sums)
        self._done = step
        if self._begin is None:
            self._begin = time.perf_counter()
        else:
            self._timed += 1
        if last:
            self.finish()
        elif step % self._log_every == 0:
            self._turn()

    def pause(self, seconds: float) -> None:
        """Leaves a time out of the rates."""
        self._begin = (self._begin or time.perf_counter()) + seconds

    def finish(self) -> None:
        """Reads all that is left, waiting for it."""
        if self._sums:
            jax.block_until_ready(self._sums[-1])
            self._turn()
        self._read()

    def log(self, record: Record) -> None:
        """Hands a record to every hook; the first reason to stop holds."""
        self.records.append(record)
        for hook in self._hooks:
            self.stopped = hook.record(record) or self.stopped

    def _turn(self) -> None:
        self._read()
        now = time.perf_counter()
        seconds = now - (self._begin or now)
        rates: dict[str, float] = {}
        if self._timed and seconds > 0:
            rates["steps_per_second"] = self._timed / seconds
            if self._rows is not None:
                rates["examples_per_second"] = self._timed * self._rows / seconds
        _start_copies(self._sums)
        first = self._done - len(self._sums) + 1
        self._waiting = _Window(first, self._done, self._sums, rates)
        self._sums, self._begin, self._timed = [], now, 0

    def _read(self) -> None:
        window, self._waiting = self._waiting, None
        if window is None:
            return
        values = metrics.report(metrics.total(_fetched(window.sums)))
        self._check_finite(window, values)
        self.log(Record(window.last, "train", {**values, **window.rates}))

    def _check_finite(self, window: _Window, values: dict[str, Any]) -> None:
        if "loss" not in values or "skipped" in values:
            return
        if np.isfinite(values["loss"]):
            self._finite = (window.last, values["loss"])
            return
        losses = [metrics.report({"loss": sums["loss"]})["loss"] for sums in window.sums]
        place = next((i for i, loss in enumerate(losses) if not np.isfinite(loss)), 0)
        if place:
            self._finite = (window.first + place - 1, losses[place - 1])
        before = "no step had a finite loss"
        if self._finite is not None:
            before = f"the last finite loss was {self._finite[1]:.6g} at step {self._finite[0]}"
        raise NonFiniteError(
            f"the loss is {losses[place]} at step {window.first + place} "
            f"(seen at {self._done}); {before}",
            expected="a finite loss at every step",
            do="lower the learning rate, warm it up or clip the gradient's norm; nonfinite='skip' "
            "passes over single bad batches; JAX_DEBUG_NANS=True finds the operation",
        )


def _start_copies(sums: list[Sums]) -> None:
    """Lets the device send the sums as they are made. On the CPU backend they are there."""
    if jax.default_backend() != "cpu":
        for leaf in jax.tree.leaves(sums):
            leaf.copy_to_host_async()


def _fetched(sums: list[Sums]) -> list[Sums]:
    """The sums as numpy arrays: ``jax.device_get``, which takes thrice as long for many scalars."""
    leaves, structure = jax.tree.flatten(sums)
    return structure.unflatten([np.asarray(leaf) for leaf in leaves])


@contextmanager
def _interrupts() -> Generator[list[str]]:
    """A list that is no longer empty once Ctrl-C was pressed; the second press raises."""
    seen: list[str] = []
    if threading.current_thread() is not threading.main_thread():
        yield seen
        return

    def handle(number: int, frame: Any) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append("interrupted by Ctrl-C")
        sys.stderr.write("Ctrl-C: ending after the running step (again to stop at once)\n")
        sys.stderr.flush()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, before)


def _first_step(state: Any) -> int:
    counter = getattr(state, "step", None)
    return 0 if counter is None else int(np.max(jax.device_get(counter)))


def _check(
    step: Any, batches: Any, start: int, steps: int, log_every: int, hooks: Sequence[Hook]
) -> None:
    wrong = None
    if not all(callable(getattr(step, name, None)) for name in ("init", "put", "__call__")):
        wrong = f"fit got a {type(step).__name__}", "a placed train step", "jaxdl.jit(step)"
    elif steps < 1:
        wrong = f"steps is {steps}", "at least 1", "give the number of updates to make"
    elif not 0 <= start < steps:
        wrong = (
            f"the run starts after step {start} and ends with step {steps}",
            "steps beyond the start",
            "steps counts all updates, those already done included",
        )
    elif log_every < 1 or any(hook.every is not None and hook.every < 1 for hook in hooks):
        wrong = "log_every or a hook's period is below 1", "steps, at least 1", "choose a period"
    elif hasattr(batches, "__len__") and len(batches) < steps:
        wrong = (
            f"there are {len(batches)} batches for {steps} steps",
            "a batch for every step",
            "use data.Batches, which goes on over epochs",
        )
    if wrong is not None:
        raise ConfigError(wrong[0], expected=wrong[1], do=wrong[2])
