"""A rehearsal: as many lives of the run as its fault asks for, and what they showed.

Reads from: hosts, rehearsal.judging, rehearsal.processes. Used by: cli.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from jaxdl.hosts.member import counted
from jaxdl.rehearsal.judging import Report, judge
from jaxdl.rehearsal.processes import Crew, Life, Show

__all__ = ["rehearse"]


def rehearse(
    show: Show, folder: Path, *, alone: bool = True, told: Callable[[str], None] = lambda _: None
) -> Report:
    """Runs a recipe on many hosts that are processes of this machine, with a fault or without.

    Without a fault, the run is repeated by one process with all the devices. After a kill, all
    hosts are started again and go on; an unbroken run beside it gives the hash they must come to.

    Args:
        show: what is rehearsed.
        folder: receives the runs and the logs of the hosts.
        alone: whether one process repeats a run without a fault.
        told: is told what begins.
    """
    folder = folder.absolute()
    fault = show.fault
    lives: dict[str, Life] = {}

    def live(name: str, show: Show, run: str, begins: str) -> None:
        told(begins)
        words = (*show.words, "--run-dir", str(folder / run), "--quiet")
        with Crew(dataclasses.replace(show, words=words), folder / "logs", name) as crew:
            lives[name.replace("-", " ")] = crew.follow()

    whole = dataclasses.replace(show, fault=None)
    size = f"{counted(show.num_hosts, 'host')} x {counted(show.devices, 'device')}"
    live("run", show, "run", size + (f", {fault}" if fault else ""))
    if fault is not None and fault.kind == "kill":
        live("again", whole, "run", f"{size}, started again")
        live("unbroken", whole, "unbroken", f"{size}, unbroken")
    if fault is None and alone and show.num_hosts > 1 and lives["run"].ended_well():
        devices = show.num_hosts * show.devices
        one = dataclasses.replace(whole, num_hosts=1, devices=devices)
        live("one-host", one, "one-host", f"1 host x {counted(devices, 'device')}")
    return Report(show, lives, judge(show, lives), folder)
