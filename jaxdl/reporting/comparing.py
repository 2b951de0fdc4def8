"""Two runs side by side: what was set otherwise, how they went, and whether one is better.

Reads from: evaluation, units, reporting.blocks, .classes, .curves, .figures, .overview, .pages,
.reading, .rows, .speed, .wording. Used by: cli.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from jaxdl import evaluation, units
from jaxdl.reporting import overview
from jaxdl.reporting.blocks import Block, Code, Facts, Figure, Figures, Section, Table, Text
from jaxdl.reporting.classes import Classified, classify
from jaxdl.reporting.curves import metric_names, series
from jaxdl.reporting.figures import curve
from jaxdl.reporting.pages import render
from jaxdl.reporting.reading import RunFolder
from jaxdl.reporting.rows import Rows
from jaxdl.reporting.speed import rate_of
from jaxdl.reporting.wording import SPACE, duration, flattened, number, percent, plural, spoken

__all__ = ["comparison_page"]

_MATERIAL = 0.05
_RESAMPLES = 1_000
_MOST_DRAWN = 200_000
_HEADER = ("run", "value", "95 % interval")


def comparison_page(
    a: RunFolder, b: RunFolder, rows_a: Rows | str, rows_b: Rows | str, *, version: str = ""
) -> str:
    """The page of two runs, as HTML.

    Args:
        a: the first.
        b: the second.
        rows_a: what the first says of a split, or why that is not known.
        rows_b: what the second says of the same split.
        version: of jaxdl, for the footer.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    names = _names(a, b)
    sections = [
        _summary(a, b, names),
        _settings(a, b, names),
        _scores(a, b, names),
        _significance(rows_a, rows_b, names),
        _curves(a, b, names),
    ]
    return render(
        f"{names[0]} and {names[1]}",
        "Two runs compared. Differences are the second less the first.",
        sections,
        footer=f"Made by jaxdl report {version}".strip() + ". The page asks no other computer "
        "for anything.",
    )


def _names(a: RunFolder, b: RunFolder) -> tuple[str, str]:
    """The folders' names, with those above them where they are the same."""
    first, second = a.path.resolve(), b.path.resolve()
    if first.name != second.name:
        return first.name, second.name
    pair = "/".join(first.parts[-2:]), "/".join(second.parts[-2:])
    return pair if pair[0] != pair[1] else (f"{first.name} (A)", f"{second.name} (B)")


def _summary(a: RunFolder, b: RunFolder, names: tuple[str, str]) -> Section:
    rows = [["steps", *(_of_summary(run, "steps") for run in (a, b))]]
    rows.append(["parameters", *(_of_summary(run, "parameters") for run in (a, b))])
    rows.append(["time, last sitting", *(_time(run) for run in (a, b))])
    rates = [rate_of(run) for run in (a, b)]
    words = ["not recorded" if r is None else units.seconds(1 / r.median) for r in rates]
    rows.append(["step, median", *words])
    ends = [
        Text(f"{name}, started {run.config.get('started', 'at an unknown time')}: {_ending(run)}")
        for name, run in zip(names, (a, b), strict=True)
    ]
    return Section(
        "summary", "Summary", [*ends, Table("The two runs.", ["quantity", *names], rows)]
    )


def _ending(run: RunFolder) -> str:
    first = overview.summary(run).blocks[0]
    return first.words if isinstance(first, Text) else ""


def _of_summary(run: RunFolder, name: str) -> str:
    found = run.summary or {}
    return number(found[name]) if name in found else "not recorded"


def _time(run: RunFolder) -> str:
    found = (run.summary or {}).get("seconds")
    return duration(float(found)) if isinstance(found, int | float) else "not recorded"


def _settings(a: RunFolder, b: RunFolder, names: tuple[str, str]) -> Section:
    """Settings, versions and files that differ."""
    blocks: list[Block] = []
    for part, title in (("config", "Settings"), ("versions", "Versions")):
        first, second = (flattened(run.config.get(part) or {}) for run in (a, b))
        rows = [
            [name, *(_setting(each, name) for each in (first, second))]
            for name in sorted({*first, *second})
            if name and first.get(name, _MISSING) != second.get(name, _MISSING)
        ]
        if rows:
            caption = f"{title} that differ."
            blocks.append(Table(caption, [part, *names], rows, left=(1, 2)))
        else:
            blocks.append(Text(f"{title} are the same."))
    if a.recipe == b.recipe:
        blocks.append(Text("The file that was run is the same."))
    else:
        blocks.append(Text("The files that were run differ."))
        blocks.append(Code("What differs in recipe.py", _diff(a, b, names)))
    return Section("settings", "What was set otherwise", blocks)


_MISSING = object()


def _setting(given: dict[str, Any], name: str) -> str:
    if name not in given:
        return "not there"
    return "none" if given[name] is None else str(given[name])


def _diff(a: RunFolder, b: RunFolder, names: tuple[str, str]) -> str:
    import difflib

    first, second = ((run.recipe or "").splitlines() for run in (a, b))
    lines = list(difflib.unified_diff(first, second, *names, lineterm="", n=2))
    more = [f"... {len(lines) - 400:,} more lines"] if len(lines) > 400 else []
    return "\n".join(lines[:400] + more)


def _scores(a: RunFolder, b: RunFolder, names: tuple[str, str]) -> Section:
    rows: list[list[str]] = []
    for split in dict.fromkeys([*a.scores, *b.scores]):
        first, second = a.scores.get(split, {}), b.scores.get(split, {})
        for name in sorted({*first, *second}, key=lambda n: (n != "loss", n)):
            pair = first.get(name), second.get(name)
            if any(np.ndim(value if value is not None else 0) for value in pair):
                continue
            there = (name in first, name in second)
            cells = [number(v) if t else "" for v, t in zip(pair, there, strict=True)]
            rows.append([f"{spoken(name)}, {split}", *cells, _gap(*pair)])
    if not rows:
        why = "Neither run was measured at its end."
        return Section("scores", "Scores", [Text(why, quiet=True)])
    caption = "Measured at the end of each run, on every example of each split."
    table = Table(caption, ["measure, split", *names, "difference"], rows)
    return Section("scores", "Scores", [table])


def _gap(first: Any, second: Any) -> str:
    if not all(isinstance(v, int | float) for v in (first, second)):
        return ""
    gap = second - first
    return f"{'+' if gap > 0 else ''}{number(gap)}"


def _curves(a: RunFolder, b: RunFolder, names: tuple[str, str]) -> Section:
    figures: list[Figure] = []
    both = dict.fromkeys([*metric_names(a.records), *metric_names(b.records)])
    if "examples_per_second" in both:
        # It says the same, and more where the batches differ.
        both.pop("steps_per_second", None)
    for name in both:
        found = [series(run.records, name) for run in (a, b)]
        for split in dict.fromkeys(each.split for one in found for each in one):
            lines = [
                (label, each)
                for label, one in zip(names, found, strict=True)
                for each in one
                if each.split == split
            ]
            figures.append(curve(f"{spoken(name)}, {split}", lines))
    if not figures:
        why = "Neither run has records."
        return Section("curves", "Curves", [Text(why, quiet=True)])
    return Section("curves", "Curves", [Figures(figures)])


def _significance(a: Rows | str, b: Rows | str, names: tuple[str, str]) -> Section:
    """Whether the difference on the same rows is more than chance."""
    key, title = "significance", "Is one better?"
    for name, each in zip(names, (a, b), strict=True):
        if isinstance(each, str):
            return Section(key, title, [Text(f"{name}: {each}", quiet=True)])
    if isinstance(a, str) or isinstance(b, str):
        return Section(key, title)
    why = _not_the_same(a, b)
    if why:
        return Section(key, title, [Text(why, quiet=True)])
    blocks: list[Block] = [
        Text(f"Both on the same {plural(_rows(a), 'row')} of the {a.split} split, in pairs.")
    ]
    found = [classify(each.outputs, each.batch, weight=each.weight) for each in (a, b)]
    first, second = found
    if not isinstance(first, str) and not isinstance(second, str):
        blocks += _right(first, second, names)
    blocks += _losses(a, b, names)
    if len(blocks) == 1:
        blocks.append(Text("The rows have neither classes nor a loss of their own.", quiet=True))
    return Section(key, title, blocks)


def _rows(rows: Rows) -> int:
    return len(next(iter(rows.batch.values())))


def _not_the_same(a: Rows, b: Rows) -> str:
    """Why rows cannot be paired; empty where they can."""
    if _rows(a) != _rows(b):
        return f"The splits differ: {_rows(a):,} and {_rows(b):,} rows, which make no pairs."
    shared = sorted({*a.batch} & {*b.batch})
    if not shared or not all(_equal(a.batch[name], b.batch[name]) for name in shared):
        return "The rows of the splits differ, so that they make no pairs."
    return ""


def _equal(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> bool:
    return a.shape == b.shape and bool(np.array_equal(a, b, equal_nan=a.dtype.kind == "f"))


def _right(a: Classified, b: Classified, names: tuple[str, str]) -> list[Block]:
    """Which is right more often."""
    if len(a.rows) != len(b.rows) or not np.array_equal(a.labels, b.labels):
        words = "Some outputs are not finite in one run only: their accuracies make no pairs."
        return [Text(words, quiet=True)]
    if len(a.rows) > _MOST_DRAWN:
        test = evaluation.mcnemar(a.right, b.right, exact=False)
        shares = [
            f"{n}: {percent(float(r.mean()))}"
            for n, r in zip(names, (a.right, b.right), strict=True)
        ]
        return [Text(f"Accuracy of {', of '.join(shares)}; McNemar's p = {number(test.p_value)}.")]
    found = evaluation.compare(b.right, a.right, seed=0, resamples=_RESAMPLES)
    blocks: list[Block] = [
        Text(_verdict("accuracy", found, (names[1], names[0]))),
        Table("Accuracy.", _HEADER, _rows_of(found, names, percent)),
    ]
    test = found.mcnemar
    if test is not None:
        facts = [
            (f"Right in {names[0]} only", number(test.only_b)),
            (f"Right in {names[1]} only", number(test.only_a)),
            ("p, McNemar's test", number(test.p_value)),
        ]
        blocks.append(Facts(facts))
    if a.places:
        words = "Places within a row are not independent, as the tests take them to be."
        blocks.append(Text(words, quiet=True))
    return blocks


def _losses(a: Rows, b: Rows, names: tuple[str, str]) -> list[Block]:
    """Whose mean loss is lower."""
    if a.loss is None or b.loss is None:
        return []
    weights = [
        np.ones(len(loss)) if rows.weight is None else np.asarray(rows.weight, np.float64)
        for rows, loss in ((a, a.loss), (b, b.loss))
    ]
    keep = (weights[0] > 0) & (weights[1] > 0) & np.isfinite(a.loss) & np.isfinite(b.loss)
    if keep.sum() < 2:
        return [Text("Fewer than two rows have a finite loss in both runs.", quiet=True)]
    first, second = a.loss[keep] / weights[0][keep], b.loss[keep] / weights[1][keep]
    found = evaluation.compare(second, first, weights[0][keep], seed=0, resamples=_RESAMPLES)
    left = int(np.count_nonzero((weights[0] > 0) & ~keep))
    blocks: list[Block] = [
        Text(_verdict("loss", found, names)),
        Table("Loss.", _HEADER, _rows_of(found, names, number)),
    ]
    if left:
        blocks.append(Text(f"{plural(left, 'row')} without a finite loss left out.", quiet=True))
    return blocks


def _verdict(what: str, found: evaluation.Comparison, names: tuple[str, str]) -> str:
    """In a sentence; the first name is that of which a difference above 0 speaks."""
    gap, p_value = found.difference.value, found.permutation
    if gap == 0:
        return f"Both have the same {what} on these rows."
    better = names[0] if gap > 0 else names[1]
    chance = f"p = {number(p_value)} by permutation"
    if p_value > _MATERIAL:
        return f"{better} has the better {what}, and chance alone often gives as much ({chance})."
    return f"{better} has the better {what}, which chance alone seldom gives ({chance})."


def _rows_of(
    found: evaluation.Comparison, names: tuple[str, str], shown: Callable[[float], str]
) -> list[list[str]]:
    """Both figures and their difference; the second run is the comparison's first system."""
    gap = found.difference
    of_gap = _points if shown is percent else shown
    rows = [
        [name, shown(each.value), f"{shown(each.low)} to {shown(each.high)}"]
        for name, each in ((names[0], found.b), (names[1], found.a))
    ]
    ends = f"{of_gap(gap.low)} to {of_gap(gap.high)}"
    return [*rows, ["difference", of_gap(gap.value), ends]]


def _points(share: float) -> str:
    return f"{100 * share:+.1f}{SPACE}points"
