"""The curves of a run: a figure for each measure that was recorded, and the same in numbers.

Reads from: errors, schedules, reporting.blocks, .curves, .drawing, .reading, .wording.
Used by: reporting.sections, .speed, .comparing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from jaxdl.errors import ConfigError
from jaxdl.reporting.blocks import Figure, Figures, Section, Table, Text
from jaxdl.reporting.curves import Series, metric_names, series, thin
from jaxdl.reporting.drawing import line_chart, wants_logarithm
from jaxdl.reporting.reading import RunFolder
from jaxdl.reporting.wording import number, spoken
from jaxdl.schedules import make_schedule

__all__ = ["PRIVACY", "curve", "curves", "learning_rate"]

PRIVACY = "privacy"
"""The split of the records that say what was spent of privacy; they have a section of their own."""

_RATES = ("steps_per_second", "examples_per_second", "stall")
_RECKONED = "By step; reckoned from the settings of the optimizer, not recorded."


def curves(run: RunFolder) -> Section:
    """A figure for each measure that was recorded.

    Args:
        run: what its folder holds.
    """
    records = [record for record in run.records if record.split != PRIVACY]
    names = [name for name in metric_names(records) if name not in _RATES]
    if not names:
        why = "The run has no records: it ended before its first log point."
        return Section("curves", "Curves", [Text(why, quiet=True)])
    found = {name: series(records, name) for name in names}
    figures = [curve(name, [(each.split, each) for each in found[name]]) for name in names]
    rate = None if "learning_rate" in names else learning_rate(run)
    if rate is not None:
        figures.append(replace(curve("learning rate", [("train", rate)]), caption=_RECKONED))
    rows = [_row(name, each) for name in names for each in found[name]]
    header = ["measure, split", "records", "first", "least", "greatest", "last"]
    blocks = [Figures(figures), Table("The curves in numbers.", header, rows)]
    return Section("curves", "Curves", blocks)


def curve(name: str, lines: Sequence[tuple[str, Series]]) -> Figure:
    """The figure of one measure.

    Args:
        name: of the measure.
        lines: what each line is called, and the series; at most four.
    """
    colours = _colours([label for label, _ in lines[:4]])
    drawn = [(n, thin(each)) for n, (_, each) in zip(colours, lines, strict=False)]
    values = np.concatenate([each.values for _, each in lines])
    logarithmic = wants_logarithm(values)
    caption = ["By step; the vertical axis is logarithmic." if logarithmic else "By step."]
    thinned = [line for _, line in drawn if line.low is not None]
    if thinned:
        records = max(line.records for line in thinned)
        caption.append(
            f"{records:,} records in {len(thinned[0].x)} bins: the line is the mean of a bin, the "
            "band goes from its least to its greatest."
        )
    if any(line.bad.size for _, line in drawn):
        caption.append("Crosses at the foot: steps whose value is not finite.")
    if len(lines) > 4:
        caption.append(f"{len(lines) - 4} more are not drawn.")
    alt = " ".join(_in_words(label, each) for label, each in lines)
    return Figure(
        spoken(name).capitalize(),
        f"{spoken(name).capitalize()} by step. {alt}",
        " ".join(caption),
        line_chart(drawn, x="step", logarithmic=logarithmic),
        [(label, n) for n, (label, _) in zip(colours, lines, strict=False)],
    )


def learning_rate(run: RunFolder) -> Series | None:
    """The schedule that the settings of an ``OptimizerConfig`` describe; ``None`` where none does.

    Args:
        run: what its folder holds.
    """
    settings = run.config.get("config")
    steps = settings.get("steps") if isinstance(settings, Mapping) else None
    given = settings.get("optimizer") if isinstance(settings, Mapping) else None
    if not isinstance(steps, int) or not isinstance(given, Mapping) or steps < 2:
        return None
    try:
        schedule = make_schedule(
            given["schedule"],
            float(given["learning_rate"]),
            steps=steps,
            warmup_steps=int(given["warmup_steps"]),
            boundaries=tuple(given["boundaries"]),
            factor=float(given["factor"]),
        )
        at = np.unique(
            np.linspace(
                0, min(steps, max((r.step for r in run.records), default=steps)), 200
            ).astype(int)
        )
        rates = np.array([float(schedule(int(step))) for step in at])
    except (ConfigError, KeyError, TypeError, ValueError, RuntimeError):
        # Also where JAX has no device, as beside a run that holds the TPU.
        return None
    return None if np.ptp(rates) == 0 else Series("train", at.astype(np.float64), rates)


def _colours(labels: Sequence[str]) -> list[int]:
    """One for each line; a split has the same in every figure."""
    splits = ("train", "validation", "test")
    if set(labels) <= set(splits):
        return [1 + splits.index(label) for label in labels]
    return list(range(1, len(labels) + 1))


def _row(name: str, given: Series) -> list[str]:
    values = given.values[given.finite]
    cells = [f"{len(given.steps):,}"]
    if not values.size:
        return [f"{spoken(name)}, {given.split}", *cells, *["not finite"] * 4]
    least, most = given.finite.nonzero()[0][[values.argmin(), values.argmax()]]
    return [
        f"{spoken(name)}, {given.split}",
        *cells,
        number(float(given.values[0])),
        f"{number(float(values.min()))} at {given.steps[least]:,.0f}",
        f"{number(float(values.max()))} at {given.steps[most]:,.0f}",
        number(float(given.values[-1])),
    ]


def _in_words(label: str, given: Series) -> str:
    values, steps = given.values[given.finite], given.steps[given.finite]
    if not values.size:
        return f"{label}: never finite."
    if len(values) == 1:
        return f"{label}: {number(float(values[0]))} at step {steps[0]:,.0f}, the only record."
    words = (
        f"{label}: from {number(float(values[0]))} at step {steps[0]:,.0f} to "
        f"{number(float(values[-1]))} at step {steps[-1]:,.0f}, least "
        f"{number(float(values.min()))} at step {steps[values.argmin()]:,.0f}"
    )
    missing = len(given.values) - len(values)
    return words + (f", not finite in {missing:,} records." if missing else ".")
