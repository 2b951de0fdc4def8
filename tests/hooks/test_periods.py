"""Early stop; evaluation and other periods are tested with the loop and the recipe."""

from __future__ import annotations

import math

import pytest

from jaxdl.errors import ConfigError
from jaxdl.hooks import EarlyStop
from jaxdl.protocols import Record


def stops_at(hook, values):
    """The index of the record at which the hook ends the run, and why."""
    hook.open(0, 100)
    for index, value in enumerate(values):
        reason = hook.record(Record(10 * (index + 1), "validation", {"loss": value}))
        if reason is not None:
            return index, reason
    return None, None


@pytest.mark.parametrize(
    ("values", "settings", "stop"),
    [
        ([5, 4, 4.5, 4.2], {"patience": 2}, 3),
        ([5, 4, 4.5, 3.9, 4.0], {"patience": 2}, None),
        ([5, 5], {"patience": 1}, 1),
        ([5, 4.95, 4.9, 4.85, 4.8, 4.75], {"patience": 3, "min_delta": 0.2}, 3),
        ([1, 2, 1.5], {"patience": 1, "mode": "max"}, 2),
        ([3, math.nan, math.nan], {"patience": 2}, 2),
    ],
)
def test_patience(values, settings, stop):
    assert stops_at(EarlyStop("validation/loss", **settings), values)[0] == stop


def test_the_reason_names_the_best():
    _, reason = stops_at(EarlyStop(patience=1), [5, 4, 4.5])
    assert reason == (
        "early stop: validation/loss was best at step 20 (4) and did not improve in 1 evaluations"
    )


def test_a_second_run_starts_anew():
    hook = EarlyStop(patience=1)
    assert stops_at(hook, [1, 2])[0] == 1
    assert stops_at(hook, [5, 4])[0] is None


def test_other_splits_are_passed_over():
    hook = EarlyStop(patience=1)
    hook.open(0, 10)
    assert [hook.record(Record(step, "train", {"loss": step})) for step in (1, 2, 3)] == [None] * 3


def test_a_metric_that_is_not_measured():
    hook = EarlyStop("validation/acuracy")
    hook.open(0, 10)
    with pytest.raises(ConfigError, match="did you mean 'accuracy'"):
        hook.record(Record(1, "validation", {"accuracy": 0.5, "loss": 1.0}))


@pytest.mark.parametrize("settings", [{"patience": 0}, {"mode": "least"}, {"metric": "loss"}])
def test_settings_out_of_range(settings, untyped):
    with pytest.raises(ConfigError, match="EarlyStop"):
        EarlyStop(**settings)
