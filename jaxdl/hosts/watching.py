"""While a run goes on: each host tells the board its step and its times, and hears who ended.

A thread does it, once a second, so that no step waits. When another host has failed or is gone,
this one is in a collective that may never return; the thread then says who it was and ends the
process.

Reads from: errors, protocols, hosts.member, hosts.present, hosts.starting. Used by: recipe, and by
hand.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, TypeVar

import jax

from jaxdl.errors import HostError
from jaxdl.hosts.client import Client, Seconds
from jaxdl.hosts.member import Member, ended_in_words, stands_in_words
from jaxdl.hosts.present import member, tell_failure
from jaxdl.hosts.starting import initialize
from jaxdl.protocols import Hook

__all__ = ["Watch", "watch"]

_REMEMBERED = 64
_GRACE = 5.0
_GONE = 10.0
_LOST = 30.0
_LEARNT = 3.0

Step = TypeVar("Step")


def watch() -> Watch:
    """A watch over this run's other hosts; over none, it does nothing.

    Where JAX runs on many processes and nobody called ``initialize``, the board is brought up now.

    Raises:
        HostError: as ``initialize``.
    """
    if jax.process_count() > 1:
        initialize()
    return Watch(member())


class Watch(Hook):
    """Tells the board where this host is while it is open. A context manager and a hook.

    Left by an error, it tells the board that this host failed, and why. An error of the collectives
    whose cause is another host is raised as a ``HostError`` that names it.

    Args:
        member: this host among the others; ``None`` for one process.
        interval: seconds from one post to the next.
        leave: ends the process; called in the thread.
    """

    def __init__(
        self,
        member: Member | None,
        *,
        interval: Seconds = 1.0,
        leave: Callable[[HostError], None] | None = None,
    ) -> None:
        self._member, self._interval = member, interval
        self._leave = _leave if leave is None else leave
        self._at = "starting"
        self._times: deque[tuple[float, float]] = deque(maxlen=_REMEMBERED)
        self._after: float | None = None
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def hooks(self) -> list[Hook]:
        """Itself where there are other hosts."""
        return [] if self._member is None else [self]

    def around(self, step: Step) -> Step:
        """A placed step whose calls are timed, where there are other hosts; else as it is.

        Args:
            step: placed.
        """
        timed: Any = step if self._member is None else _Timed(step, self)
        return timed

    def phase(self, at: str) -> None:
        """Says what this host is doing now.

        Args:
            at: in words, such as ``"compiling"``.
        """
        self._at = at

    def open(self, start: int, steps: int) -> None:
        """Begins to count steps."""
        self._at = f"step {start}"

    def tick(self, step: int) -> None:
        """Keeps the step's number, for the thread to tell."""
        self._at = f"step {step}"

    def figures(self) -> dict[str, float]:
        """Median seconds of the last steps: ``own`` outside the step's call, ``inside`` in it.

        The call waits for the slowest host wherever it waits for the device (always on several CPU
        devices, elsewhere when the device's queue is full): a slow host has a large ``own``, the
        others a large ``inside``.
        """
        times = list(self._times)
        if not times:
            return {}
        own, inside = zip(*times, strict=True)
        return {"own": statistics.median(own), "inside": statistics.median(inside)}

    def timed(self, before: float, after: float) -> None:
        """Takes the times at which one call of the step began and ended.

        Args:
            before: in seconds.
            after: in seconds.
        """
        if self._after is not None:
            self._times.append((before - self._after, after - before))
        self._after = after

    def __enter__(self) -> Watch:
        if self._member is not None:
            self._thread = threading.Thread(target=self._run, name="jaxdl-watch", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._member is None:
            return
        self._closing.set()
        if self._thread is not None:
            self._thread.join(_GRACE)
        with contextlib.suppress(HostError):
            at = "the end of the run" if error is None else self._at
            self._member.post(at, self.figures())
        if error is None:
            return
        cause = self._cause(error)
        tell_failure(self._member, error if cause is None else cause)
        if cause is not None:
            raise cause from error

    def _cause(self, error: BaseException) -> HostError | None:
        """The host whose end is why the collectives failed here."""
        if not _is_of_the_device(error) or self._member is None:
            return None
        deadline = time.monotonic() + _LEARNT
        while time.monotonic() < deadline:
            try:
                others = self._others(self._member.post(self._at, self.figures()))
            except HostError as lost:
                return lost
            if others:
                return self._named(others[0])
            time.sleep(0.1)
        return None

    def _others(self, ended: list[dict[str, Any]]) -> list[dict[str, Any]]:
        mine = None if self._member is None else self._member.host
        return [each for each in ended if each["host"] != mine and each["how"] != "left"]

    def _named(self, ended: Mapping[str, Any]) -> HostError:
        stands = [] if self._member is None else self._member.stands()
        return HostError(
            f"{ended_in_words(ended)}\n{stands_in_words(stands)}",
            expected="all hosts until the last step",
            do=f"look at the log of host {ended['host']}; start all hosts again, and the run goes "
            "on from its last checkpoint",
        )

    def _run(self) -> None:
        first = self._member
        if first is None:
            return
        # A connection of its own: a barrier of the main thread does not hold it up.
        client = Client(first.client.addresses, first.client.token, first.host)
        try:
            error = self._tell(Member(client, first.num_hosts), min(_LOST, first.deadline))
        finally:
            client.close()
        if error is not None and not self._closing.is_set():
            self._leave(error)

    def _tell(self, mine: Member, lost: Seconds) -> HostError | None:
        """Posts until the watch closes; gives why this host cannot go on, if so."""
        failing: float | None = None
        while not self._closing.is_set():
            ended: list[dict[str, Any]] = []
            try:
                ended = self._others(mine.post(self._at, self.figures()))
                failing = None
            except HostError as error:
                failing = failing or time.monotonic()
                if time.monotonic() - failing > lost:
                    return error
            late = [e for e in ended if e["ago"] > (_GRACE if e["how"] == "failed" else _GONE)]
            if late:
                return self._named(late[0])
            self._closing.wait(self._interval)
        return None


class _Timed:
    """A placed step, each call of which is timed."""

    def __init__(self, step: Any, watch: Watch) -> None:
        self._step, self._watch = step, watch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._step, name)

    def init(self, key: Any, batch: Any) -> Any:
        """The step's own."""
        return self._step.init(key, batch)

    def put(self, batch: Any) -> Any:
        """The step's own."""
        return self._step.put(batch)

    def __call__(self, state: Any, batch: Any) -> Any:
        before = time.perf_counter()
        result = self._step(state, batch)
        self._watch.timed(before, time.perf_counter())
        return result


def _is_of_the_device(error: BaseException) -> bool:
    """Whether JAX's runtime raised it, or what it was raised from."""
    each: BaseException | None = error
    while each is not None:
        if isinstance(each, jax.errors.JaxRuntimeError) or "JaxRuntimeError" in str(each):
            return True
        each = each.__cause__ or each.__context__
    return False


def _leave(error: HostError) -> None:
    """The main thread may be in a collective that never returns: no exception reaches it."""
    sys.stderr.write(f"error: {error}\n")
    sys.stderr.flush()
    os._exit(1)
