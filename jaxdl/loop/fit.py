"""The loop: batches in, steps run, reports out one report late, so that the device never waits.

It knows no layout, model or file: the step is placed, batch ``k`` a function of ``k``, the rest a
hook's. Between log points nothing is read from the device, and only the step's program runs on it.

Reads from: errors, protocols, data, placement.caching, loop.journal, loop.signals. Used by: recipe,
and by hand.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np

from jaxdl import data
from jaxdl.errors import CheckpointError, ConfigError, Interrupted
from jaxdl.loop.journal import Journal
from jaxdl.loop.signals import Signals
from jaxdl.placement import caching
from jaxdl.protocols import Batch, Hook, Memory, Moment, Record, Sums

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
        preempted: whether a SIGTERM ended it.
    """

    state: Any
    step: int
    stopped: str | None
    records: tuple[Record, ...]
    preempted: bool = False


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
    memory: Memory | None = None,
    signals: Signals | None = None,
    compile_cache: str | Path | bool | None = True,
) -> FitResult:
    """Trains: update ``k + 1`` is made with ``batches[k]``.

    A background thread makes and moves the batches. Sums stay on the device until the log point
    after theirs. Ctrl-C and SIGTERM end the run after the running step, or at once while it waits
    for data or an evaluation; then only hooks that ask for it (``on_interrupt``, such as
    ``hooks.Checkpoint``) are visited. A second one ends the process.

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
        memory: of the loop that saved ``state``, so that this one goes on as that one would have,
            to the bit. ``hooks.Checkpoint`` saves it.
        signals: the listener of a caller that goes on listening; one of its own when ``None``.
        compile_cache: the folder where compiled programs are kept for the next start, see
            ``placement.caching``; ``None`` or ``False`` keeps none.

    Returns:
        A ``FitResult``. A train record holds the mean over its steps of what the step measures,
        ``steps_per_second`` (hooks and the first step, which compiles, left out), where
        ``batches`` has a ``batch_size`` ``examples_per_second``, and ``stall``, the share of that
        time in which the loop waited for a batch with no step left to be computed.

    Raises:
        ConfigError: nothing would be done, or ``step`` is not placed.
        NonFiniteError: the loss became NaN or infinite. It is seen at the log point after the
            next, and the message names the step.
        CheckpointError: ``memory`` is of a loop with other hooks or other sums.
    """
    start = _first_step(state) if start is None else start
    memory = Memory() if memory is None else memory
    _check(step, batches, start, steps, log_every, hooks, resumed=memory.due != ())
    journal = Journal(
        hooks, log_every, start, getattr(batches, "batch_size", None), window=memory.window
    )
    with ExitStack() as stack:
        stack.enter_context(caching.compile_cache(compile_cache))
        heard = stack.enter_context(Signals()) if signals is None else signals
        run = _Run(step, batches, steps, hooks, journal, heard)
        if state is None:
            with heard.idle():
                state = step.init(seed, batches[start])
        stack.enter_context(_closing(hooks))
        for hook in hooks:
            hook.open(start, steps)
        run.recall(memory)
        return run.until_the_end(state, start)


class _Run:
    """One run of the loop: the visits that are due, and what to do when it is interrupted."""

    def __init__(
        self,
        step: Any,
        batches: Any,
        steps: int,
        hooks: Sequence[Hook],
        journal: Journal,
        signals: Signals,
    ) -> None:
        self._step, self._batches, self._steps = step, batches, steps
        self._hooks, self._names = list(hooks), _names(hooks)
        self._journal, self._signals = journal, signals
        self._due: list[Hook] = []
        self._seen: list[Hook] = []
        self._visited: Hook | None = None
        self._state: Any = None
        self._done = 0

    def recall(self, memory: Memory) -> None:
        """Hands the hooks what they remembered."""
        known = dict(zip(self._names, self._hooks, strict=True))
        strange = sorted({*memory.hooks, *memory.due} - known.keys())
        if strange:
            raise CheckpointError(
                f"the run was saved with the hooks {', '.join(strange)}",
                expected=f"hooks that are there: {', '.join(known) or 'none'}",
                do="go on with the hooks that the run began with",
            )
        for name, remembered in memory.hooks.items():
            known[name].recall(remembered)
        self._due = [known[name] for name in memory.due]
        due = list(map(id, self._due))
        self._seen = [hook for hook in self._hooks if id(hook) not in due]
        self._journal.stopped = memory.stopped

    def until_the_end(self, state: Any, start: int) -> FitResult:
        """Runs to the last step, to a hook's reason to stop, or to a signal."""
        self._state, self._done = state, start
        journal, signals = self._journal, self._signals
        try:
            self._visit(self._due)
            if start < self._steps and journal.stopped is None:
                self._train(start)
            if self._done == self._steps or journal.stopped is not None:
                journal.finish()
                self._visit(self._unseen())
        except Interrupted:
            pass
        reason = signals.reason
        ended = self._done == self._steps or journal.stopped is not None
        interrupted = reason is not None and (not ended or bool(self._due))
        if interrupted:
            self._visit_interrupted()
        stopped = reason if interrupted else journal.stopped
        if not interrupted and self._done == self._steps:
            stopped = None
        return FitResult(
            self._state, self._done, stopped, tuple(journal.records), signals.preempted
        )

    def _train(self, start: int) -> None:
        journal, signals, steps = self._journal, self._signals, self._steps
        with data.prefetch(self._batches, self._step.put, start=start, stop=steps) as ahead:
            for _ in range(start, steps):
                begin = time.perf_counter()
                with signals.waiting():
                    k, batch = next(ahead)
                journal.stall(time.perf_counter() - begin)
                if k == start:
                    # The first call compiles, and nothing is unsaved yet.
                    with signals.idle():
                        self._state, sums = self._step(self._state, batch)
                else:
                    self._state, sums = self._step(self._state, batch)
                self._done = k + 1
                self._after_step(sums)
                if journal.stopped is not None or signals.seen_at(self._done):
                    return

    def _after_step(self, sums: Sums) -> None:
        done, journal = self._done, self._journal
        self._seen = []
        last = done == self._steps
        due = [hook for hook in self._unseen() if last or done % (hook.every or 1) == 0]
        if due:
            # Steps still queued on the device would otherwise count as the hooks' time.
            jax.block_until_ready(self._state)
        journal.add(done, sums, last=last)
        for hook in self._hooks:
            hook.tick(done)
        if due:
            # Records are made in the order of their steps, wherever the run was cut.
            journal.read()
            self._visit(due)

    def _visit(self, due: Sequence[Hook]) -> None:
        self._due = list(due)
        begin = time.perf_counter()
        while self._due:
            if self._journal.stopped is not None:
                # No step comes after this one: what else is to be said comes before the last save.
                self._journal.finish()
                self._due = self._unseen()
            self._visited = self._due[0]
            self._visited.at(self._moment())
            self._seen.append(self._due.pop(0))
        self._visited = None
        if due:
            self._journal.pause(time.perf_counter() - begin)

    def _unseen(self) -> list[Hook]:
        """The hooks with a period that were not visited at this step."""
        seen = list(map(id, self._seen))
        return [hook for hook in self._hooks if hook.every and id(hook) not in seen]

    def _visit_interrupted(self) -> None:
        self._journal.read()
        for hook in self._hooks:
            if hook.on_interrupt:
                self._visited = hook
                hook.at(self._moment())
        self._visited = None

    def _moment(self) -> Moment:
        return Moment(
            self._done, self._state, self._journal.log, self._memory, self._signals.waiting
        )

    def _memory(self) -> Memory:
        self._journal.check()
        named = list(zip(self._names, self._hooks, strict=True))
        remembered = {name: hook.remember() for name, hook in named}
        waiting = [id(hook) for hook in self._due if hook is not self._visited]
        return Memory(
            window=self._journal.window(),
            hooks={name: value for name, value in remembered.items() if value is not None},
            due=tuple(name for name, hook in named if id(hook) in waiting),
            stopped=self._journal.stopped,
        )


@contextmanager
def _closing(hooks: Sequence[Hook]) -> Generator[None]:
    """Closes every hook; what fails then does not hide why the run failed."""
    try:
        yield
    except BaseException as error:
        for hook in hooks:
            try:
                hook.close()
            except Exception as second:  # noqa: BLE001 - told with the first
                error.add_note(f"and then, closing {type(hook).__name__}: {second}")
        raise
    with ExitStack() as stack:
        for hook in hooks:
            stack.callback(hook.close)


def _names(hooks: Sequence[Hook]) -> list[str]:
    """A name for each hook: its class, and which of that class it is."""
    kinds = [type(hook).__name__ for hook in hooks]
    return [f"{kind}:{kinds[:i].count(kind)}" for i, kind in enumerate(kinds)]


def _first_step(state: Any) -> int:
    counter = getattr(state, "step", None)
    return 0 if counter is None else int(np.max(jax.device_get(counter)))


def _check(
    step: Any,
    batches: Any,
    start: int,
    steps: int,
    log_every: int,
    hooks: Sequence[Hook],
    *,
    resumed: bool,
) -> None:
    wrong = None
    if not all(callable(getattr(step, name, None)) for name in ("init", "put", "__call__")):
        wrong = f"fit got a {type(step).__name__}", "a placed train step", "jaxdl.jit(step)"
    elif steps < 1:
        wrong = f"steps is {steps}", "at least 1", "give the number of updates to make"
    elif not 0 <= start < steps and not (resumed and start == steps):
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
