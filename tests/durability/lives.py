"""Starts the small run of ``runner.py`` in processes of its own, and waits for how they end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

RUNNER = Path(__file__).with_name("runner.py")
KILLED = -signal.SIGKILL


def free_port() -> int:
    """A port that nobody listens to."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


@dataclass
class Life:
    """How one start of the run ended."""

    codes: list[int]
    out: str
    err: str = field(repr=False)

    @property
    def finished(self) -> bool:
        """Whether it came to its end."""
        return self.codes == [0] * len(self.codes)

    def digests(self) -> dict[str, str]:
        """What the finished run printed."""
        assert self.finished, self.err[-3000:]
        # What the collectives' library prints may come after it.
        (line,) = [line for line in self.out.splitlines() if line.startswith("{")]
        return json.loads(line)


def begin(folder: Path, *options: str, process: int = 0, of: int = 1, port: int = 0):
    """Starts one process of the run; gives it with the files of its output and its errors."""
    words = [sys.executable, str(RUNNER), str(folder), *options]
    if of > 1:
        words += ["--coordinator", f"localhost:{port}", "--process", str(process), "--of", str(of)]
    out = folder.with_name(f"{folder.name}.{process}.out")
    err = folder.with_name(f"{folder.name}.{process}.err")
    environment = {**os.environ, "XLA_FLAGS": "", "PYTHONWARNINGS": "default"}
    with out.open("w") as stdout, err.open("w") as stderr:
        started = subprocess.Popen(words, stdout=stdout, stderr=stderr, env=environment)
    return started, out, err


def live(folder: Path, *options: str, kill: str | None = None, processes: int = 1) -> Life:
    """Starts the run once; one process kills itself where ``kill`` says, the rest follow it."""
    port = free_port() if processes > 1 else 0
    devices = ["--devices", "2"] if processes > 1 else []
    started = []
    for process in range(processes):
        killing = ["--kill", kill] if kill and process == processes - 1 else []
        started.append(
            begin(folder, *options, *devices, *killing, process=process, of=processes, port=port)
        )
    deadline = time.monotonic() + 240
    while any(each.poll() is None for each, _, _ in started):
        time.sleep(0.05)
        if any(each.poll() not in (None, 0) for each, _, _ in started) or (
            time.monotonic() > deadline
        ):
            # A slice whose one host is gone is taken away as a whole.
            time.sleep(0.5)
            for each, _, _ in started:
                each.kill()
    return Life(
        [each.wait() for each, _, _ in started],
        started[0][1].read_text(),
        "".join(err.read_text() for _, _, err in started),
    )
