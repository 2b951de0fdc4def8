"""Cross-validation: every row once, by the model that has not seen it."""

from __future__ import annotations

import dataclasses

import numpy as np
import optax
import pytest

import jaxdl
from jaxdl import data, evaluation, losses, metrics, models
from jaxdl.errors import ConfigError
from jaxdl.evaluation import Fold
from jaxdl.recipe import Recipe, cross_validate

ROWS = 21


@pytest.fixture(scope="module")
def source():
    x = np.random.default_rng(0).normal(size=(ROWS, 3)).astype(np.float32)
    return data.arrays({"x": x, "label": (x[:, 0] > 0).astype(np.int32)})


def recipe_of(source, fold: Fold) -> Recipe:
    return Recipe(
        name="fold",
        objective=jaxdl.supervised(models.MLP((2,)), losses.softmax_cross_entropy, inputs="x"),
        optimizer=optax.sgd(0.5),
        train=data.Batches(data.arrays(source.gather(fold.train)), 7),
        test=data.Batches(data.arrays(source.gather(fold.held_out)), 7),
        steps=6,
        metrics={"accuracy": metrics.accuracy()},
        layout=jaxdl.single(),
    )


def test_every_row_is_told_once_in_its_place(source):
    labels = source.columns["label"]
    folds = evaluation.stratified_folds(labels, 3, seed=0)
    seen = []

    def build(fold):
        seen.append(fold)
        return recipe_of(source, fold)

    found = cross_validate(build, folds)
    assert [fold is other for fold, other in zip(folds, seen, strict=True)] == [True] * 3
    np.testing.assert_array_equal(found.rows.batch["x"], source.columns["x"])
    right = found.rows.outputs.argmax(-1) == labels
    for fold, scores in zip(folds, found.scores, strict=True):
        assert right[fold.held_out].mean() == scores["accuracy"]
        loss = found.rows.loss[fold.held_out].mean()
        assert loss == pytest.approx(scores["loss"], rel=1e-6)
    assert right.mean() > 0.6


def test_folds_that_leave_rows_out_and_recipes_of_other_rows(source):
    folds = evaluation.stratified_folds(source.columns["label"], 3, seed=0)

    def build(fold):
        whole = recipe_of(source, fold)
        return dataclasses.replace(whole, test=data.Batches(source, 7))

    with pytest.raises(ConfigError, match="the recipe of fold 0 tests 21 rows"):
        cross_validate(build, folds)
    for wrong in ([], folds[:2], [*folds, folds[0]]):
        with pytest.raises(ConfigError, match=f"{len(wrong)} folds hold out"):
            cross_validate(build, wrong)
