"""Private recipes: one set of numbers for bound, noise and account, and a log that says so."""

from __future__ import annotations

import dataclasses
import json
import math

import jax
import numpy as np
import optax
import pytest

import jaxdl
from jaxdl import data, gradients, losses, metrics, models, privacy
from jaxdl.errors import CheckpointError, ConfigError
from jaxdl.hooks import EarlyStop, LossSpike
from jaxdl.protocols import Moment
from jaxdl.recipe import place, train

RNG = np.random.default_rng(0)
SOURCE = data.arrays(
    {
        "image": RNG.normal(size=(64, 4)).astype(np.float32),
        "label": RNG.integers(0, 3, 64).astype(np.int32),
    }
)
POISSON = data.PoissonBatches(SOURCE, 8, seed=0, multiple_of=8)
GIVEN = {"clip_norm": 0.5, "delta": 1e-4, "key": jax.random.key(1), "accountant": "rdp"}


def plain(**changes):
    recipe = jaxdl.Recipe(
        name="small",
        objective=jaxdl.supervised(
            models.MLP((4, 3)),
            losses.softmax_cross_entropy,
            metrics={"accuracy": metrics.accuracy()},
        ),
        optimizer=optax.adam(1e-2),
        train=POISSON,
        steps=6,
        log_every=2,
    )
    return dataclasses.replace(recipe, **changes)


def private(recipe=None, **given):
    given = {"noise_multiplier": 1.1, **given}
    return privacy.make_private(plain() if recipe is None else recipe, **GIVEN, **given)


def lines(folder):
    text = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in text]


def run(recipe, folder):
    placed = place(recipe, devices=jax.devices()[:1])
    return train(recipe, folder, placed=placed, progress=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "private"
    run(private(), path)
    return path


def test_a_run_logs_what_it_has_spent_beside_every_train_record(folder):
    spent = [line for line in lines(folder) if line["split"] == privacy.SPLIT]
    trained = [line for line in lines(folder) if line["split"] == "train"]
    assert [line["step"] for line in spent] == [line["step"] for line in trained] == [2, 4, 6]
    for line in spent:
        assert line["epsilon"] == privacy.epsilon(
            noise_multiplier=1.1,
            sampling=POISSON,
            steps=line["step"],
            delta=1e-4,
            accountant="rdp",
        )
        assert line["noise_multiplier"] == 1.1
        assert line["clip_norm"] == 0.5
        assert line["expected_batch_size"] == 8
        assert line["sampling_rate"] == 0.125
        assert line["delta"] == 1e-4
    assert {"loss", "accuracy", "clipped", "not_finite"} <= set(trained[0])


@pytest.mark.slow
def test_a_run_that_goes_on_has_the_account_and_the_noise_of_one_that_never_stopped(
    folder, tmp_path
):
    half = dataclasses.replace(private(plain(steps=4)), checkpoint_every=2)
    run(half, tmp_path)
    whole = run(dataclasses.replace(private(), checkpoint_every=2), tmp_path)
    assert whole.started == 4
    timeless = [[{**line, "time": 0} for line in lines(each)] for each in (folder, tmp_path)]
    figures = [[(x["step"], x.get("loss"), x.get("epsilon")) for x in each] for each in timeless]
    assert figures[0] == [x for x in figures[1] if x in figures[0]]
    other = dataclasses.replace(private(plain(steps=8), noise_multiplier=0.5), checkpoint_every=2)
    with pytest.raises(CheckpointError, match=r"noise_multiplier: 1.1 became 0.5"):
        run(other, tmp_path)


def test_the_noise_is_found_for_an_epsilon():
    recipe = private(epsilon=2.0, noise_multiplier=None)
    (ledger,) = recipe.hooks
    assert 1.9 < ledger.spent(recipe.steps) <= 2.0
    assert recipe.gradient is not None


def test_shuffled_batches_are_accounted_as_epochs():
    shuffled = data.Batches(SOURCE, 8)
    (ledger,) = private(plain(train=shuffled)).hooks
    kept = ledger.remember()
    assert kept["batches_per_epoch"] == 8.0
    assert kept["expected_batch_size"] == 8.0
    assert "sampling_rate" not in kept
    (poisson,) = private().hooks
    assert ledger.spent(6) > 1.5 * poisson.spent(6)
    assert ledger.spent(8) == ledger.spent(1) < ledger.spent(9)


def test_without_noise_epsilon_is_infinite():
    (ledger,) = private(noise_multiplier=0).hooks
    found = []
    ledger.at(Moment(2, None, found.append))
    assert found[0].values["epsilon"] == math.inf


@pytest.mark.parametrize(
    ("changes", "given", "message"),
    [
        ({}, {"epsilon": 1.0}, "epsilon is 1.0 and noise_multiplier is 1.1"),
        ({}, {"noise_multiplier": None}, "epsilon is None and noise_multiplier is None"),
        ({"gradient": gradients.mean()}, {}, "has a gradient estimator"),
        ({"nonfinite": "rollback"}, {}, "chooses batches by their loss"),
        ({"spike": LossSpike()}, {}, "spike ends the run by the training loss"),
        (
            {"early_stop": EarlyStop("train/loss"), "validation": POISSON},
            {},
            "early_stop reads the training loss",
        ),
    ],
)
def test_recipes_that_cannot_be_private_are_refused(changes, given, message):
    with pytest.raises(ConfigError, match=message):
        private(plain(**changes), **given)


def test_a_run_that_went_back_is_refused():
    (ledger,) = private().hooks
    ledger.open(0, 6)
    for step in range(1, 5):
        ledger.tick(step)
    ledger.open(4, 6)
    with pytest.raises(ConfigError, match="went back from step 4 to step 2"):
        ledger.open(2, 6)
    ledger.open(0, 6)
