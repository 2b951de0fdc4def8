"""The hosts of a rehearsal as processes of this machine: started, followed, and never left behind.

Reads from: errors, hosts, rehearsal.faults, rehearsal.orders. Used by: rehearsal.running.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from jaxdl import hosts
from jaxdl.errors import HostError
from jaxdl.hosts import Stand
from jaxdl.hosts.client import Seconds
from jaxdl.rehearsal.faults import Fault
from jaxdl.rehearsal.orders import VARIABLE, Orders

__all__ = ["Crew", "Ended", "HostLife", "Life", "Show"]

_POLL = 0.05
_LOOK = 0.25
_STALLED = 300.0
_FORCED = re.compile(r"--xla_force_host_platform_device_count=\d+")


@dataclass(frozen=True)
class Show:
    """What is rehearsed.

    Attributes:
        program: ``module:function`` of a ``rehearsal.orders.Program``.
        file: the recipe's file.
        words: the options after it.
        num_hosts: how many processes.
        devices: CPU devices of each.
        deadline: seconds in which hosts must be there, and end when one is lost.
        fault: what goes wrong, or nothing.
    """

    program: str
    file: Path
    words: tuple[str, ...]
    num_hosts: int
    devices: int
    deadline: Seconds = 60.0
    fault: Fault | None = None


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        code: its exit code; a negative one is a signal's.
        after: seconds from the start of the life.
        put_down: whether the supervisor ended it, because it did not end by itself.
    """

    code: int
    after: float
    put_down: bool = False


@dataclass
class HostLife:
    """What one host did in one life of the run.

    Attributes:
        host: its index.
        log: the file of its output.
        ended: how it ended; ``None`` for one that was never started.
        step: its last step.
        events: what it told, in order.
        stand: where it stood, as the board said last.
    """

    host: int
    log: Path
    ended: Ended | None = None
    step: int = 0
    events: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    stand: Stand | None = None

    def event(self, name: str) -> dict[str, Any] | None:
        """The last event of a name.

        Args:
            name: of the event.
        """
        return next((each for each in reversed(self.events) if each["event"] == name), None)

    def figures(self) -> dict[str, float]:
        """Median seconds of a step: ``own`` and ``inside`` it."""
        finished = self.event("finished") or {}
        known = finished.get("figures") or (self.stand.figures if self.stand else {})
        return dict(known)


@dataclass
class Life:
    """One start of all hosts, to the end of the last.

    Attributes:
        hosts: of each host.
        began: when, in seconds since 1970.
        seconds: from the first start to the last end.
        stalled: whether the supervisor ended it because nothing moved.
    """

    hosts: list[HostLife]
    began: float = 0.0
    seconds: float = 0.0
    stalled: bool = False

    def started(self) -> list[HostLife]:
        """The hosts that were started."""
        return [each for each in self.hosts if each.ended is not None]

    def lost_after(self) -> float | None:
        """Seconds from the start to the first host that failed or died; ``None`` if none did."""
        failed = [h.event("error") for h in self.hosts]
        times = [each["time"] - self.began for each in failed if each is not None]
        ends = [h.ended for h in self.hosts if h.ended is not None]
        return min([*times, *(e.after for e in ends if e.code and not e.put_down)], default=None)

    def ended_well(self) -> bool:
        """Whether every host finished."""
        return all(h.ended is not None and h.ended.code == 0 for h in self.hosts)


class Crew:
    """The processes of one life. A context manager that ends those which are left.

    Args:
        show: what is rehearsed.
        folder: of the logs.
        name: of the life, before the names of its files.
    """

    def __init__(self, show: Show, folder: Path, name: str) -> None:
        self._show, self._folder = show, folder / name
        self._folder.mkdir(parents=True, exist_ok=True)
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._token = secrets.token_hex(16)
        self._ports = _free_ports()
        self._begin = time.monotonic()
        count, now = show.num_hosts, time.time()
        self.life = Life([HostLife(i, self._folder / f"host{i}.log") for i in range(count)], now)

    def __enter__(self) -> Crew:
        absent = self._show.fault
        try:
            for each in self.life.hosts:
                if absent is None or absent.kind != "absent" or absent.host != each.host:
                    self._start(each)
        except BaseException:
            self._put_down()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._put_down()

    def follow(self) -> Life:
        """Waits until every host ended; ends those that wait on after a loss or stand still."""
        show, looked = self._show, 0.0
        board = hosts.Client([("localhost", self._ports[1])], self._token)
        moved, before = time.monotonic(), None
        while any(process.poll() is None for process in self._processes.values()):
            time.sleep(_POLL)
            now = time.monotonic()
            self._note_ends()
            if now - looked > _LOOK and show.num_hosts > 1:
                self._look(board)
                looked = now
            position = [(h.step, h.ended, h.stand and h.stand.at) for h in self._read().hosts]
            if position != before:
                moved, before = now, position
            lost = self.life.lost_after()
            self.life.stalled = now - moved > max(_STALLED, 10 * show.deadline)
            if self.life.stalled or (lost and now - self._begin - lost > show.deadline):
                self._put_down()
        self._note_ends()
        board.close()
        self.life.seconds = time.monotonic() - self._begin
        return self._read()

    def _start(self, host: HostLife) -> None:
        show, fault = self._show, self._show.fault
        file = show.file
        if fault is not None and fault.kind == "code" and fault.host == host.host:
            file = self._folder / show.file.name
            file.write_text(show.file.read_text() + "\n# Another version of this file.\n")
        orders = Orders(
            host=host.host,
            num_hosts=show.num_hosts,
            devices=show.devices,
            coordinator=f"localhost:{self._ports[0]}",
            board=f"localhost:{self._ports[1]}",
            token=self._token,
            deadline=show.deadline,
            program=show.program,
            file=str(file),
            home=str(show.file.parent),
            words=list(show.words),
            folder=str(self._folder),
            fault=None if fault is None else tuple(fault),
        )
        with host.log.open("wb") as log:
            self._processes[host.host] = subprocess.Popen(
                [sys.executable, "-m", "jaxdl.rehearsal.host"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=_environment(orders),
                process_group=0,
            )

    def _note_ends(self, *, put_down: Sequence[int] = ()) -> None:
        for index, process in self._processes.items():
            host = self.life.hosts[index]
            if process.poll() is not None and host.ended is None:
                # What it started may outlive it.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
                after = time.monotonic() - self._begin
                host.ended = Ended(process.returncode, after, put_down=index in put_down)

    def _look(self, board: hosts.Client) -> None:
        with contextlib.suppress(HostError):
            for stand in board.ask("look", patience=0.3)["stands"]:
                self.life.hosts[stand["host"]].stand = Stand(**stand)

    def _read(self) -> Life:
        for host in self.life.hosts:
            stem = self._folder / f"host{host.host}"
            with contextlib.suppress(OSError, ValueError):
                host.step = int(stem.with_suffix(".step").read_text())
            with contextlib.suppress(OSError, ValueError):
                lines = stem.with_suffix(".events").read_text().splitlines()
                host.events = [json.loads(line) for line in lines]
        return self.life

    def _put_down(self) -> None:
        with _uninterrupted():
            alive = [i for i, process in self._processes.items() if process.poll() is None]
            for index in alive:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._processes[index].pid, signal.SIGKILL)
            for process in self._processes.values():
                process.wait()
                if process.stdin is not None:
                    process.stdin.close()
            self._note_ends(put_down=alive)


@contextlib.contextmanager
def _uninterrupted() -> Generator[None]:
    """A second Ctrl-C does not leave processes behind."""
    try:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    except ValueError:
        # Only the main thread hears signals.
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _environment(orders: Orders) -> dict[str, str]:
    root = str(Path(hosts.__file__).parents[2])
    flags = _FORCED.sub("", os.environ.get("XLA_FLAGS", ""))
    return {
        **os.environ,
        VARIABLE: json.dumps(orders._asdict()),
        "JAX_PLATFORMS": "cpu",
        # The processes share this machine's cores already.
        "XLA_FLAGS": f"{flags} --xla_cpu_multi_thread_eigen=false".strip(),
        "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")])),
    }


def _free_ports() -> tuple[int, int]:
    """Two ports that nobody listens to."""
    with socket.socket() as first, socket.socket() as second:
        first.bind(("localhost", 0))
        second.bind(("localhost", 0))
        return first.getsockname()[1], second.getsockname()[1]
