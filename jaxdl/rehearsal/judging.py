"""What a rehearsal showed: a row for every host, and whether the fault was found where it was.

The verdict reads what the hosts, the board and the operating system said; from the fault it takes
only what was to be expected.

Reads from: hosts, rehearsal.faults, rehearsal.processes. Used by: rehearsal.running, cli.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from jaxdl.hosts.member import counted
from jaxdl.rehearsal.faults import Fault
from jaxdl.rehearsal.processes import HostLife, Life, Show

__all__ = ["HEADER", "Report", "Verdict", "judge", "rows"]

HEADER = ("host", "started", "compiled", "last step", "own ms/step", "in step ms", "ended")
"""The titles of ``rows``."""

_SLOWER = 3.0


class Verdict(NamedTuple):
    """What a rehearsal showed.

    Attributes:
        ok: whether it went as the fault predicts.
        lines: what was seen, in words.
    """

    ok: bool
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """All lives of a rehearsal, by name, and the verdict.

    Attributes:
        show: what was rehearsed.
        lives: by name, in their order.
        verdict: over all of them.
        folder: of the run and of the hosts' logs.
    """

    show: Show
    lives: dict[str, Life]
    verdict: Verdict
    folder: Path


def rows(life: Life) -> list[list[str]]:
    """A row of a table for every host.

    Args:
        life: one start of all hosts.
    """
    return [
        [
            str(host.host),
            _yes(host.event("started")),
            _yes(host.event("compiled")),
            str(host.step) if host.step else "none",
            _ms(host, "own"),
            _ms(host, "inside"),
            _end(host),
        ]
        for host in life.hosts
    ]


def judge(show: Show, lives: dict[str, Life]) -> Verdict:
    """Whether a rehearsal went as its fault predicts.

    Args:
        show: what was rehearsed.
        lives: by name: ``"run"``, and of some ``"again"``, ``"unbroken"``, ``"one host"``.
    """
    fault = show.fault
    stalled = [name for name, life in lives.items() if life.stalled]
    if stalled:
        name, life = stalled[0], lives[stalled[0]]
        stands = [f"host {h.host}: {h.stand.at if h.stand else 'unknown'}" for h in life.hosts]
        return Verdict(False, (f"{name}: nothing moved any more: {'; '.join(stands)}",))
    if fault is None:
        return _healthy(show, lives)
    return _JUDGES[fault.kind](show, fault, lives)


def _healthy(show: Show, lives: dict[str, Life]) -> Verdict:
    life = lives["run"]
    if not life.ended_well():
        return Verdict(False, _broken(life))
    equal, lines = _equal_hashes(life)
    size = f"{counted(show.num_hosts, 'host')} x {counted(show.devices, 'device')}"
    lines = [f"{size}: all hosts finished at step {life.hosts[0].step}", *lines]
    if "one host" in lives:
        one = lives["one host"]
        if not one.ended_well():
            return Verdict(False, (*lines, "one host alone:", *_broken(one)))
        same = _hash(one.hosts[0]) == _hash(life.hosts[0])
        devices = counted(show.num_hosts * show.devices, "device")
        relation = (
            "gives the same state to the bit"
            if same
            else ("gives another hash: the order of additions differs")
        )
        lines.append(f"1 host x {devices} {relation}")
    return Verdict(equal, tuple(lines))


def _killed(show: Show, fault: Fault, lives: dict[str, Life]) -> Verdict:
    life = lives["run"]
    found = next(
        (
            h
            for h in life.started()
            if h.ended and h.ended.code == -signal.SIGKILL and not h.ended.put_down
        ),
        None,
    )
    if found is None:
        return Verdict(False, ("no host was killed", *_broken(life)))
    lines = [f"host {found.host} was killed by SIGKILL after step {found.step}"]
    ended, told = _others_ended(life, found, show.deadline)
    lines.append(told)
    again = lives.get("again")
    if again is None or not again.ended_well():
        return Verdict(False, (*lines, *(_broken(again) if again else ("not started again",))))
    equal, hashes = _equal_hashes(again)
    begun = int((again.hosts[0].event("finished") or {}).get("begun", 0))
    origin = f"from the checkpoint of step {begun}" if begun else "from zero: no checkpoint yet"
    lines += [f"all {show.num_hosts} hosts were started again and went on {origin}", *hashes]
    unbroken = lives["unbroken"]
    same = unbroken.ended_well() and _hash(unbroken.hosts[0]) == _hash(again.hosts[0])
    lines.append(
        "the unbroken run ended with the same hash"
        if same
        else f"the unbroken run ended otherwise: sha256 {_hash(unbroken.hosts[0]) or 'missing'}"
    )
    right = (found.host, found.step) == (fault.host, fault.step)
    return Verdict(right and ended and equal and same, tuple(lines))


def _slow(show: Show, fault: Fault, lives: dict[str, Life]) -> Verdict:
    life = lives["run"]
    if not life.ended_well():
        return Verdict(False, _broken(life))
    equal, hashes = _equal_hashes(life)
    own = {h.host: h.figures().get("own", 0.0) for h in life.hosts}
    slowest = max(own, key=lambda host: own[host])
    rest = max(seconds for host, seconds in own.items() if host != slowest)
    if own[slowest] < _SLOWER * rest:
        return Verdict(False, ("no host stands out by its own time", *hashes))
    named = (
        f"host {slowest} is the slow one: {own[slowest] * 1e3:.1f} ms of its own in a step, the "
        f"others at most {rest * 1e3:.1f} ms; they wait for it in the step"
    )
    return Verdict(equal and slowest == fault.host, (named, *hashes))


def _absent(show: Show, fault: Fault, lives: dict[str, Life]) -> Verdict:
    life = lives["run"]
    there = life.started()
    # Without host 0 there is no board: that is then what the others can say.
    marks = [f"host {fault.host} did not come", *["host 0 does not answer"] * (fault.host == 0)]
    named = [h for h in there if any(mark in _why(h) for mark in marks)]
    # Imports and the last polls come on top of what the hosts wait.
    late = [h for h in there if h.ended and (h.ended.put_down or h.ended.code == 0)]
    lines = [f"host {h.host}: {_why(h)}" for h in there]
    lines.append(f"all ended {life.seconds:.1f} s after the start (deadline {show.deadline:g} s)")
    return Verdict(bool(there) and len(named) == len(there) and not late, tuple(lines))


def _altered(show: Show, fault: Fault, lives: dict[str, Life]) -> Verdict:
    life = lives["run"]
    mark = "the recipe file differs"
    texts = [str((h.event("error") or {}).get("text", "")) for h in life.hosts]
    lines = tuple(line.strip() for line in texts[0].splitlines()) or _broken(life)
    if show.num_hosts == 2:
        # One against one: both are named.
        named = [mark in text for text in texts]
    else:
        named = [f"host {fault.host}: {mark}" in text for text in texts]
    put_down = any(h.ended and h.ended.put_down for h in life.hosts)
    told = f"{sum(named)} of {show.num_hosts} hosts ended with this error before the first step"
    began = any(h.step for h in life.hosts)
    return Verdict(all(named) and not put_down and not began, (*lines, told))


def _short(show: Show, fault: Fault, lives: dict[str, Life]) -> Verdict:
    life = lives["run"]
    found = next(
        (h for h in life.hosts if (h.event("error") or {}).get("kind") == "DataError"), None
    )
    if found is None:
        return Verdict(False, ("no host ran out of data", *_broken(life)))
    lines = [f"host {found.host} after step {found.step}: {_why(found)}"]
    ended, told = _others_ended(life, found, show.deadline)
    lines.append(told)
    right = (found.host, found.step) == (fault.host, fault.step)
    return Verdict(right and ended, tuple(lines))


_JUDGES: dict[str, Callable[[Show, Fault, dict[str, Life]], Verdict]] = {
    "kill": _killed,
    "slow": _slow,
    "absent": _absent,
    "code": _altered,
    "short": _short,
}


def _others_ended(life: Life, found: HostLife, deadline: float) -> tuple[bool, str]:
    others = [h for h in life.started() if h.host != found.host]
    hung = [str(h.host) for h in others if h.ended and h.ended.put_down]
    if hung:
        return False, f"hosts {', '.join(hung)} still waited {deadline:g} s later: they hang"
    last = max(h.ended.after for h in others if h.ended)
    later = max(0.0, last - (life.lost_after() or 0.0))
    return True, f"the others ended by themselves, the last of them {later:.1f} s later"


def _equal_hashes(life: Life) -> tuple[bool, list[str]]:
    found: dict[str, list[int]] = {}
    for host in life.hosts:
        found.setdefault(_hash(host) or "missing", []).append(host.host)
    if len(found) == 1 and "missing" not in found:
        return True, [f"all hosts hold the same state: sha256 {next(iter(found))}"]
    return False, [f"hosts {hosts}: sha256 {value}" for value, hosts in found.items()]


def _hash(host: HostLife) -> str:
    return str((host.event("finished") or {}).get("hash", ""))


def _broken(life: Life) -> tuple[str, ...]:
    return tuple(f"host {h.host}: {_end(h)} ({h.log})" for h in life.hosts)


def _yes(event: object) -> str:
    return "no" if event is None else "yes"


def _ms(host: HostLife, name: str) -> str:
    seconds = host.figures().get(name)
    return "" if seconds is None else f"{seconds * 1e3:.1f}"


def _end(host: HostLife) -> str:
    if host.ended is None:
        return "never started"
    if host.ended.put_down:
        return "hung, and was ended"
    if host.ended.code == 0:
        return "finished"
    if host.ended.code == -signal.SIGABRT and not _why(host):
        return "SIGABRT: JAX ended it, since another host was lost"
    if host.ended.code < 0 and not _why(host):
        return signal.Signals(-host.ended.code).name
    return _why(host) or f"exit code {host.ended.code}"


def _why(host: HostLife) -> str:
    """The first line of the error that a host ended with."""
    event = host.event("error")
    if event is not None:
        return f"{event['kind']}: {(str(event['text']).splitlines() or [''])[0]}"
    if host.ended is not None and host.ended.code == -signal.SIGKILL:
        return ""
    lines = host.log.read_text(errors="replace").splitlines() if host.log.exists() else []
    told = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return told[-1] if told else ""
