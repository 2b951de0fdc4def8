"""``jaxdl explain RUN``: why a trained run gave its scores, for a few examples of a split.

Reads from: errors, protocols, data, explain, placement, recipe, cli.explained,
cli.explanations, cli.opening, cli.stores, cli.subjects, cli.training. Used by: cli.verbs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np
import numpy.typing as npt
import tyro

from jaxdl import data, explain
from jaxdl.cli.explained import Arrays, described, show, written
from jaxdl.cli.explanations import explainer, featurer, row_losses
from jaxdl.cli.opening import rebuilt
from jaxdl.cli.stores import Key, Trusted
from jaxdl.cli.subjects import Method, Settings, Subject, subject_of
from jaxdl.cli.training import choose_devices
from jaxdl.errors import ConfigError, HostError
from jaxdl.explain.showing import read_words
from jaxdl.placement import PlacedFunction, jit
from jaxdl.protocols import MASK
from jaxdl.recipe import Placed, Recipe

__all__ = ["ExplainOptions", "run"]

_N = tyro.conf.arg(metavar="N")


@dataclass(frozen=True)
class ExplainOptions:
    """Explains the scores of a trained run for a few examples of a split.

    Writes arrays (.npz) and, for images, a picture (.png), for tokens, a page (.html).
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """The run's folder."""
    split: Literal["train", "validation", "test"] = "test"
    """Of which split."""
    count: Annotated[int, _N] = 16
    """How many examples."""
    which: Literal["worst", "first", "random"] = "worst"
    """Which ones: those with the highest loss, the first, or some drawn with --seed."""
    method: Method = "integrated-gradients"
    """How."""
    target: Annotated[str, tyro.conf.arg(metavar="CLASS")] = "predicted"
    """Which score: that of the predicted class, of the label, or of a class by its number."""
    layer: Annotated[str | None, tyro.conf.arg(metavar="PATH")] = None
    """Which layer grad-cam, nearest-examples or the embedding of tokens is; found if not given."""
    field: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Which field of the batch to explain by; image or tokens when not given."""
    steps: Annotated[int, _N] = 50
    """Steps of integrated gradients, up to 16 times as many where the error is above 1 %; samples
    of smoothgrad."""
    noise: float = 0.15
    """Of smoothgrad, as a share of the range of an example's values."""
    window: Annotated[int, _N] = 3
    """The side of what occlusion covers."""
    stride: Annotated[int, _N] = 1
    """From one window to the next."""
    neighbours: Annotated[int, _N] = 5
    """How many nearest training examples."""
    vocabulary: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """A vocab.txt or tokenizer.json with the words of tokens."""
    to: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Where to write; explanations in the run's folder when not given."""
    step: Annotated[int | None, _N] = None
    """The checkpoint of which step; the newest when not given."""
    seed: Annotated[int, _N] = 0
    """Of --which random, and of smoothgrad."""
    devices: Annotated[int | None, _N] = None
    """How many devices to use; all when not given."""
    key: Key = None
    """Of sealed checkpoints, where a key lies: file:PATH, env:NAME or command:WORDS."""
    trust: Trusted = ()
    """Of sealed checkpoints, the public key of their signer; as often as needed."""


def run(argv: Sequence[str]) -> int:
    """The verb.

    Args:
        argv: the words after ``explain``.
    """
    options = tyro.cli(ExplainOptions, prog="jaxdl explain", args=list(argv))
    _check(options)
    run = rebuilt(options.run, options.devices)
    recipe, placed = run.recipe, run.placed
    batches = recipe.split(options.split)
    shapes = {
        name: jax.ShapeDtypeStruct(value.shape, value.dtype)
        for name, value in data.pad_batch(batches[0], recipe.rows()).items()
    }
    subject = subject_of(recipe, placed.state, shapes, options.field)
    words = _words(options, run.example, run.config) if subject.tokens else None
    settings = _settings(options)
    nearest = settings.method == "nearest-examples"
    made = (featurer if nearest else explainer)(recipe, subject, settings)
    state = run.restore(options.step, key=options.key, trust=options.trust).state
    rows = _chosen(options, recipe, batches, subject, (placed, state))
    batch = _gathered(batches, rows)
    program = jit(made, layout=recipe.layout, devices=choose_devices(options.devices))
    size = recipe.rows() if nearest else min(recipe.rows(), len(rows))
    found = _explained(program, state, batch, subject, size)
    if nearest:
        found |= _neighbours(program, state, recipe, found.pop("features"), options.neighbours)
    arrays = {"index": rows, **described(batch, found, subject)}
    if "neighbours" in arrays:
        arrays |= _near_rows(recipe, arrays["neighbours"], subject)
    folder = options.to or options.run / "explanations"
    file = folder / f"{options.split}-{options.method}.npz"
    title = f"{options.run.name}: {options.method} of {options.split}"
    show(arrays, written(file, arrays, subject, title, words=words))
    return 0


def _check(options: ExplainOptions) -> None:
    if options.count < 1 or options.neighbours < 1:
        raise ConfigError(
            f"count is {options.count}, neighbours is {options.neighbours}",
            expected="at least 1",
            do="change --count or --neighbours",
        )
    if jax.process_count() > 1:
        raise HostError(
            f"there are {jax.process_count()} hosts",
            expected="one: a few examples need no more",
            do="run jaxdl explain on one host, with the run's folder",
        )


def _settings(options: ExplainOptions) -> Settings:
    names = ("method", "target", "layer", "steps", "noise", "window", "stride", "seed")
    return Settings(**{name: getattr(options, name) for name in names})


def _words(options: ExplainOptions, example: Any, config: Any) -> Sequence[str] | None:
    """The words of tokens: of a file, or of the recipe's own function ``token_names(config)``."""
    if options.vocabulary is not None:
        return read_words(options.vocabulary)
    named: Any = getattr(sys.modules.get(example.config.__module__), "token_names", None)
    return None if named is None else named(config)


def _chosen(
    options: ExplainOptions,
    recipe: Recipe,
    batches: data.Batches,
    subject: Subject,
    trained: tuple[Placed, Any],
) -> npt.NDArray[np.int64]:
    """Rows of the split's source."""
    count = min(options.count, batches.num_examples)
    if options.which == "first":
        return np.arange(count)
    if options.which == "random":
        drawn = np.random.default_rng(options.seed).permutation(batches.num_examples)
        return np.sort(drawn[:count])
    placed, state = trained
    label, shape = batches.spec.get("label"), subject.scores.shape
    classes = label is not None and label.dtype.kind in "iu" and label.ndim == 1
    if not classes or len(shape) != 2 or shape[1] < 2:
        raise ConfigError(
            "the worst examples are asked for, and there is no label that scores compare with",
            expected="classes [B] in the field 'label', and scores [B, K]",
            do="use --which first or --which random",
        )
    devices = list(placed.train.mesh.devices.flat)
    measured = jit(row_losses(recipe, subject), layout=recipe.layout, devices=devices)
    losses = np.zeros(batches.num_examples)
    for k in range(batches.batches_per_epoch):
        found = measured(state, data.pad_batch(batches[k], recipe.rows()))
        losses[batches.rows(k)] = np.asarray(found)[: len(batches.rows(k))]
    # The highest first; what is not finite before all others.
    return np.argsort(-np.nan_to_num(losses, nan=np.inf), kind="stable")[:count]


def _explained(
    program: PlacedFunction, state: Any, batch: Mapping[str, Any], subject: Subject, size: int
) -> Arrays:
    """What the program finds of every row, a few at a time, with the rows themselves."""
    rows = len(batch[subject.field])
    parts: list[Arrays] = []
    for start in range(0, rows, size):
        part = {name: value[start : start + size] for name, value in batch.items()}
        found = program(state, data.pad_batch(part, size))
        real = len(part[subject.field])
        parts.append({name: np.asarray(value)[:real] for name, value in found.items()})
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    _check_scaled(arrays.pop("given"), arrays["scores"], subject)
    return arrays


def _check_scaled(given: Any, scores: Any, subject: Subject) -> None:
    """Scores of integer images are those of the floats that they were explained by."""
    if not np.allclose(given, scores, rtol=1e-3, atol=1e-3, equal_nan=True):
        raise ConfigError(
            f"the model reads integers in {subject.field!r} in another way than scaled to 0 .. 1: "
            f"its scores differ by {np.max(np.abs(given - scores)):.3g}",
            expected="floats, or a model that scales integers as models.to_float does",
            do="turn them to floats in the data (Batches(transform=...)), or explain it by hand",
        )


def _neighbours(
    program: PlacedFunction, state: Any, recipe: Recipe, features: Any, count: int
) -> Arrays:
    """The nearest rows of the training split."""
    train, size = recipe.evaluated()["train"], recipe.rows()

    def chunks() -> Iterator[tuple[Any, Any]]:
        for k in range(train.batches_per_epoch):
            found = program(state, data.pad_batch(train[k], size))["features"]
            yield train.rows(k), np.asarray(found)[: len(train.rows(k))]

    near = explain.nearest_examples(features, chunks(), count=count)
    return {"neighbours": near.indices, "distances": near.distances}


def _near_rows(recipe: Recipe, near: npt.NDArray[np.int64], subject: Subject) -> Arrays:
    batch = _gathered(recipe.evaluated()["train"], np.unique(near))
    places = np.searchsorted(np.unique(near), near)
    names = {subject.field: "neighbour_inputs", "label": "neighbour_labels"}
    names |= {MASK: "neighbour_mask"} if subject.tokens else {}
    return {name: batch[field][places] for field, name in names.items() if field in batch}


def _gathered(batches: data.Batches, wanted: npt.NDArray[np.int64]) -> Arrays:
    """Rows of a split as its batches hold them."""
    kept: dict[int, Arrays] = {}
    for k in range(batches.batches_per_epoch):
        rows = batches.rows(k)
        there = np.flatnonzero(np.isin(rows, wanted))
        if len(there):
            batch = batches[k]
            for place in there.tolist():
                kept[int(rows[place])] = {name: value[place] for name, value in batch.items()}
    return {
        name: np.stack([kept[row][name] for row in wanted.tolist()])
        for name in next(iter(kept.values()))
    }
