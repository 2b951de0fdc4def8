"""A run that is cut in one place and gone on with in another: 1 or 4 devices, 1 or 2 processes."""

from __future__ import annotations

import json
import signal
import time

import pytest
from lives import begin, free_port, live

from jaxdl.checkpoints import list_steps
from jaxdl.loop import PREEMPTED

PLACES = {
    "1 device": ((), 1),
    "4 devices": (("--devices", "4"), 1),
    "2 processes of 2 devices": ((), 2),
}


def last_losses(folder) -> dict[tuple[str, int], float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {(line["split"], line["step"]): line["loss"] for line in lines}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("here", PLACES)
def test_cut_here_and_gone_on_with_there(tmp_path, here):
    options, processes = PLACES[here]
    whole = live(tmp_path / "whole", *options, processes=processes)
    assert whole.finished, whole.err[-3000:]
    for number, (there, (other, count)) in enumerate(PLACES.items()):
        run = tmp_path / str(number)
        cut = live(run, *options, kill="step:40", processes=processes)
        assert not cut.finished
        assert list_steps(run / "checkpoints")
        found = live(run, *options, "--restore", processes=processes).digests()
        # What is read there is what is read here, to the bit.
        assert live(run, *other, "--restore", processes=count).digests() == found
        end = live(run, *other, processes=count)
        if there == here:
            assert end.digests() == whole.digests()
        assert end.finished, end.err[-3000:]
        one, two = last_losses(tmp_path / "whole"), last_losses(run)
        assert one.keys() == two.keys()
        for place, loss in one.items():
            assert two[place] == pytest.approx(loss, rel=2e-4)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_notice_to_one_process_saves_all_of_them_at_one_step(tmp_path):
    whole = live(tmp_path / "whole", processes=2).digests()
    run, port = tmp_path / "run", free_port()
    started = [
        begin(run, "--devices", "2", "--pause", "0.05", process=i, of=2, port=port)
        for i in range(2)
    ]
    deadline = time.monotonic() + 120
    while not list_steps(run / "checkpoints"):
        assert time.monotonic() < deadline, started[0][2].read_text()
        time.sleep(0.05)
    started[1][0].send_signal(signal.SIGTERM)
    codes = [process.wait(timeout=120) for process, _, _ in started]
    assert codes == [PREEMPTED, PREEMPTED], started[0][2].read_text()[-3000:]
    assert live(run, processes=2).digests() == whole
