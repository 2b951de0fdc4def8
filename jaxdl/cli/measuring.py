"""``jaxdl evaluate RUN``: a run's recipe rebuilt from its folder, restored and measured.

Reads from: errors, protocols, recipe, hooks, cli.comparing_runs, cli.figures, cli.rows, cli.stores,
cli.tables.
Used by: cli.verbs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from jaxdl.cli import comparing_runs, figures
from jaxdl.cli.rows import LABEL, Restored, Rows, loaded, rows_of
from jaxdl.cli.stores import Key, Trusted
from jaxdl.cli.tables import score_table, table
from jaxdl.errors import ConfigError
from jaxdl.hooks.logs import jsonable
from jaxdl.protocols import MASK
from jaxdl.recipe import score

__all__ = ["EvaluateOptions", "run"]

_Json = Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(name="json")]


@dataclass(frozen=True)
class EvaluateOptions:
    """Measures a trained run again, from its folder; or compares runs on the same examples."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN ...")]
    """The run's folder. Of two or more, every two are compared."""
    split: Literal["train", "validation", "test", "all"] = "all"
    """Which split. Runs are compared on one: test, where there is one, when not given."""
    step: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """The checkpoint of which step; the newest when not given."""
    devices: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """How many devices to use; all when not given."""
    key: Key = None
    """Of sealed checkpoints, where a key lies: file:PATH, env:NAME or command:WORDS."""
    trust: Trusted = ()
    """Of sealed checkpoints, the public key of their signer; as often as needed."""
    details: tyro.conf.FlagCreatePairsOff[bool] = False
    """Of a classifier: precision, recall and F1 by class, and its calibration."""
    by: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="FIELD")] = ()
    """Accuracy and loss of each part that a field of the data makes. May be given again."""
    edges: Annotated[tuple[float, ...], tyro.conf.arg(metavar="NUMBER ...")] = ()
    """With one --by, of a quantity: where its parts begin, rising."""
    intervals: tyro.conf.FlagCreatePairsOff[bool] = False
    """Intervals of the loss, and of a classifier's accuracy and F1, by drawing rows again."""
    level: Annotated[float, tyro.conf.arg(metavar="SHARE")] = 0.95
    """How often such an interval should hold the true value."""
    resamples: Annotated[int, tyro.conf.arg(metavar="N")] = 2_000
    """How many times to draw."""
    seed: Annotated[int, tyro.conf.arg(metavar="N")] = 0
    """Of the draws."""
    save: Annotated[Path | None, tyro.conf.arg(metavar="FILE.npz")] = None
    """Write the outputs, losses and fields of one number of every row to a file."""
    as_json: _Json = False
    """Print JSON, the matrices included, in place of the table."""


def run(argv: Sequence[str]) -> int:
    """The verb.

    Args:
        argv: the words after ``evaluate``.
    """
    options = tyro.cli(EvaluateOptions, prog="jaxdl evaluate", args=list(argv))
    _check(options)
    folder, *others = options.runs
    if others:
        return _compare(options)
    restored = _loaded(folder, options)
    splits = () if options.split == "all" else (options.split,)
    scores = score(restored.recipe, restored.placed, restored.state, splits)
    more = _more(options, restored, list(scores))
    if options.as_json:
        both = {split: {**values, **more.get(split, {})} for split, values in scores.items()}
        print(json.dumps(jsonable(both), indent=2, allow_nan=False))
        return 0
    score_table(scores)
    for split, found in more.items():
        _show(split, found, options.level)
    return 0


def _loaded(folder: Path, options: EvaluateOptions) -> Restored:
    opening: dict[str, Any] = {"key": options.key, "trust": options.trust}
    return loaded(folder, step=options.step, devices=options.devices, **opening)


def _more(
    options: EvaluateOptions, restored: Restored, splits: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """What the options ask for beside the scores, by split."""
    if not (options.details or options.by or options.intervals or options.save):
        return {}
    predicted: dict[str, Rows] = {}
    found: dict[str, dict[str, Any]] = {}
    for split in splits:
        rows = rows_of(restored, split, fields=options.by, everything=options.save is not None)
        predicted[split] = rows
        found[split] = here = {}
        if options.details:
            here["details"] = figures.details(restored, split, rows)
        if options.by:
            here["slices"] = {
                field: figures.slices(restored, split, rows, field, options.edges)
                for field in options.by
            }
        if options.intervals:
            drawn: dict[str, Any] = {"level": options.level, "resamples": options.resamples}
            each = figures.intervals(rows, seed=options.seed, **drawn)
            here["intervals"] = {name: value._asdict() for name, value in each.items()}
    if options.save:
        figures.save(options.save, {name: rows.predictions for name, rows in predicted.items()})
    return found


def _check(options: EvaluateOptions) -> None:
    """What can be seen to be wrong before anything is loaded."""
    several = len(options.runs) > 1
    of_one = {"--details": options.details, "--by": options.by, "--save": options.save}
    given = [name for name, value in of_one.items() if value]
    for wrong, what, expected in (
        (not options.runs, "no run was given", "jaxdl evaluate RUN, or RUN_A RUN_B"),
        (several and given, f"{', '.join(given)} with {len(options.runs)} runs", "one run"),
        (
            options.edges and len(options.by) != 1,
            f"--edges with {len(options.by)} fields",
            "--by FIELD --edges NUMBER ..., with one field",
        ),
    ):
        if wrong:
            raise ConfigError(what, expected=expected, do="jaxdl evaluate --help says more")
    if options.save is not None:
        figures.check_path(options.save)


def _compare(options: EvaluateOptions) -> int:
    runs: list[tuple[Restored, Rows]] = []
    split = ""
    for folder in options.runs:
        restored = _loaded(folder, options)
        split = split or _one_split(options, restored)
        batches = restored.recipe.evaluated().get(split)
        spec = [] if batches is None else [name for name in batches.spec if name != MASK]
        fields = [] if LABEL in spec else spec
        runs.append((restored, rows_of(restored, split, fields=fields)))
    drawn: dict[str, Any] = {"level": options.level, "resamples": options.resamples}
    pairs = comparing_runs.compared(runs, seed=options.seed, **drawn)
    if options.as_json:
        data = comparing_runs.as_data(pairs, split, options.level)
        print(json.dumps(jsonable(data), indent=2, allow_nan=False))
    else:
        comparing_runs.show(pairs, split, options.level)
    return 0


def _one_split(options: EvaluateOptions, restored: Restored) -> str:
    there = restored.recipe.evaluated()
    if options.split != "all":
        return options.split
    for name in ("test", "validation"):
        if name in there:
            return name
    raise ConfigError(
        "the runs have no test and no validation split",
        expected="--split, one of " + ", ".join(there),
        do="name the split to compare on",
    )


def _show(split: str, found: Mapping[str, Any], level: float) -> None:
    if "details" in found:
        _show_details(split, found["details"])
    for field, parts in found.get("slices", {}).items():
        print(f"\n{split} by {field}")
        names = list(parts[0]) if parts else ["slice"]
        table([[_text(part[name]) for name in names] for part in parts], ["", *names[1:]])
    if "intervals" in found:
        print(f"\n{split}, {100 * level:g} % intervals")
        rows = [
            [name, _text(each["value"]), f"{each['low']:.4f} .. {each['high']:.4f}"]
            for name, each in found["intervals"].items()
        ]
        table(rows, ["", "", "interval"])


def _show_details(split: str, found: Mapping[str, Any]) -> None:
    print(f"\n{split} by class")
    names = list(found["classes"][0])
    rows = [[_text(row[name]) for name in names] for row in found["classes"]]
    table(rows, ["", *names[1:]])
    print(f"{split}, calibration")
    calibration = found["calibration"]
    names = ["calibration_error", "brier_score", "log_loss"]
    table([[name, _text(calibration[name])] for name in names])
    bins = [each for each in calibration["bins"] if each["rows"]]
    table(
        [
            [
                f"{each['low']:.3f} .. {each['high']:.3f}",
                *(_text(each[name]) for name in ("rows", "predicted", "observed")),
            ]
            for each in bins
        ],
        ["confidence", "rows", "predicted", "observed"],
    )


def _text(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
