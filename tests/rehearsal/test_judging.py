"""The verdict over what hosts did, on lives that are made up."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from jaxdl.hosts import Stand
from jaxdl.rehearsal import Fault, Show, rows
from jaxdl.rehearsal.judging import judge
from jaxdl.rehearsal.processes import Ended, HostLife, Life

SHOW = Show("m:f", Path("f.py"), (), 3, 1, 20.0)


def finished(host: int, *, digest: str = "aa", own: float = 0.001, begun: int = 0) -> HostLife:
    figures = {"own": own, "inside": 0.01}
    events = [
        {"event": "started", "time": 1.0},
        {"event": "compiled", "time": 2.0},
        {"event": "finished", "time": 9.0, "hash": digest, "begun": begun, "figures": figures},
    ]
    return HostLife(host, Path("none.log"), Ended(0, 10.0), 30, events)


def failed(host: int, kind: str, text: str, *, step: int = 0, put_down: bool = False) -> HostLife:
    events = [{"event": "error", "time": 5.0, "kind": kind, "text": text}]
    return HostLife(host, Path("none.log"), Ended(1, 6.0, put_down), step, events)


def died(host: int, code: int, *, step: int, after: float = 5.0, put_down: bool = False):
    return HostLife(host, Path("none.log"), Ended(code, after, put_down), step)


def show(fault: Fault | None) -> Show:
    return Show(SHOW.program, SHOW.file, (), 3, 1, 20.0, fault)


def test_equal_hashes_are_a_healthy_run_and_others_are_not():
    life = Life([finished(h) for h in range(3)])
    assert judge(SHOW, {"run": life}).ok
    assert "all hosts hold the same state: sha256 aa" in judge(SHOW, {"run": life}).lines
    one = Life([finished(0, digest="bb")])
    told = judge(SHOW, {"run": life, "one host": one})
    assert told.ok
    assert "another hash" in told.lines[-1]
    other = Life([finished(0), finished(1, digest="bb"), finished(2)])
    assert not judge(SHOW, {"run": other}).ok
    missing = Life([finished(h, digest="") for h in range(3)])
    assert not judge(SHOW, {"run": missing}).ok
    assert not judge(SHOW, {"run": Life([finished(0), finished(1), died(2, 1, step=3)])}).ok


def killed(step: int = 12, *, hung: bool = False, digest: str = "aa"):
    kill = died(2, -signal.SIGKILL, step=step)
    others = [died(0, -signal.SIGABRT, step=12), died(1, 1, step=12, put_down=hung)]
    return {
        "run": Life([*others, kill]),
        "again": Life([finished(h, digest=digest, begun=10) for h in range(3)]),
        "unbroken": Life([finished(h) for h in range(3)]),
    }


def test_a_kill_is_right_when_the_run_comes_to_the_unbroken_hash():
    fault = show(Fault("kill", 2, 12))
    told = judge(fault, killed())
    assert told.ok, told
    assert told.lines[0] == "host 2 was killed by SIGKILL after step 12"
    assert "from the checkpoint of step 10" in told.lines[2]
    assert not judge(fault, killed(digest="bb")).ok
    assert not judge(fault, killed(hung=True)).ok
    assert not judge(fault, killed(step=13)).ok
    assert not judge(show(Fault("kill", 1, 12)), killed()).ok
    assert not judge(fault, {"run": Life([finished(h) for h in range(3)])}).ok


def test_the_slow_host_is_named_by_its_own_time():
    life = Life([finished(0), finished(1, own=0.05), finished(2)])
    told = judge(show(Fault("slow", 1)), {"run": life})
    assert told.ok
    assert told.lines[0].startswith("host 1 is the slow one: 50.0 ms")
    assert not judge(show(Fault("slow", 2)), {"run": life}).ok
    even = Life([finished(h, own=0.05) for h in range(3)])
    assert not judge(show(Fault("slow", 1)), {"run": even}).ok


def test_an_absent_host_is_named_by_all_others():
    absent = HostLife(2, Path("none.log"))
    text = "barrier 'start': host 2 did not come within 20 s (2 of 3 hosts are there)"
    there = [failed(h, "HostError", text) for h in (0, 1)]
    assert judge(show(Fault("absent", 2)), {"run": Life([*there, absent])}).ok
    silent = failed(1, "HostError", "host 0 does not answer")
    assert not judge(show(Fault("absent", 2)), {"run": Life([there[0], silent, absent])}).ok
    hung = failed(1, "HostError", text, put_down=True)
    assert not judge(show(Fault("absent", 2)), {"run": Life([there[0], hung, absent])}).ok


def test_other_code_is_named_on_every_host_before_the_first_step():
    text = "the hosts do not run the same thing: host 1\n    host 1: the recipe file differs: a; b"
    life = [failed(h, "HostError", text) for h in range(3)]
    assert judge(show(Fault("code", 1)), {"run": Life(life)}).ok
    assert not judge(show(Fault("code", 2)), {"run": Life(life)}).ok
    late = [*life[:2], failed(2, "HostError", text, step=1)]
    assert not judge(show(Fault("code", 1)), {"run": Life(late)}).ok


@pytest.mark.parametrize("hung", [False, True])
def test_short_data_are_right_when_the_others_do_not_hang(hung):
    short = failed(2, "DataError", "the data of host 2 ran short", step=20)
    others = [died(0, 1, step=20), died(1, -signal.SIGABRT, step=20, put_down=hung)]
    told = judge(show(Fault("short", 2, 20)), {"run": Life([*others, short])})
    assert told.ok is not hung
    assert told.lines[0].startswith("host 2 after step 20: DataError: the data of host 2 ran short")


def test_a_run_that_stands_still_is_no_success():
    life = Life([finished(h) for h in range(3)], stalled=True)
    life.hosts[1].stand = Stand(1, "vm-1", "step 4", 3.0, "", "", {})
    told = judge(SHOW, {"run": life})
    assert not told.ok
    assert "host 1: step 4" in told.lines[0]


def test_rows_say_how_each_host_ended():
    life = Life([finished(0), died(1, -signal.SIGKILL, step=3), HostLife(2, Path("none.log"))])
    table = rows(life)
    assert table[0] == ["0", "yes", "yes", "30", "1.0", "10.0", "finished"]
    assert table[1][-1] == "SIGKILL"
    assert table[2] == ["2", "no", "no", "none", "", "", "never started"]
    assert rows(Life([died(0, 1, step=3, put_down=True)]))[0][-1] == "hung, and was ended"
