"""Faults as words, and what is refused before any process is started."""

from __future__ import annotations

import dataclasses

import numpy as np
import optax
import pytest

from jaxdl import Recipe, data, losses, models, supervised
from jaxdl.errors import ConfigError, DataError
from jaxdl.rehearsal import EXAMPLES, Fault, parse_fault
from jaxdl.rehearsal.faults import inject


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("kill:2@step30", Fault("kill", 2, 30)),
        ("slow:1", Fault("slow", 1)),
        ("absent:3", Fault("absent", 3)),
        (" code:0 ", Fault("code", 0)),
        ("short:2@step20", Fault("short", 2, 20)),
    ],
)
def test_faults_read_as_they_are_written(text, expected):
    assert parse_fault(text, 4) == expected
    assert str(expected) == text.strip()


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "no fault"),
        ("kil:1@step3", "did you mean 'kill'"),
        ("kill", "no fault"),
        ("kill:1", "needs the step"),
        ("kill:1@30", "no fault"),
        ("kill:1@step", "no fault"),
        ("kill:1@step0", "before the first update"),
        ("kill:-1@step3", "no fault"),
        ("kill:4@step3", "there is no host 4"),
        ("slow:1@step3", "slow has no step"),
        ("short:1", "short:1@step20"),
        ("slow:one", "no fault"),
        ("slow:1,kill:2@step3", "no fault"),
        ("SLOW:1", "did you mean 'slow'"),
    ],
)
def test_what_is_no_fault_is_refused_with_examples(text, wrong):
    with pytest.raises(ConfigError) as error:
        parse_fault(text, 4)
    assert wrong in str(error.value)
    assert "kill:" in str(error.value) or EXAMPLES in str(error.value)


def test_one_host_has_nobody_to_notice_a_fault():
    with pytest.raises(ConfigError, match="other hosts"):
        parse_fault("slow:0", 1)


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        (["--fault", "kill:1@step99"], "the run has 30"),
        (["--fault", "boom"], "'boom' is no fault"),
        (["--hosts", "0"], "--hosts is 0"),
        (["--hosts", "2", "--deadline", "0"], "--deadline is 0"),
        (["--hosts", "5"], "does not divide over 5 hosts"),
        (["--run-dir", "."], "is not empty"),
        (["--devices-per-host", "0"], "--devices-per-host is 0"),
    ],
)
def test_what_cannot_be_rehearsed_is_refused_at_once(rehearse, words, wrong):
    code, out, err = rehearse(*words)
    assert code == 2, out
    assert wrong in err
    assert "do: " in err


def test_the_help_names_the_faults_and_the_settings(rehearse):
    code, out, _ = rehearse("--help")
    assert code == 0
    assert "--devices-per-host" in out
    assert "--layout" in out


def recipe(rows: int = 12) -> Recipe:
    source = data.arrays({"x": np.ones((rows, 3), np.float32), "label": np.zeros(rows, np.int32)})
    return Recipe(
        name="r",
        objective=supervised(models.MLP((2,)), losses.softmax_cross_entropy, inputs="x"),
        optimizer=optax.sgd(0.1),
        train=data.Batches(source, 4),
        steps=9,
    )


def test_short_data_end_on_one_host_only_and_after_the_step():
    made = recipe()
    assert inject(made, Fault("short", 1, 5), 0) is made
    short = inject(made, Fault("short", 1, 5), 1)
    mine = short.train.host(1, 2)
    np.testing.assert_equal(mine[4], made.train.host(1, 2)[4])
    with pytest.raises(DataError, match="host 1 ran short: there is no batch 5"):
        _ = mine[5]
    # What is evaluated is whole.
    assert len(list(short.evaluated()["train"].epoch())) == 3


def test_other_faults_leave_the_recipe_or_add_a_hook():
    made = recipe()
    for kind in ("absent", "code"):
        assert inject(made, Fault(kind, 1), 1) is made
    assert len(inject(made, Fault("slow", 1), 1).hooks) == 1
    assert inject(made, None, 1) is made
    assert dataclasses.replace(made) == made
