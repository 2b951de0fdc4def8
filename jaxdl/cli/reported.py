"""What the page of a run needs of its model: the rows of a split, held as far as they fit.

Reads from: errors, recipe, reporting, cli.opening.
Used by: cli.reporting, .report_reasons.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import numpy.typing as npt

from jaxdl import reporting
from jaxdl.cli.opening import rebuilt
from jaxdl.errors import ObjectiveError
from jaxdl.recipe import Placed, Predictions, Recipe, predict_split
from jaxdl.reporting import FewRows

__all__ = ["Reopened", "reopen", "rows_of", "split_of"]

_LARGEST_OUTPUTS = 1 << 28
"""Bytes of outputs that are held; where they take more the rows have a loss alone."""
_LARGEST_FIELDS = 1 << 29
"""Bytes of fields that are held of all rows; the larger ones are read again for those shown."""


class Reopened(NamedTuple):
    """A run in memory.

    Attributes:
        folder: of the run.
        recipe: rebuilt from it.
        placed: its programs.
        state: of the newest checkpoint.
        words: of tokens, by number; empty where the file does not say them.
        waves: from tokens to the recording that they stand for, where the file says so.
        rate: values a second of recordings.
    """

    folder: Path
    recipe: Recipe
    placed: Placed
    state: Any
    words: tuple[str, ...]
    waves: Callable[[Any], Any] | None
    rate: int


def reopen(
    folder: Path,
    devices: int | None = None,
    *,
    key: str | None = None,
    trust: Sequence[Path] = (),
) -> Reopened:
    """Rebuilds a run's recipe and restores its newest checkpoint.

    The words of tokens are those of the function ``token_names(config)`` of the run's file, and
    ``token_waves(config)`` gives a function from them to a recording.

    Args:
        folder: of the run.
        devices: how many to use; all when ``None``.
        key: where a key lies that opens sealed checkpoints; the run's own when ``None``.
        trust: files of the public keys whose signatures on them count.

    Raises:
        JaxdlError: the folder, the data or the checkpoint is not as it was.
    """
    run = rebuilt(folder, devices)
    config, state = run.config, run.restore(key=key, trust=trust).state
    module = sys.modules.get(run.example.config.__module__)
    named: Any = getattr(module, "token_names", None)
    words = (named(config) if named is not None else None) or ()
    heard: Any = getattr(module, "token_waves", None)
    waves = None if heard is None else heard(config)
    rate = getattr(config, "sample_rate", None) or getattr(module, "RATE", 16_000)
    words = tuple(map(str, words))
    return Reopened(folder, run.recipe, run.placed, state, words, waves, int(rate))


def split_of(recipe: Recipe, asked: str | None) -> str:
    """The split that the page is of: the one asked for, else test, validation or train.

    Args:
        recipe: of the run.
        asked: its name.

    Raises:
        ConfigError: there is no such split.
    """
    if asked is None:
        there = recipe.evaluated()
        return next(name for name in ("test", "validation", "train") if name in there)
    recipe.split(asked)
    return asked


def rows_of(run: Reopened, split: str) -> reporting.Rows:
    """Outputs, where they are not too large, and losses, where rows have their own.

    Args:
        run: in memory.
        split: of its recipe.

    Raises:
        ObjectiveError: the rows have neither.
    """
    batches = run.recipe.evaluated()[split]
    kept = _small_fields(batches)
    left = [name for name in batches.spec if name not in kept]
    found = _predicted(run, split, batches, kept)
    names = getattr(batches.source, "class_names", {}).get("label", ())
    return reporting.Rows(
        split,
        found.outputs,
        found.batch,
        found.loss,
        found.weight,
        class_names=tuple(map(str, names)),
        words=run.words,
        waves=run.waves,
        rate=run.rate,
        fetch=functools.partial(_fetched, batches, left) if left else None,
    )


def _predicted(run: Reopened, split: str, batches: Any, fields: list[str]) -> Predictions:
    """As much as can be had: both outputs and losses, or either."""
    with_loss = not run.recipe.objective.mixes_rows
    with_outputs = bool({"label", "target"} & set(batches.spec))
    with_outputs = with_outputs and _bytes_of_outputs(run, batches) <= _LARGEST_OUTPUTS
    given: list[Any] = [run.recipe, run.placed, run.state, split]
    reasons: list[str] = []
    for loss, outputs in dict.fromkeys(
        [(with_loss, with_outputs), (with_loss, False), (False, with_outputs)]
    ):
        if loss or outputs:
            try:
                return predict_split(*given, fields=fields, with_loss=loss, with_outputs=outputs)
            except ObjectiveError as error:
                reasons.append(error.what)
    mixed = "the loss of a row is made of other rows of its batch, so that it has none of its own"
    raise ObjectiveError(
        "; ".join(reasons) or mixed,
        expected="rows with outputs or losses",
        do="see the scores of the whole split",
    )


def _small_fields(batches: Any) -> list[str]:
    """The fields that can be held of all rows, the smallest first."""
    sizes = {
        name: math.prod(leaf.shape[1:]) * np.dtype(leaf.dtype).itemsize * batches.num_examples
        for name, leaf in batches.spec.items()
    }
    kept: list[str] = []
    for name in sorted(sizes, key=sizes.__getitem__):
        if sum(sizes[each] for each in [*kept, name]) <= _LARGEST_FIELDS:
            kept.append(name)
    return kept


def _fetched(batches: Any, names: Sequence[str], wanted: Sequence[int]) -> dict[str, FewRows]:
    """Fields of a few rows, read again."""
    found: dict[str, dict[int, npt.NDArray[Any]]] = {name: {} for name in names}
    for k in range(batches.batches_per_epoch):
        rows = batches.rows(k)
        places = np.flatnonzero(np.isin(rows, np.asarray(wanted)))
        if not places.size:
            continue
        batch = batches[k]
        for name in names:
            found[name] |= {int(rows[place]): batch[name][place] for place in places}
    return {
        name: FewRows(
            found[name],
            (batches.num_examples, *batches.spec[name].shape[1:]),
            np.dtype(batches.spec[name].dtype),
        )
        for name in names
    }


def _bytes_of_outputs(run: Reopened, batches: Any) -> float:
    """What the outputs of all rows of a split would take."""
    key = jax.eval_shape(jax.random.key, 0)

    def outputs(params: Any, model_state: Any, batch: Any, key: Any) -> Any:
        return run.recipe.objective.loss(params, model_state, batch, key, train=False)[1].outputs

    state: Any = run.state
    found = jax.eval_shape(outputs, state.params, state.model_state, dict(batches.spec), key)
    sizes = [math.prod(x.shape) * np.dtype(x.dtype).itemsize for x in jax.tree.leaves(found)]
    rows = next(iter(batches.spec.values())).shape[0]
    return sum(sizes) / max(rows, 1) * batches.num_examples
