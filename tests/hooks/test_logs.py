"""Records on disk."""

from __future__ import annotations

import json
import math

import numpy as np

from jaxdl.hooks import JsonLines, TensorBoard
from jaxdl.protocols import Record

VALUES = {"loss": 0.1 + 0.2, "skipped": 3, "matrix": np.array([[1, 2], [3, 4]])}


def test_a_line_reads_back_as_what_was_measured(tmp_path):
    hook = JsonLines(tmp_path / "metrics.jsonl")
    hook.open(0, 10)
    hook.record(Record(5, "train", VALUES))
    hook.record(Record(10, "test", {"auroc": math.nan, "perplexity": math.inf}))
    hook.close()
    first, second = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert (first["step"], first["split"]) == (5, "train")
    assert first["loss"] == 0.1 + 0.2
    assert first["skipped"] == 3
    assert first["matrix"] == [[1, 2], [3, 4]]
    assert second["time"] >= first["time"] > 1.7e9
    assert second["auroc"] is None
    assert second["perplexity"] is None


def test_lines_are_there_before_the_end_and_a_file_is_continued(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for step in (1, 2):
        hook = JsonLines(path)
        hook.open(0, 2)
        hook.record(Record(step, "train", {}))
        lines = path.read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == list(range(1, step + 1))
        hook.close()


def test_a_closed_hook_can_be_closed_again(tmp_path):
    for hook in (JsonLines(tmp_path / "x.jsonl"), TensorBoard(tmp_path / "tb")):
        hook.open(0, 1)
        hook.close()
        hook.close()


def test_other_processes_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("jax.process_index", lambda: 1)
    for hook in (JsonLines(tmp_path / "x.jsonl"), TensorBoard(tmp_path / "tb")):
        hook.open(0, 1)
        hook.record(Record(1, "train", VALUES))
        hook.close()
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_scalars(tmp_path):
    hook = TensorBoard(tmp_path / "tb")
    hook.open(0, 10)
    hook.record(Record(5, "train", VALUES))
    hook.close()
    (file,) = (tmp_path / "tb").iterdir()
    scalars = dict(read_scalars(file))
    assert scalars == {("train/loss", 5): np.float32(0.3), ("train/skipped", 5): 3.0}


def read_scalars(file):
    """The scalars of an event file, whose records are framed as TFRecord."""
    from tensorboardX.proto.event_pb2 import Event

    content = file.read_bytes()
    while content:
        size = int.from_bytes(content[:8], "little")
        event = Event.FromString(content[12 : 12 + size])
        content = content[16 + size :]
        for value in event.summary.value:
            yield (value.tag, event.step), value.simple_value
