"""The journal of a loop: sums stay on the device until the log point after theirs.

Reads from: errors, protocols, metrics. Used by: loop.fit.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdl import metrics
from jaxdl.errors import CheckpointError, NonFiniteError
from jaxdl.protocols import Hook, Record, Sums

__all__ = ["Journal"]

_SKIPPED_IN_A_ROW = 50


class _Window(NamedTuple):
    first: int
    last: int
    sums: list[Sums]
    rates: dict[str, float]


class Journal:
    """Collects the sums of steps on the device and reads each window one report late.

    Args:
        hooks: receive the records.
        log_every: steps from one train record to the next.
        start: updates already done.
        rows: examples in a batch, where known.
        window: the sums of steps before ``start`` that no record holds, each leaf stacked.
    """

    def __init__(
        self,
        hooks: Sequence[Hook],
        log_every: int,
        start: int,
        rows: int | None,
        window: Sequence[Any] = (),
    ) -> None:
        self.records: list[Record] = []
        self.stopped: str | None = None
        self._hooks, self._log_every, self._rows = hooks, log_every, rows
        self._sums: list[Sums] = []
        self._earlier = tuple(window)
        self._waiting: _Window | None = None
        self._done, self._timed, self._stalled = start, 0, 0.0
        self._begin: float | None = None
        self._last: list[jax.Array] = []
        self._finite: tuple[int, float] | None = None
        self._skipped = 0

    def add(self, step: int, sums: Sums, *, last: bool) -> None:
        """Takes the sums of one step; at a log point reads the window before, at last all."""
        if self._earlier:
            self._sums, self._earlier = _unstacked(self._earlier, sums), ()
        self._sums.append(sums)
        self._last = [leaf for leaf in jax.tree.leaves(sums) if isinstance(leaf, jax.Array)][:1]
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

    def stall(self, seconds: float) -> None:
        """Counts a time that the loop waited for a batch, if no step is left to be computed.

        A loop that runs ahead of its device waits for batches too, and nothing is lost.
        """
        if self._begin is not None and all(map(_is_ready, self._last)):
            self._stalled += seconds

    def finish(self) -> None:
        """Reads all that is left, waiting for it."""
        if self._sums:
            jax.block_until_ready(self._sums[-1])
            self._turn()
        self.read()

    def check(self) -> None:
        """Looks at the steps that no record holds yet, before their state is saved.

        Raises:
            NonFiniteError: a loss is not finite.
        """
        if self._sums:
            first = self._done - len(self._sums) + 1
            window = _Window(first, self._done, self._sums, {})
            values = metrics.report(metrics.total(_fetched(window.sums)))
            if "skipped" not in values and not np.isfinite(values.get("loss", 0.0)):
                raise self._not_finite(window)

    def window(self) -> tuple[Any, ...]:
        """The sums that no record holds yet, each leaf stacked over the steps."""
        if not self._sums:
            return self._earlier
        columns = zip(*map(jax.tree.leaves, self._sums), strict=True)
        return tuple(np.stack([np.asarray(leaf) for leaf in column]) for column in columns)

    def log(self, record: Record) -> None:
        """Hands a record to every hook; the first reason to stop holds."""
        self.records.append(record)
        for hook in self._hooks:
            self.stopped = hook.record(record) or self.stopped

    def read(self) -> None:
        """Makes the record of the window that waits for it, if there is one."""
        window, self._waiting = self._waiting, None
        if window is None:
            return
        values = metrics.report(metrics.total(_fetched(window.sums)))
        self._check_finite(window, values)
        self.log(Record(window.last, "train", {**values, **window.rates}))

    def _turn(self) -> None:
        self.read()
        now = time.perf_counter()
        seconds = now - (self._begin or now)
        rates: dict[str, float] = {}
        if self._timed and seconds > 0:
            rates["steps_per_second"] = self._timed / seconds
            if self._rows is not None:
                rates["examples_per_second"] = self._timed * self._rows / seconds
            rates["stall"] = min(1.0, self._stalled / seconds)
        _start_copies(self._sums)
        first = self._done - len(self._sums) + 1
        self._waiting = _Window(first, self._done, self._sums, rates)
        self._sums, self._begin, self._timed, self._stalled = [], now, 0, 0.0

    def _check_finite(self, window: _Window, values: dict[str, Any]) -> None:
        if "skipped" in values:
            self._check_skipped(window, int(values["skipped"]))
        elif "loss" in values and not np.isfinite(values["loss"]):
            raise self._not_finite(window)
        elif "loss" in values:
            self._finite = (window.last, values["loss"])

    def _check_skipped(self, window: _Window, skipped: int) -> None:
        """A run that passes over every batch would never end by itself."""
        steps = len(window.sums)
        self._skipped = self._skipped + steps if skipped == steps else 0
        if self._skipped >= _SKIPPED_IN_A_ROW:
            error = NonFiniteError(
                f"the last {self._skipped} steps up to {window.last} were all skipped: their "
                "gradients were not finite",
                expected="single bad batches",
                do="lower the learning rate, warm it up or clip the gradient's norm",
            )
            error.steps = (window.last - self._skipped + 1, window.last)
            raise error

    def _not_finite(self, window: _Window) -> NonFiniteError:
        losses = [metrics.report({"loss": sums["loss"]})["loss"] for sums in window.sums]
        place = next((i for i, loss in enumerate(losses) if not np.isfinite(loss)), 0)
        if place:
            self._finite = (window.first + place - 1, losses[place - 1])
        before = "no step had a finite loss"
        if self._finite is not None:
            before = f"the last finite loss was {self._finite[1]:.6g} at step {self._finite[0]}"
        error = NonFiniteError(
            f"the loss is {losses[place]} at step {window.first + place} "
            f"(seen at {self._done}); {before}",
            expected="a finite loss at every step",
            do="lower the learning rate, warm it up or clip the gradient's norm; nonfinite='skip' "
            "passes over single bad batches; jaxdl replay names the operation",
        )
        # To the end of the log window, wherever in it the run was looked at.
        bad = window.first + place
        error.steps = (bad, -(-bad // self._log_every) * self._log_every)
        return error


def _start_copies(sums: list[Sums]) -> None:
    """Lets the device send the sums as they are made. On the CPU backend they are there."""
    if jax.default_backend() != "cpu":
        for leaf in jax.tree.leaves(sums):
            if isinstance(leaf, jax.Array):
                leaf.copy_to_host_async()


def _is_ready(leaf: Any) -> bool:
    return bool(getattr(leaf, "is_ready", lambda: True)())


def _fetched(sums: list[Sums]) -> list[Sums]:
    """The sums as numpy arrays: ``jax.device_get``, which takes thrice as long for many scalars."""
    leaves, structure = jax.tree.flatten(sums)
    return structure.unflatten([np.asarray(leaf) for leaf in leaves])


def _unstacked(window: Sequence[Any], like: Sums) -> list[Sums]:
    """The sums of each step, in the structure that a step gives now."""
    leaves, structure = jax.tree.flatten(like)
    shapes = [(leaf.shape, leaf.dtype) for leaf in leaves]
    stored = [(leaf.shape[1:], leaf.dtype) for leaf in window]
    if shapes != stored:
        raise CheckpointError(
            f"the sums that were saved have the leaves {stored}",
            expected=f"those that a step gives now: {shapes}",
            do="go on with the objective and the metrics that the run began with",
        )
    return [structure.unflatten([leaf[i] for leaf in window]) for i in range(len(window[0]))]
