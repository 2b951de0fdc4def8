"""The composition point: what it refuses before compute, and what a run leaves."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import optax
import pytest

import jaxdl
from jaxdl import checkpoints, data, losses, metrics, models
from jaxdl.errors import BatchError, CheckpointError, ConfigError, ObjectiveError
from jaxdl.hooks import EarlyStop
from jaxdl.recipe import Recipe, place, score, train


def make_batches(problem: int, rows: int, *, dtype=np.float32, **options):
    x = np.random.default_rng(problem).normal(size=(rows, 3))
    columns = {"x": x.astype(dtype), "label": (x[:, 0] > 0).astype(np.int32)}
    return data.Batches(data.arrays(columns), 8, **options)


def make_recipe(**changes) -> Recipe:
    objective = jaxdl.supervised(models.MLP((2,)), losses.softmax_cross_entropy, inputs="x")
    given = {
        "name": "tiny",
        "objective": objective,
        "optimizer": optax.adam(0.1),
        "train": make_batches(0, 30, seed=3),
        "validation": make_batches(1, 16),
        "test": make_batches(2, 11),
        "steps": 40,
        "metrics": {"accuracy": metrics.accuracy()},
        "log_every": 10,
        "layout": jaxdl.single(),
    }
    return Recipe(**{**given, **changes})


def no_compute(*args, **kwargs):
    pytest.fail("compute was spent")


@pytest.fixture
def idle(monkeypatch):
    """Fails the test when a program is compiled or a loop is started."""
    monkeypatch.setattr("jaxdl.recipe.running.fit", no_compute)
    monkeypatch.setattr("jaxdl.placement.guard.Guarded.compile", no_compute)


def test_train_learns_and_scores_every_split_exactly():
    recipe = make_recipe()
    outcome = train(recipe, progress=False)
    assert list(outcome.scores) == ["train", "validation", "test"]
    assert outcome.scores["train"]["loss"] < 0.7 * outcome.result.records[0].values["loss"]
    logits = models.MLP((2,)).apply(
        {"params": outcome.result.state.params}, recipe.test.source.columns["x"]
    )
    right = np.argmax(logits, axis=-1) == recipe.test.source.columns["label"]
    assert outcome.scores["test"]["accuracy"] == right.mean()
    validations = [r for r in outcome.result.records if r.split == "validation"]
    assert [record.step for record in validations] == list(range(4, 41, 4))
    assert validations[-1].values == outcome.scores["validation"]


def test_devices_give_the_same_scores():
    one = train(make_recipe(), progress=False)
    many = train(make_recipe(layout=jaxdl.data_parallel()), progress=False)
    for split, values in one.scores.items():
        assert many.scores[split] == pytest.approx(values, rel=1e-3)


def test_the_moving_average_is_what_is_measured():
    averaged = train(make_recipe(ema_decay=0.999), progress=False)
    plain = train(make_recipe(), progress=False)
    for state in (averaged.result.state, plain.result.state):
        kernel = state.params["dense_0"]["kernel"]
        np.testing.assert_array_equal(kernel, plain.result.state.params["dense_0"]["kernel"])
    # The average has hardly left the first parameters.
    assert averaged.scores["train"]["loss"] > 1.3 * plain.scores["train"]["loss"]


def test_early_stop_ends_the_run_and_the_scores_are_of_its_last_state():
    stop = EarlyStop("validation/accuracy", patience=2, mode="max")
    recipe = make_recipe(optimizer=optax.sgd(1e-9), early_stop=stop, eval_every=3)
    outcome = train(recipe, progress=False)
    assert outcome.result.step == 9
    assert "validation/accuracy was best at step 3" in outcome.result.stopped
    assert train(recipe, progress=False).result.step == 9


def test_the_transform_of_the_training_batches_is_not_measured():
    def spoil(batch, rng):
        return {**batch, "x": np.zeros_like(batch["x"])}

    recipe = make_recipe(train=make_batches(0, 30, transform=spoil), steps=1)
    plain = make_recipe(steps=1)
    placed = place(plain)
    state = placed.train.init(0, plain.train[0])
    scores = [score(each, placed, state, ["train"]) for each in (recipe, plain)]
    assert scores[0] == scores[1]


def test_a_split_that_the_recipe_lacks():
    recipe = make_recipe(test=None)
    placed = place(recipe)
    with pytest.raises(ConfigError, match="has no split 'test'"):
        score(recipe, placed, placed.state, ["test"])


def test_a_folder_in_use_is_refused_before_compute(tmp_path, idle):
    with checkpoints.lock(tmp_path), pytest.raises(CheckpointError, match="is being trained by"):
        train(make_recipe(), tmp_path)


def test_a_log_without_checkpoints_is_set_aside(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    train(make_recipe(steps=2), tmp_path, progress=False)
    assert (tmp_path / "metrics.jsonl.old").read_text() == "{}\n"
    assert '"split": "train"' in (tmp_path / "metrics.jsonl").read_text()


def test_a_folder_that_cannot_be_made_is_refused_before_compute(tmp_path, idle):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be made"):
        train(make_recipe(), tmp_path / "file" / "run")


@pytest.mark.parametrize(
    ("changes", "error", "told"),
    [
        ({"test": make_batches(2, 11, dtype=np.float64)}, BatchError, "the test batches differ"),
        ({"validation": make_batches(2, 11, remainder="drop")}, ConfigError, "leaves out"),
        (
            {"metrics": {"accuracy": metrics.accuracy(target="digit")}},
            BatchError,
            "digit",
        ),
        (
            {
                "objective": jaxdl.supervised(
                    models.MLP((2,)), losses.softmax_cross_entropy, inputs="image"
                )
            },
            BatchError,
            "image",
        ),
        ({"freeze": "encoder"}, jaxdl.errors.PathError, "encoder"),
        (
            {
                "validation": data.Batches(
                    data.arrays(
                        {"x": np.zeros((3, 3), np.float32), "label": np.array([0, 2, 1], np.int32)}
                    ),
                    8,
                )
            },
            jaxdl.errors.DataError,
            r"holds \[2\] at rows \[1\](.|\n)*from 0 to 1",
        ),
        ({"ema_decay": 2.0}, ObjectiveError, "ema_decay is 2.0"),
    ],
)
def test_parts_that_do_not_fit_are_refused_before_compute(idle, changes, error, told):
    with pytest.raises(error, match=told):
        train(make_recipe(**changes))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"name": "a/b"}, "name is 'a/b'"),
        ({"steps": 0}, "steps is 0"),
        ({"log_every": 0}, "log_every is 0"),
        ({"eval_every": 0}, "eval_every is 0"),
        ({"early_stop": EarlyStop(), "validation": None}, "without validation batches"),
    ],
)
def test_settings_out_of_range(changes, told):
    with pytest.raises(ConfigError, match=told):
        make_recipe(**changes)


def test_a_recipe_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_recipe().steps = 3


def test_placing_counts_parameters_and_allocates_nothing():
    placed = place(make_recipe())
    assert placed.parameters == 8
    assert all(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(placed.state))
