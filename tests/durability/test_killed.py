"""SIGKILL at any moment, then another start: the run ends as if it had never been cut."""

from __future__ import annotations

import random

import pytest
from lives import KILLED, live

PHASES = {
    "step": (1, 45),
    "record": (1, 10),
    "evaluation": (1, 12),
    "compile": (1, 12),
    "save": (1, 6),
    "data": (1, 6),
    "committed": (1, 6),
    "time": (1200, 3500),
}


def plan(seed: int, phases=tuple(PHASES)):
    """Moments to die at, each kind in turn, drawn by a seed."""
    rng = random.Random(seed)
    while True:
        for phase in rng.sample(phases, len(phases)):
            yield f"{phase}:{rng.randint(*PHASES[phase])}"


def cut_until(folder, kills: int, moments, *, processes: int = 1):
    """Starts and kills runs until so many kills are counted, then lets the last one finish."""
    counted, finished = [], []
    number = 0
    while True:
        moment = next(moments) if len(counted) < kills else None
        run = folder / f"run{number}"
        life = live(run, kill=moment, processes=processes)
        if life.finished:
            finished.append(life.digests())
            number += 1
            if moment is None:
                return counted, finished
        else:
            assert moment is not None, life.err[-3000:]
            assert life.codes[-1] == KILLED, (moment, life.codes, life.err[-3000:])
            counted.append(moment)


def test_a_run_that_is_killed_is_the_run_that_was_not(tmp_path):
    whole = live(tmp_path / "whole").digests()
    moments = iter(["data:3", "evaluation:4"])
    killed, finished = cut_until(tmp_path, 2, moments)
    assert len(killed) == 2
    assert finished == [whole]


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("seed", [0, 1])
def test_forty_kills_of_one_process(tmp_path, seed):
    """Half of the forty each, so that two workers share them."""
    whole = live(tmp_path / "whole").digests()
    killed, finished = cut_until(tmp_path, 20, plan(seed))
    assert len(killed) == 20
    assert finished
    assert finished == [whole] * len(finished)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_twelve_kills_of_two_processes(tmp_path):
    """Two processes of two devices each over jax.distributed; one of them dies."""
    whole = live(tmp_path / "whole", processes=2).digests()
    killed, finished = cut_until(tmp_path, 12, plan(2), processes=2)
    assert len(killed) == 12
    assert finished
    assert finished == [whole] * len(finished)
