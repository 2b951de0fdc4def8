"""Whole rehearsals: every fault, and the same numbers on any division of the same devices.

Each starts processes that import and compile, so the deadlines are generous: a machine may be busy.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxdl import checkpoints
from jaxdl.rehearsal import Show, rehearse

pytestmark = pytest.mark.slow

DEADLINE = 100.0
PROGRAM = "jaxdl.cli.rehearsing:run_host"


def alive(marker: str) -> list[int]:
    """The processes whose environment names a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if marker.encode() in path.read_bytes() and int(path.parent.name) != os.getpid():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


@pytest.mark.parametrize(
    ("hosts", "devices", "fault", "told"),
    [
        (3, 1, "kill:2@step17", "host 2 was killed by SIGKILL after step 17"),
        (2, 2, "kill:0@step17", "host 0 was killed by SIGKILL after step 17"),
        (3, 1, "slow:1", "host 1 is the slow one"),
        (3, 1, "code:1", "host 1: the recipe file differs"),
        (4, 1, "short:2@step20", "host 2 after step 20: DataError: the data of host 2 ran short"),
        (2, 1, "short:0@step3", "host 0 after step 3: DataError: the data of host 0 ran short"),
    ],
)
def test_a_fault_is_found_where_it_is(rehearse, tmp_path, hosts, devices, fault, told):
    words = ["--hosts", hosts, "--devices-per-host", devices, "--deadline", DEADLINE]
    folder = tmp_path / "here"
    code, out, err = rehearse(
        *words, "--fault", fault, "--run-dir", folder, "--checkpoint-every", 5
    )
    assert code == 0, out + err
    assert told in out
    assert "it went as the fault predicts" in out
    if fault.startswith("kill"):
        assert "the unbroken run ended with the same hash" in out
        assert re.search(r"went on from the checkpoint of step (5|10|15)", out)
        assert len(re.findall(r"sha256 [0-9a-f]{64}", out)) == 1
    assert alive(str(folder)) == []


@pytest.mark.parametrize(("hosts", "absent"), [(4, 3), (2, 0)])
def test_an_absent_host_is_named_within_the_deadline(rehearse, hosts, absent):
    begin = time.monotonic()
    code, out, err = rehearse("--hosts", hosts, "--fault", f"absent:{absent}", "--deadline", 30)
    seconds = time.monotonic() - begin
    if absent == 0:
        # Nobody keeps the board: the others can only say that.
        assert "host 0 does not answer" in out, out + err
    else:
        assert out.count(f"host {absent} did not come within") >= hosts - 1, out + err
    assert code == 0, out + err
    assert seconds < 150


def test_a_fault_that_does_not_happen_is_no_success(rehearse, tmp_path):
    # The file's own settings end the run before the step.
    path = tmp_path / "tiny.py"
    text = path.read_text().replace("steps=config.steps,", "steps=config.steps, early_stop=STOP,")
    text = text.replace("metrics={", "validation=batches(2, 24), metrics={")
    stop = "jaxdl.hooks.EarlyStop('validation/loss', patience=1, min_delta=1e9)"
    text = text.replace("STOP", stop).replace("eval_every=config.steps", "eval_every=2")
    path.write_text(text.replace("import jaxdl\n", "import jaxdl\nimport jaxdl.hooks\n", 1))
    code, out, err = rehearse("--fault", "short:1@step25", "--deadline", DEADLINE)
    assert code == 1, out + err
    assert "no host ran out of data" in out
    assert "IT DID NOT GO AS THE FAULT PREDICTS" in out


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["split"] == "train"]


@pytest.mark.parametrize("layout", ["data_parallel", "fsdp"])
def test_processes_times_devices_give_the_same_numbers(tiny, tmp_path, layout):
    runs = []
    for hosts, devices in ((1, 8), (2, 4), (4, 2)):
        words = ("--layout", layout, "--checkpoint-every", "30")
        show = Show(PROGRAM, tiny, words, hosts, devices, DEADLINE)
        report = rehearse(show, tmp_path / f"{hosts}x{devices}", alone=False)
        assert report.verdict.ok, report.verdict.lines
        # Host 0 alone writes and talks.
        talked = [" steps in " in host.log.read_text() for host in report.lives["run"].hosts]
        assert talked == [True] + [False] * (hosts - 1)
        runs.append(report.folder / "run")
    whole = losses(runs[0])
    assert len(whole) == 6
    for run in runs[1:]:
        assert losses(run) == pytest.approx(whole, abs=1e-6)
        stored = [each / "checkpoints" / "30" for each in (runs[0], run)]
        for row in checkpoints.diff(*stored).differing():
            assert row.max_abs is not None, row
            assert row.max_abs <= 1e-6, row


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_the_supervisor(tiny, tmp_path, number):
    folder = tmp_path / "here"
    # A shell that puts the tests into the background has SIGINT ignored in what they start.
    heard = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"{heard}; from jaxdl.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code]
    words = ["rehearse", "tiny.py", "--hosts", "3", "--steps", "100000", "--run-dir", str(folder)]
    with (tmp_path / "out").open("w") as out:
        started = subprocess.Popen([*command, *words], stdout=out, stderr=out)
    try:
        deadline = time.monotonic() + 120
        while len(alive(str(folder))) < 3:
            assert time.monotonic() < deadline, (tmp_path / "out").read_text()
            time.sleep(0.1)
        started.send_signal(number)
        ended = started.wait(timeout=60)
    finally:
        started.kill()
        started.wait()
    assert ended == (130 if number == signal.SIGINT else -number)
    deadline = time.monotonic() + 20
    while alive(str(folder)):
        assert time.monotonic() < deadline, "processes are left"
        time.sleep(0.1)
