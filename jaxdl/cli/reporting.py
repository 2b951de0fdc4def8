"""``jaxdl report RUN``: the page of a run; ``jaxdl report RUN_A RUN_B``: of two, compared.

Reads from: errors, checkpoints, recipe, reporting, cli.training. Used by: cli.verbs.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np
import tyro

import jaxdl
from jaxdl import checkpoints, reporting
from jaxdl.cli.training import choose_devices, reopened, with_options
from jaxdl.errors import ConfigError, DataError, JaxdlError, ObjectiveError
from jaxdl.recipe import Placed, Recipe, place, predict_split

__all__ = ["ReportOptions", "run"]

_LARGEST = 1 << 30
"""Bytes of outputs that are held in memory; beyond that the rows have a loss alone."""


@dataclass(frozen=True)
class ReportOptions:
    """Writes the page of a run, one HTML file; of two runs, a page that compares them."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run's folder, or two of them."""
    split: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Which split the predictions are of; test, validation or train, the first that there is."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """The page; RUN/report.html when not given, for two runs comparison.html in the second."""
    mistakes: Annotated[int, tyro.conf.arg(metavar="N")] = 12
    """How many of the worst mistakes to show."""
    predictions: bool = True
    """Run the model over the split; without, the page has what the folder holds."""
    devices: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """How many devices to use; all when not given."""


class _Loaded(NamedTuple):
    """A run in memory."""

    recipe: Recipe
    placed: Placed
    state: Any


def run(argv: Sequence[str]) -> int:
    """The verb.

    Args:
        argv: the words after ``report``.

    Raises:
        ConfigError: neither one run nor two.
        CheckpointError: a folder holds no run.
        DataError: the page cannot be written.
    """
    options = tyro.cli(ReportOptions, prog="jaxdl report", args=list(argv))
    if len(options.runs) not in (1, 2) or options.mistakes < 0:
        raise ConfigError(
            f"{len(options.runs)} runs and --mistakes {options.mistakes}",
            expected="the folder of one run, or of two; and at least 0 mistakes",
            do="jaxdl report RUN, or jaxdl report RUN_A RUN_B",
        )
    found = [reporting.read_run(folder) for folder in options.runs]
    version = jaxdl.__version__
    if len(found) == 1:
        rows, explain = _predicted(options, options.runs[0], options.split)
        page = reporting.run_page(
            found[0], rows, mistakes=options.mistakes, explain=explain, version=version
        )
        out = options.out or options.runs[0] / "report.html"
    else:
        first, _ = _predicted(options, options.runs[0], options.split)
        split = options.split if isinstance(first, str) else first.split
        second, _ = _predicted(options, options.runs[1], split)
        page = reporting.comparison_page(found[0], found[1], first, second, version=version)
        out = options.out or options.runs[1] / "comparison.html"
    _write(out, page)
    print(f"{out}: {len(page.encode()) / 1024:,.0f} KiB")
    return 0


def _predicted(
    options: ReportOptions, folder: Path, split: str | None
) -> tuple[reporting.Rows | str, Callable[..., Any] | None]:
    """The rows of a split and how to explain some, or why there are none.

    A run whose page is wanted may be one that went wrong, so nothing here ends the report.
    """
    if not options.predictions:
        return "Not looked at: the report was made with --no-predictions.", None
    try:
        loaded = _load(folder, options.devices)
        chosen = _split(loaded.recipe, split)
        return _rows(loaded, chosen), None
    except JaxdlError as error:
        print(f"warning: no predictions of {folder}: {error.what}", file=sys.stderr)
        return f"The model could not be run over the split: {error.what}.", None


def _load(folder: Path, devices: int | None) -> _Loaded:
    example, config, run_options = reopened(folder)
    recipe = with_options(example.build(config), run_options)
    placed = place(recipe, devices=choose_devices(devices))
    restored = checkpoints.Checkpoints(folder / "checkpoints").restore(placed.state)
    return _Loaded(recipe, placed, restored.state)


def _split(recipe: Recipe, asked: str | None) -> str:
    there = recipe.evaluated()
    if asked is None:
        return next(name for name in ("test", "validation", "train") if name in there)
    if asked not in there:
        raise ConfigError(
            f"recipe {recipe.name!r} has no split {asked!r}",
            expected=f"one of {', '.join(there)}",
            do="choose one of them",
        )
    return asked


def _rows(loaded: _Loaded, split: str) -> reporting.Rows:
    """Outputs where they are not too large, and losses where rows have them."""
    recipe, placed = loaded.recipe, loaded.placed
    batches = recipe.evaluated()[split]
    with_loss = not recipe.objective.mixes_rows
    with_outputs = _bytes_of_outputs(loaded, batches) <= _LARGEST
    attempts = [(with_loss, with_outputs), (with_loss, False), (False, with_outputs)]
    for n, (loss, outputs) in enumerate(attempts):
        if not loss and not outputs:
            continue
        try:
            found = predict_split(
                recipe, placed, loaded.state, split, with_loss=loss, with_outputs=outputs
            )
        except ObjectiveError:
            if n == len(attempts) - 1:
                raise
            continue
        names = getattr(batches.source, "class_names", {}).get("label", ())
        return reporting.Rows(
            split,
            found.outputs,
            found.batch,
            found.loss,
            found.weight,
            tuple(map(str, names)),
        )
    raise ObjectiveError(
        "the rows have neither outputs nor losses of their own",
        expected="either",
        do="see the scores of the whole split",
    )


def _bytes_of_outputs(loaded: _Loaded, batches: Any) -> float:
    """What the outputs of all rows of a split would take."""
    key = jax.eval_shape(jax.random.key, 0)

    def outputs(params: Any, model_state: Any, batch: Any, key: Any) -> Any:
        return loaded.recipe.objective.loss(params, model_state, batch, key, train=False)[1].outputs

    state = loaded.state
    found = jax.eval_shape(outputs, state.params, state.model_state, dict(batches.spec), key)
    rows = next(iter(batches.spec.values())).shape[0]
    total = sum(
        math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(found)
    )
    return total / max(rows, 1) * batches.num_examples


def _write(path: Path, page: str) -> None:
    new = path.with_name(path.name + ".new")
    try:
        with new.open("w", encoding="utf-8", newline="\n") as file:
            file.write(page)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError as error:
        raise DataError(
            f"{path} cannot be written: {error.strerror}",
            expected="a file in a folder that may be written",
            do="give another path with --out",
        ) from error
