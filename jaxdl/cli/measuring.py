"""``jaxdl evaluate RUN``: a run's recipe rebuilt from its folder, restored and measured.

Reads from: errors, checkpoints, recipe, hooks, cli.runs, cli.tables, cli.training.
Used by: cli.verbs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from jaxdl import checkpoints
from jaxdl.cli import runs
from jaxdl.cli.tables import score_table
from jaxdl.cli.training import choose_devices, read_config
from jaxdl.errors import CheckpointError
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
    example, arguments, recorded = runs.reopen(options.run)
    config, _ = read_config(example, arguments, "jaxdl train")
    now = runs.plain(config)
    if now != recorded:
        changed = sorted(k for k in {*now, *recorded} if now.get(k) != recorded.get(k))
        raise CheckpointError(
            f"the settings {', '.join(changed)} of {options.run} are not those of the run",
            expected="the versions and the recipe.py that it was trained with",
            do=f"see config.json in it: {[recorded.get(k) for k in changed]} became "
            f"{[now.get(k) for k in changed]}",
        )
    recipe = example.build(config)
    placed = place(recipe, devices=choose_devices(options.devices))
    state = checkpoints.restore(options.run / "checkpoint", placed.state)
    splits = () if options.split == "all" else (options.split,)
    scores = score(recipe, placed, state, splits)
    if options.as_json:
        print(json.dumps(jsonable(scores), indent=2, allow_nan=False))
    else:
        score_table(scores)
    return 0
