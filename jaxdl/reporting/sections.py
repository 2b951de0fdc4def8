"""The sections of a run's page, in their order.

Reads from: reporting.blocks, .classes, .figures, .judged, .mistakes, .overview, .pages, .reading,
.rows, .speed. Used by: cli, and by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from jaxdl.reporting import figures, judged, overview, speed
from jaxdl.reporting.blocks import Section, Text
from jaxdl.reporting.classes import Classified, by_class, calibration, classify, confused
from jaxdl.reporting.mistakes import worst
from jaxdl.reporting.pages import render
from jaxdl.reporting.reading import RunFolder
from jaxdl.reporting.rows import Explained, Rows, Worst, choose

__all__ = ["Explain", "run_page"]

Explain: TypeAlias = Callable[[Rows, Worst, Classified | str], tuple[Sequence[Explained], str]]
"""From the rows, and those that are shown, to explanations, and to why there are none."""

_PREDICTED = {
    "classes": "Results by class",
    "confusion": "Confusion",
    "calibration": "Calibration",
    "mistakes": "Worst mistakes",
}


def run_page(
    run: RunFolder,
    rows: Rows | str,
    *,
    mistakes: int = 12,
    explain: Explain | None = None,
    version: str = "",
) -> str:
    """The page of a run, as HTML.

    Args:
        run: what its folder holds.
        rows: what the model says of a split, or the sentence that says why that is not known.
        mistakes: how many examples to show at most.
        explain: explanations of the chosen rows.
        version: of jaxdl, for the footer.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    sections = [
        overview.summary(run),
        figures.curves(run),
        speed.speed(run),
        speed.plans(run),
        *_predicted(rows, mistakes, explain),
    ]
    sections += [
        each
        for each in (judged.judgements(run), judged.robustness(run), judged.privacy(run))
        if each is not None
    ]
    sections += [overview.recipe(run), overview.environment(run), overview.parameters(run)]
    absent = judged.missing(run)
    if absent:
        blocks = [Text(words, quiet=True) for words in absent]
        sections.append(Section("missing", "Not in this report", blocks))
    name = (run.summary or {}).get("name")
    lead = f"{name}, started {run.config.get('started', 'at an unknown time')}" if name else ""
    return render(
        f"Run {run.name}",
        lead or f"Started {run.config.get('started', 'at an unknown time')}",
        sections,
        footer=f"Made by jaxdl report {version}".strip() + ". The page asks no other computer "
        "for anything.",
    )


def _predicted(
    rows: Rows | str,
    mistakes: int,
    explain: Explain | None,
) -> list[Section]:
    """What needs the model's predictions, or why it is not there."""
    if isinstance(rows, str):
        return [Section(key, title, [Text(rows, quiet=True)]) for key, title in _PREDICTED.items()]
    found = classify(rows.outputs, rows.batch, rows.class_names, weight=rows.weight)
    chosen = choose(rows, found, mistakes)
    held = rows.batch
    if rows.fetch is not None and chosen.rows:
        rows = rows._replace(batch={**rows.batch, **rows.fetch(chosen.rows)}, fetch=None)
    explained: Sequence[Explained] = ()
    unexplained = ""
    if explain is not None and chosen.rows:
        explained, unexplained = explain(rows, chosen, found)
    last = worst(rows, found, chosen, explained, unexplained)
    if isinstance(found, str):
        why = f"{found} So there is no confusion, and no calibration."
        return [Section("classes", _PREDICTED["classes"], [Text(why, quiet=True)]), last]
    return [by_class(found, rows.split, held), confused(found), calibration(found), last]
