"""What a person sees while a run goes on."""

from __future__ import annotations

import io

from jaxdl.hooks import Progress
from jaxdl.protocols import Record

RATES = {"steps_per_second": 100.0, "examples_per_second": 6400.0}


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_plain_lines_hold_loss_rates_and_the_time_left():
    stream = io.StringIO()
    hook = Progress(stream, interval=0.0)
    hook.open(0, 7000)
    hook.tick(1)
    hook.record(Record(1000, "train", {"loss": 0.5, "accuracy": 1.0, **RATES}))
    hook.record(Record(1000, "validation", {"loss": 1.5e-7}))
    hook.record(Record(7000, "train", {"loss": 12345.0, "skipped": 0, **RATES}))
    hook.close()
    assert stream.getvalue().splitlines() == [
        (
            "step 1000/7000  train       loss 0.5000  accuracy 1.0000  100 steps/s  "
            "6,400 examples/s  1 min 00 s left"
        ),
        "step 1000/7000  validation  loss 1.5e-07",
        "step 7000/7000  train       loss 1.234e+04  skipped 0  100 steps/s  6,400 examples/s",
    ]


def test_plain_lines_are_few_and_the_last_is_shown():
    stream = io.StringIO()
    hook = Progress(stream, interval=3600.0)
    hook.open(0, 30)
    for step in (10, 20, 30):
        hook.record(Record(step, "train", {"loss": 1.0}))
    assert [line.split()[1] for line in stream.getvalue().splitlines()] == ["30/30"]


def test_a_terminal_gets_a_bar_that_ends_full():
    stream = Terminal()
    hook = Progress(stream)
    hook.open(0, 4)
    for step in range(1, 5):
        hook.tick(step)
    hook.record(Record(4, "validation", {"accuracy": 0.25}))
    hook.record(Record(4, "train", {"loss": 0.5, **RATES}))
    hook.close()
    shown = stream.getvalue()
    assert "4/4" in shown
    assert "loss 0.5000  100 steps/s  6,400 examples/s" in " ".join(shown.split(" "))
    assert "step 4/4  validation  accuracy 0.2500" in shown


def test_other_processes_are_silent(monkeypatch):
    monkeypatch.setattr("jax.process_index", lambda: 1)
    stream = io.StringIO()
    hook = Progress(stream, interval=0.0)
    hook.open(0, 2)
    hook.record(Record(2, "train", {"loss": 1.0}))
    assert stream.getvalue() == ""
