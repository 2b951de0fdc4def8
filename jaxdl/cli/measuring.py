"""``jaxdl evaluate RUN``: a run's recipe rebuilt from its folder, restored and measured.

Reads from: checkpoints, recipe, hooks, cli.tables, cli.training.
Used by: cli.verbs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from jaxdl import checkpoints
from jaxdl.cli.tables import score_table
from jaxdl.cli.training import choose_devices, reopened, with_options
from jaxdl.hooks.logs import jsonable
from jaxdl.recipe import place, score

__all__ = ["EvaluateOptions", "run"]

_Json = Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(name="json")]


@dataclass(frozen=True)
class EvaluateOptions:
    """Measures a trained run again, from its folder."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """The run's folder."""
    split: Literal["train", "validation", "test", "all"] = "all"
    """Which split."""
    step: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """The checkpoint of which step; the newest when not given."""
    devices: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """How many devices to use; all when not given."""
    as_json: _Json = False
    """Print JSON, the matrices included, in place of the table."""


def run(argv: Sequence[str]) -> int:
    """The verb.

    Args:
        argv: the words after ``evaluate``.
    """
    options = tyro.cli(EvaluateOptions, prog="jaxdl evaluate", args=list(argv))
    example, config, run_options = reopened(options.run)
    recipe = with_options(example.build(config), run_options)
    placed = place(recipe, devices=choose_devices(options.devices))
    store = checkpoints.Checkpoints(options.run / "checkpoints")
    restored = store.restore(placed.state, step=options.step)
    if restored.step < recipe.steps:
        print(f"measured after step {restored.step} of {recipe.steps}", file=sys.stderr)
    splits = () if options.split == "all" else (options.split,)
    scores = score(recipe, placed, restored.state, splits)
    if options.as_json:
        print(json.dumps(jsonable(scores), indent=2, allow_nan=False))
    else:
        score_table(scores)
    return 0
