"""Cross-validation of a recipe: every row predicted by a model that has not seen it.

Reads from: errors, evaluation, recipe.parts, recipe.placing, recipe.predicting, recipe.running.
Used by: by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdl.errors import ConfigError
from jaxdl.evaluation import Fold
from jaxdl.recipe.parts import Recipe
from jaxdl.recipe.placing import place
from jaxdl.recipe.predicting import Predictions, predict_split
from jaxdl.recipe.running import train

__all__ = ["CrossValidated", "cross_validate"]


class CrossValidated(NamedTuple):
    """What the models of all folds say together.

    Attributes:
        rows: of the whole data set in its order, each by the model of the fold that held it out.
        scores: the metrics of each fold on what it held out.
    """

    rows: Predictions
    scores: list[dict[str, Any]]


def cross_validate(
    build: Callable[[Fold], Recipe],
    folds: Sequence[Fold],
    *,
    devices: Sequence[Any] | None = None,
    with_loss: bool = True,
    progress: bool = False,
) -> CrossValidated:
    """Trains one recipe a fold and predicts what the fold held out.

    Figures of ``rows`` are of all the data, and an interval over them (``evaluation.bootstrap``)
    says how sure they are for these models. How much another seed or other training rows would
    change is seen in the spread of ``scores``, which are not independent: folds share rows.

    Args:
        build: from a fold to a recipe that trains on ``data.arrays(source.gather(fold.train))``,
            and whose ``test`` batches are of ``fold.held_out`` likewise. What it learns from the
            data besides, such as a mean to subtract, it must learn from ``fold.train`` alone.
        folds: from ``evaluation.stratified_folds``; each row is held out once.
        devices: the devices to use; all when ``None``.
        with_loss: measure each row's loss.
        progress: show it on the standard error stream.

    Returns:
        The rows and the scores.

    Raises:
        ConfigError: the folds do not hold each row out once, or a recipe tests other rows.
        JaxdlError: as ``train`` and ``predict_split``.
    """
    held = np.concatenate([fold.held_out for fold in folds]) if folds else np.zeros(0, np.int64)
    if not held.size or not np.array_equal(np.sort(held), np.arange(held.size)):
        raise ConfigError(
            f"{len(folds)} folds hold out {held.size} rows, {np.unique(held).size} different ones",
            expected="each row from 0 on, once",
            do="make them with evaluation.stratified_folds",
        )
    found: list[Predictions] = []
    scores: list[dict[str, Any]] = []
    for number, fold in enumerate(folds):
        recipe = build(fold)
        _check(recipe, fold, number)
        placed = place(recipe, devices=devices)
        outcome = train(recipe, placed=placed, progress=progress)
        scores.append(outcome.scores["test"])
        state = outcome.result.state
        found.append(predict_split(recipe, placed, state, "test", with_loss=with_loss))
    order = np.argsort(held)
    return CrossValidated(jax.tree.map(lambda *parts: np.concatenate(parts)[order], *found), scores)


def _check(recipe: Recipe, fold: Fold, number: int) -> None:
    test = recipe.evaluated().get("test")
    rows = 0 if test is None else test.num_examples
    if rows != len(fold.held_out):
        raise ConfigError(
            f"the recipe of fold {number} tests {rows} rows, the fold holds out "
            f"{len(fold.held_out)}",
            expected="test=data.Batches(data.arrays(source.gather(fold.held_out)), ...)",
            do="build the recipe's splits from the fold",
        )
