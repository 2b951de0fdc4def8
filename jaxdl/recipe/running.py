"""A recipe put together and run: its programs placed, trained, saved, measured.

Reads from: errors, protocols, data, metrics, step, checkpoints, placement, evaluation, hooks, loop,
recipe.parts. Used by: cli, and by hand.
"""

from __future__ import annotations

import functools
import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdl import checkpoints, data, metrics
from jaxdl.errors import BatchError, CheckpointError, ConfigError
from jaxdl.evaluation import check_exact, evaluate
from jaxdl.hooks import Evaluate, JsonLines, Progress, TensorBoard
from jaxdl.hooks.logs import jsonable
from jaxdl.loop import FitResult, fit
from jaxdl.placement import PlacedFunction, PlacedStep, jit
from jaxdl.protocols import MASK, Batch, Hook
from jaxdl.recipe.parts import Recipe, local
from jaxdl.step import make_eval_step, make_train_step

__all__ = ["Outcome", "Placed", "Scores", "place", "score", "train"]

Scores = dict[str, dict[str, Any]]
"""Metrics by name, by split."""


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


class Outcome(NamedTuple):
    """What a run leaves.

    Attributes:
        result: of ``fit``.
        scores: metrics by split, on every example of it.
        seconds: from the first program to the last score.
    """

    result: FitResult
    scores: Scores
    seconds: float


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
    step = make_train_step(
        recipe.objective,
        recipe.optimizer,
        gradient=recipe.gradient,
        ema_decay=recipe.ema_decay,
        nonfinite=recipe.nonfinite,
        freeze=recipe.freeze,
    )
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


def train(
    recipe: Recipe,
    folder: Path | None = None,
    *,
    placed: Placed | None = None,
    one_batch: bool = False,
    progress: bool = True,
) -> Outcome:
    """Trains, saves, then measures every split.

    Args:
        recipe: the recipe.
        folder: receives ``metrics.jsonl``, ``tensorboard/``, ``checkpoint/`` and
            ``summary.json``; nothing is written when ``None``.
        placed: from ``place``, to run on devices of one's choice.
        one_batch: give every step the first batch, and measure that one only: a model and a loss
            that are right drive it to nothing.
        progress: show it on the standard error stream.

    Raises:
        CheckpointError: the folder holds a run already, or cannot be written.
        JaxdlError: as ``place`` and ``fit``.
    """
    _check_folder(folder)
    placed = place(recipe) if placed is None else placed
    begin = time.perf_counter()
    batches = local(recipe.train)
    source = _OneBatch(batches) if one_batch else batches
    hooks = [*_writers(folder), *([Progress()] if progress else []), *recipe.hooks]
    if not one_batch:
        hooks += _validation(recipe, placed)
    result = fit(
        placed.train,
        source,
        steps=recipe.steps,
        seed=recipe.seed,
        log_every=recipe.log_every,
        hooks=hooks,
    )
    # What was trained is on disk before anything else can go wrong.
    if folder is not None:
        checkpoints.save(folder / "checkpoint", result.state)
    if one_batch:
        batch = data.pad_batch(batches[0], recipe.rows())
        sums = placed.evaluation(result.state, batch)
        scores = {"one batch": metrics.report(metrics.total([sums]))}
    else:
        scores = score(recipe, placed, result.state)
    outcome = Outcome(result, scores, time.perf_counter() - begin)
    if folder is not None:
        _write_summary(folder, recipe, placed, outcome)
    return outcome


def score(recipe: Recipe, placed: Placed, state: Any, splits: Sequence[str] = ()) -> Scores:
    """Measures splits exactly.

    Args:
        recipe: the recipe.
        placed: from ``place``.
        state: is kept.
        splits: which; all when empty.

    Returns:
        Metrics by split.

    Raises:
        ConfigError: the recipe has no such split.
    """
    there = recipe.evaluated()
    for name in splits:
        if name not in there:
            raise ConfigError(
                f"recipe {recipe.name!r} has no split {name!r}",
                expected=f"one of {', '.join(there)}",
                do="choose one of them",
            )
    return {
        name: evaluate(placed.evaluation, state, there[name], rows=recipe.rows())
        for name in (splits or there)
    }


class _OneBatch:
    """The first batch, whatever number is asked for."""

    def __init__(self, batches: data.Batches) -> None:
        self.batch_size = batches.batch_size
        self._batch = batches[0]

    def __getitem__(self, k: int) -> Batch:
        return self._batch


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


def _writers(folder: Path | None) -> list[Hook]:
    if folder is None:
        return []
    return [JsonLines(folder / "metrics.jsonl"), TensorBoard(folder / "tensorboard")]


def _validation(recipe: Recipe, placed: Placed) -> list[Hook]:
    if recipe.validation is None:
        return []
    every = recipe.eval_every or recipe.train.batches_per_epoch
    batches = local(recipe.validation)
    hooks: list[Hook] = [Evaluate(every, placed.evaluation, batches, rows=recipe.rows())]
    return hooks + ([] if recipe.early_stop is None else [recipe.early_stop])


def _check_folder(folder: Path | None) -> None:
    if folder is None or jax.process_index() != 0:
        return
    there = [name for name in ("metrics.jsonl", "checkpoint") if (folder / name).exists()]
    if there:
        raise CheckpointError(
            f"{folder} holds a run already: {', '.join(there)}",
            expected="a new folder",
            do="give another one, or remove it",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(
            f"the run folder {folder} cannot be made: {error}",
            expected="a folder that may be written",
            do="give another one",
        ) from error


def _write_summary(folder: Path, recipe: Recipe, placed: Placed, outcome: Outcome) -> None:
    summary = {
        "name": recipe.name,
        "seed": recipe.seed,
        "steps": outcome.result.step,
        "stopped": outcome.result.stopped,
        "seconds": outcome.seconds,
        "parameters": placed.parameters,
        "devices": [str(device) for device in placed.train.mesh.devices.flat],
        "scores": outcome.scores,
    }
    if jax.process_index() == 0:
        new = folder / "summary.json.new"
        new.write_text(json.dumps(jsonable(summary), indent=2, allow_nan=False) + "\n")
        new.replace(folder / "summary.json")
