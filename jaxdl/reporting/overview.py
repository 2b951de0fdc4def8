"""How the run ended, its scores, and what it was made from.

Reads from: reporting.blocks, .curves, .reading, .wording. Used by: reporting.sections, .comparing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxdl.reporting.blocks import Block, Code, Facts, Section, Table, Text
from jaxdl.reporting.curves import series
from jaxdl.reporting.reading import RunFolder
from jaxdl.reporting.wording import duration, flattened, number, plural, spoken

__all__ = ["environment", "parameters", "recipe", "shown_scores", "summary"]

_ORDER = ("loss", "accuracy", "precision", "recall", "f1")
_MOST_PARAMETERS = 400


def summary(run: RunFolder) -> Section:
    """How it ended, and the scores of every split.

    Args:
        run: what its folder holds.
    """
    found = run.summary or {}
    facts = [("Steps", number(found.get("steps", _last_step(run))))]
    planned = run.config.get("config", {}).get("steps")
    if planned is not None and planned != found.get("steps"):
        facts.append(("Steps asked for", number(planned)))
    if isinstance(found.get("seconds"), int | float):
        facts.append(("Time, last sitting", duration(float(found["seconds"]))))
    count = sum(each.size for each in run.parameters) or found.get("parameters")
    if count is not None:
        facts.append(("Parameters", number(count)))
    if found.get("devices"):
        facts.append(("Devices", plural(len(found["devices"]), "device")))
    if "seed" in found:
        facts.append(("Seed", str(found["seed"])))
    blocks: list[Block] = [Text(_ending(run)), Facts(facts)]
    blocks += [Text(words) for words in _warnings(run)]
    if run.scores:
        blocks.append(shown_scores(run.scores))
    else:
        blocks.append(Text("No split was measured, since the run did not end.", quiet=True))
    return Section("summary", "Summary", blocks)


def shown_scores(scores: Mapping[str, Mapping[str, Any]]) -> Table:
    """Measures as rows, splits as columns; matrices are left out.

    Args:
        scores: measures by name, by split.
    """
    names = {n for each in scores.values() for n, value in each.items() if np.ndim(value or 0) == 0}
    ordered = sorted(names, key=lambda n: (_ORDER.index(n) if n in _ORDER else len(_ORDER), n))
    rows = [
        [spoken(name), *(number(each[name]) if name in each else "" for each in scores.values())]
        for name in ordered
    ]
    return Table("Measured at the end, on every example of each split.", ["measure", *scores], rows)


def recipe(run: RunFolder) -> Section:
    """The settings, the command's options and the file.

    Args:
        run: what its folder holds.
    """
    settings = flattened(run.config.get("config") or {})
    rows = [[name, _setting(value)] for name, value in settings.items() if name]
    blocks: list[Any] = []
    if rows:
        blocks.append(Table("Settings.", ["setting", "value"], rows, left=(1,)))
    arguments = [str(each) for each in run.config.get("arguments") or ()]
    blocks.append(Text(f"Options as given: {' '.join(arguments) or 'none'}."))
    if run.recipe is None:
        blocks.append(Text("The folder has no recipe.py.", quiet=True))
    else:
        blocks.append(Code("recipe.py, the file that was run", run.recipe))
    return Section("recipe", "Recipe", blocks)


def environment(run: RunFolder) -> Section:
    """Versions, devices and times.

    Args:
        run: what its folder holds.
    """
    devices = [str(each) for each in (run.summary or {}).get("devices") or ()]
    shown = ", ".join(devices[:8]) + (f" and {len(devices) - 8} more" if len(devices) > 8 else "")
    rows = [["started", str(run.config.get("started", "not recorded"))]]
    rows += [["devices", shown or "not recorded: the run did not end"]]
    rows += [["Python", str(run.config.get("python", "not recorded"))]]
    versions = run.config.get("versions")
    rows += [[str(k), str(v)] for k, v in (versions or {}).items()]
    table = Table("As recorded when the run began.", ["part", "value"], rows, left=(1,))
    return Section("environment", "Environment", [table])


def parameters(run: RunFolder) -> Section:
    """Every parameter of the newest checkpoint.

    Args:
        run: what its folder holds.
    """
    if not run.parameters:
        return Section("parameters", "Parameters", [Text(run.parameters_missing, quiet=True)])
    total = sum(each.size for each in run.parameters)
    largest = sorted(run.parameters, key=lambda each: -each.size)[:_MOST_PARAMETERS]
    kept = {each.path for each in largest}
    rows = [
        [each.path, " x ".join(map(str, each.shape)) or "scalar", each.dtype, number(each.size)]
        for each in run.parameters
        if each.path in kept
    ]
    left = len(run.parameters) - len(rows)
    caption = f"{plural(len(run.parameters), 'array')} of {total:,} numbers in all" + (
        f"; the {left:,} smallest are left out." if left else "."
    )
    header = ["parameter", "shape", "dtype", "numbers"]
    fold = "" if len(rows) <= 12 else f"All {len(rows):,} rows"
    table = Table(caption, header, rows, left=(1, 2), fold=fold)
    return Section("parameters", "Parameters", ([Text(caption)] if fold else []) + [table])


def _ending(run: RunFolder) -> str:
    if run.summary is None:
        newest = (
            f"the newest checkpoint is of step {run.steps[-1]:,}"
            if run.steps
            else ("there is no checkpoint")
        )
        last = (
            f"the last record is of step {_last_step(run):,}"
            if run.records
            else ("there is no record")
        )
        return f"The run did not end, or is still going on: {last}, and {newest}."
    stopped = run.summary.get("stopped")
    if "one batch" in run.scores:
        return "Every step saw the same batch (--overfit-one-batch), and that batch is measured."
    if stopped:
        return f"The run ended before its last step: {stopped}."
    return "The run went to its last step, and every split was measured."


def _warnings(run: RunFolder) -> list[str]:
    found: list[str] = []
    bad = [each for each in series(run.records, "loss") if not each.finite.all()]
    for each in bad:
        first = each.steps[~each.finite][0]
        found.append(
            f"The {each.split} loss was not finite in {np.count_nonzero(~each.finite):,} of "
            f"{len(each.steps):,} records, first at step {first:,.0f}."
        )
    if run.unreadable:
        found.append(f"{plural(run.unreadable, 'line')} of metrics.jsonl could not be read.")
    return found


def _last_step(run: RunFolder) -> int:
    return max((each.step for each in run.records), default=0)


def _setting(value: Any) -> str:
    return "none" if value is None else str(value)
