"""SIGTERM at any moment: the run is saved, says so by its exit code, and goes on to the bit."""

from __future__ import annotations

import random
import signal
import time

import pytest
from lives import begin, live

from jaxdl.checkpoints import list_steps, open_step
from jaxdl.loop import PREEMPTED


def preempt(folder, after: float, *options: str, signals: int = 1, trained: bool = True):
    """Starts the run, sends SIGTERM some seconds after it began, or trained, and waits."""
    process, out, err = begin(folder, *options, "--tell")
    deadline = time.monotonic() + 60
    log = folder / "metrics.jsonl"
    begun = (lambda: log.exists() and log.stat().st_size) if trained else err.read_text
    while not begun() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(after)
    for _ in range(signals):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.05)
    code = process.wait(timeout=60)
    if '"params"' in out.read_text():
        # It was done before the signal came.
        return 0, err.read_text()
    made = [
        int(line.split()[1]) for line in out.read_text().splitlines() if line.startswith("step")
    ]
    if code == PREEMPTED and made:
        # Not one step is lost, the running one included.
        assert list_steps(folder / "checkpoints")[-1] == made[-1], err.read_text()
    return code, err.read_text()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return live(tmp_path_factory.mktemp("whole") / "run").digests()


def test_it_is_saved_and_goes_on_to_the_bit(tmp_path, whole):
    run = tmp_path / "run"
    code, err = preempt(run, 0.3, "--pause", "0.05")
    assert code == PREEMPTED, err
    assert "SIGTERM: ending after the running step" in err
    (*_, last) = list_steps(run / "checkpoints")
    record = open_step(run / "checkpoints", last)[1]
    # Nothing was lost: what is saved is the step that ran when the signal came, on no round number.
    assert record["step"] == last > 0
    assert live(run).digests() == whole


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", [0, 1])
def test_twenty_moments(tmp_path, whole, part):
    """The wait for a batch, a step, a save, an evaluation, the compile: whatever it hits."""
    rng = random.Random(part)
    seen, number = 0, 0
    while seen < 10:
        run = tmp_path / f"run{number}"
        before = list_steps(run / "checkpoints")[-1:]
        code, err = preempt(run, rng.uniform(0, 5), "--pause", "0.02", trained=False)
        if code == 0:
            number += 1
            continue
        assert code == PREEMPTED, err
        seen += 1
        after = list_steps(run / "checkpoints")[-1:]
        assert after >= before
        if after:
            open_step(run / "checkpoints", after[0])
    assert live(tmp_path / f"run{number}").digests() == whole


def test_during_the_first_compile_it_leaves_at_once(tmp_path):
    process, _, err = begin(tmp_path / "run", "--slow-compile")
    deadline = time.monotonic() + 60
    while True:
        if "compiling" in err.read_text():
            break
        assert time.monotonic() < deadline
        time.sleep(0.02)
    begun = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == PREEMPTED
    assert time.monotonic() - begun < 3
    assert "nothing is unsaved" in err.read_text()


@pytest.mark.slow
def test_while_data_does_not_come_it_saves_and_leaves(tmp_path, whole):
    run = tmp_path / "run"
    begun = time.monotonic()
    code, err = preempt(run, 2.0, "--stall", "20")
    assert code == PREEMPTED, err
    assert time.monotonic() - begun < 30
    # The batches that the recipe looks at before it trains count too.
    assert 12 < list_steps(run / "checkpoints")[-1] <= 20
    assert live(run).digests() == whole


@pytest.mark.slow
def test_during_an_evaluation_it_saves_and_the_evaluation_is_made_later(tmp_path, whole):
    run = tmp_path / "run"
    code, err = preempt(run, 2.0, "--slow-evaluation", "10")
    assert code == PREEMPTED, err
    record = open_step(run / "checkpoints", 10)[1]
    assert record["memory"]["due"] == ["Evaluate:0"]
    assert live(run).digests() == whole


def test_a_second_one_leaves_at_once(tmp_path):
    code, err = preempt(tmp_path / "run", 2.0, "--slow-save", signals=2)
    assert code == 128 + signal.SIGTERM, err
    assert "leaving at once" in err
