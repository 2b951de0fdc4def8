"""Run folders, whole, cut and damaged."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

from jaxdl import checkpoints
from jaxdl.errors import CheckpointError
from jaxdl.reporting import read_run
from jaxdl.reporting.blocks import Facts, Figures, Text
from jaxdl.reporting.figures import learning_rate
from jaxdl.reporting.speed import rate_of, speed
from jaxdl.reporting.wording import percent


def test_a_whole_folder(run_folder):
    run = read_run(run_folder())
    assert run.config["config"]["steps"] == 200
    assert [(r.step, r.split) for r in run.records][:3] == [
        (50, "train"),
        (100, "train"),
        (100, "validation"),
    ]
    assert "time" not in run.records[0].values
    assert run.scores["test"]["accuracy"] == 0.9
    assert run.parameters == ()
    assert "no checkpoint" in run.parameters_missing


@pytest.mark.parametrize("text", [None, "", "[1]", "{", "\udcff"])
def test_a_folder_without_settings_is_no_run(tmp_path, text):
    folder = tmp_path / "old"
    folder.mkdir()
    if text is not None:
        (folder / "config.json").write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(CheckpointError, match="old is no run folder"):
        read_run(folder)


def test_lines_that_are_no_records_are_counted(run_folder):
    folder = run_folder(lines=[{"step": 1, "split": "train", "loss": 1.0}])
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('\n{"step": 2, "split": "train", "lo\n[1]\n{"step": "x", "split": "a"}\n')
    run = read_run(folder)
    assert len(run.records) == 1
    assert run.unreadable == 3


def test_a_run_that_was_cut(run_folder):
    folder = run_folder(summary=None)
    (folder / "metrics.jsonl").unlink()
    run = read_run(folder)
    assert run.summary is None
    assert run.scores == {}
    assert run.records == ()


def test_other_files_are_known_by_what_they_hold(run_folder):
    folder = run_folder()
    (folder / "judging").mkdir()
    files = {
        "plan.json": {"format": "jaxdl plan", "version": 1},
        "judging/first.json": {"kind": "pairs", "agreement": {}},
        "robustness-pgd.json": {"epsilon": 0.1},
        "privacy.json": {"epsilon": 2.0},
        "notes.json": {"kind": "pairs"},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    (folder / "damaged.json").write_text("{")
    found = read_run(folder).documents
    assert {kind: [name for name, _ in each] for kind, each in found.items()} == {
        "plan": ["plan.json"],
        "judging": ["judging/first.json"],
        "robustness": ["robustness-pgd.json"],
        "privacy": ["privacy.json"],
    }


def test_parameters_are_those_of_the_newest_whole_checkpoint(run_folder):
    folder = run_folder()
    state = {"params": {"dense": {"kernel": np.ones((3, 4), np.float32)}}, "step": np.int32(1)}
    store = checkpoints.Checkpoints(folder / "checkpoints")
    for step in (1, 2):
        store.save(step, jax.tree.map(np.asarray, state))
    store.close()
    next((folder / "checkpoints" / "2").rglob("manifest*/*")).write_text("{")
    run = read_run(folder)
    assert run.steps == (1, 2)
    assert [tuple(each) for each in run.parameters] == [("dense/kernel", (3, 4), "float32", 12)]


def test_the_time_of_the_steps_is_that_of_their_windows(run_folder):
    lines = [
        {"step": 10, "split": "train", "loss": 1.0, "steps_per_second": 5.0},
        {"step": 20, "split": "train", "loss": 1.0, "steps_per_second": 10.0},
        {"step": 30, "split": "train", "loss": 1.0, "steps_per_second": None},
        {"step": 35, "split": "train", "loss": 1.0, "steps_per_second": 2.0},
    ]
    rate = rate_of(read_run(run_folder(lines=lines)))
    # 10 steps at 5, 10 at 10 and 5 at 2 a second; what is not known is not counted.
    assert rate.seconds == pytest.approx(10 / 5 + 10 / 10 + 5 / 2)
    assert rate.median == 5.0
    assert (rate.slowest, rate.slowest_at) == (2.0, 35)
    assert (rate.slow, rate.windows) == (1, 3)
    assert rate_of(read_run(run_folder("none", lines=[]))) is None


def test_waiting_for_data_is_told_where_it_was_recorded(run_folder):
    line = {"split": "train", "loss": 1.0, "steps_per_second": 5.0}
    lines = [{**line, "step": step, "stall": stall} for step, stall in ((10, 0.0), (20, 0.5))]
    told = speed(read_run(run_folder(lines=lines)))
    facts = next(block for block in told.blocks if isinstance(block, Facts))
    assert ("Waited for data, mean", percent(0.25)) in facts.rows
    (figures,) = (block for block in told.blocks if isinstance(block, Figures))
    assert len(figures.figures) == 2
    plain = speed(read_run(run_folder("plain")))
    text = " ".join(block.words for block in plain.blocks if isinstance(block, Text))
    assert "do not say how long a step waited" in text


def test_the_learning_rate_is_that_of_the_schedule(run_folder):
    found = learning_rate(read_run(run_folder()))
    by_step = dict(zip(found.steps, found.values, strict=True))
    assert by_step[0] == 0
    assert by_step[20] == pytest.approx(0.1)
    assert by_step[110] == pytest.approx(0.05)
    assert by_step[200] == pytest.approx(0, abs=1e-9)
    config = {"steps": 200, "optimizer": {"name": "adam", "learning_rate": 0.1}}
    assert learning_rate(read_run(run_folder("other", config=config))) is None
