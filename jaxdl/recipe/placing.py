"""The programs of a recipe: built, placed, and checked against every split before any compute.

Reads from: errors, protocols, data, step, evaluation, placement, recipe.parts.
Used by: recipe.running, recipe.predicting, recipe.crossing, cli.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdl import data
from jaxdl.errors import BatchError
from jaxdl.evaluation import check_exact
from jaxdl.placement import PlacedFunction, PlacedStep, jit
from jaxdl.protocols import MASK, TrainStep
from jaxdl.recipe.parts import Recipe, local
from jaxdl.step import make_eval_step, make_train_step

__all__ = ["Placed", "place", "train_step"]


class Placed(NamedTuple):
    """The programs of a recipe, not compiled yet.

    Attributes:
        train: the placed train step.
        evaluation: the placed eval step.
        state: the train state's shapes, dtypes and shardings.
        parameters: how many there are.
    """

    train: PlacedStep
    evaluation: PlacedFunction
    state: Any
    parameters: int


def train_step(recipe: Recipe) -> TrainStep:
    """The pure step of a recipe.

    Args:
        recipe: the recipe.
    """
    return make_train_step(
        recipe.objective,
        recipe.optimizer,
        gradient=recipe.gradient,
        ema_decay=recipe.ema_decay,
        nonfinite="skip" if recipe.nonfinite == "skip" else "propagate",
        freeze=recipe.freeze,
    )


def place(recipe: Recipe, *, devices: Sequence[Any] | None = None) -> Placed:
    """Builds the programs and checks them against every split; computes nothing.

    Args:
        recipe: the recipe.
        devices: the devices to use; all when ``None``.

    Raises:
        ConfigError: batches of a split leave examples out.
        BatchError: a split lacks a field, or its batches differ from another split's.
        LayoutError: the layout does not fit the devices, or the batch the layout.
        ObjectiveError: the objective, optimizer or a metric breaks its contract.
        DataError: a label of a columnar source names no output of the model.
    """
    step = train_step(recipe)
    evaluation = make_eval_step(
        recipe.objective, recipe.metrics, use_ema=recipe.ema_decay is not None
    )
    placed = jit(step, layout=recipe.layout, devices=devices)
    batch = local(recipe.train)[0]
    state = placed.abstract_state(batch)
    jax.eval_shape(step.update, state, _shapes(batch, None))
    for batches in recipe.evaluated().values():
        check_exact(batches)
    specs = {
        name: _shapes(batches.spec, recipe.rows()) for name, batches in recipe.evaluated().items()
    }
    _check_equal(specs)
    jax.eval_shape(evaluation, state, next(iter(specs.values())))
    _check_labels(recipe, state, next(iter(specs.values())))
    placed_eval = jit(evaluation, layout=recipe.layout, devices=devices)
    parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state.params))
    return Placed(placed, placed_eval, state, parameters)


def _shapes(batch: Mapping[str, Any], rows: int | None) -> dict[str, jax.ShapeDtypeStruct]:
    """A batch's shapes; with ``rows`` given, those after padding."""
    shapes = {
        name: jax.ShapeDtypeStruct((rows or leaf.shape[0], *leaf.shape[1:]), leaf.dtype)
        for name, leaf in batch.items()
    }
    if rows is not None and MASK not in shapes:
        shapes[MASK] = jax.ShapeDtypeStruct((rows,), np.float32)
    return shapes


def _check_equal(specs: Mapping[str, Mapping[str, jax.ShapeDtypeStruct]]) -> None:
    """One program evaluates all splits, so their batches must agree."""
    (first, wanted), *others = specs.items()
    for name, spec in others:
        if spec != wanted:
            wrong = sorted(k for k in {*spec, *wanted} if spec.get(k) != wanted.get(k))
            raise BatchError(
                f"the {name} batches differ from the {first} batches in {', '.join(wrong)}: "
                f"{[_words(spec.get(k)) for k in wrong]}, {[_words(wanted.get(k)) for k in wrong]}",
                expected="the same fields, shapes and dtypes in every split",
                do="read the splits the same way; give train_eval where train is transformed",
            )


def _check_labels(recipe: Recipe, state: Any, batch: Mapping[str, Any]) -> None:
    """Where outputs are scores of classes and ``label`` a class, every label names a score.

    Data with a mask of its own may hold anything behind it, and records that are decoded one by
    one would take too long: both are left to the loss, which is NaN at such a label.
    """
    key = jax.eval_shape(jax.random.key, 0)
    loss = functools.partial(recipe.objective.loss, train=False)
    aux = jax.eval_shape(loss, state.params, state.model_state, dict(batch), key)[1]
    scores, label = aux.outputs, batch.get("label")
    if label is None or label.dtype.kind not in "iu" or not hasattr(scores, "shape"):
        return
    if scores.shape[:-1] != label.shape:
        return
    for batches in recipe.evaluated().values():
        if hasattr(batches.source, "columns") and MASK not in batches.source.spec:
            data.check_labels(batches.source, scores.shape[-1])


def _words(leaf: jax.ShapeDtypeStruct | None) -> str:
    return "missing" if leaf is None else f"{leaf.dtype}{list(leaf.shape)}"
