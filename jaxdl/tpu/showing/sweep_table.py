"""A sweep over layouts, batches and remat policies as one table, its frontier marked.

Reads from: tpu.plans.facts, units. Used by: tpu.showing.rendering.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from jaxdl.tpu.plans.facts import Plan
from jaxdl.units import count, gib, percent_range, seconds

__all__ = ["Point", "frontier"]

WIDTH = 100


class Point(NamedTuple):
    """One point of a sweep.

    Attributes:
        layout: in words.
        rows: of the global batch.
        remat: the policy; ``None`` when everything is kept.
        plan: what came out; ``None`` when there is no plan.
        tokens: of one row, for tokens per second; 0 for rows per second.
        microbatches: into which the batch is cut.
        why: why there is no plan.
    """

    layout: str
    rows: int
    remat: str | None
    plan: Plan | None
    tokens: int = 0
    microbatches: int = 1
    why: str = ""

    @property
    def rates(self) -> tuple[float, float]:
        """Rows, or tokens, per second of the ``(slowest, fastest)`` step; 0 if it does not fit."""
        times = self.plan.times if self.plan is not None else None
        if times is None or not self.plan or not self.plan.fits or times.fastest <= 0:
            return 0.0, 0.0
        done = self.rows * (self.tokens or 1)
        return done / times.slowest, done / times.fastest


def frontier(rows: Iterable[Point]) -> str:
    """A sweep as text of at most 100 columns, the fastest first.

    Marked with ``*`` is what no other point beats: none is at least as fast with at most as much
    memory, and better in one of them. Speed is that without any overlap.

    Args:
        rows: the points of the sweep.
    """
    points = sorted(rows, key=lambda each: -each.rates[0])
    if not points:
        return "The sweep is empty.\n"
    per = "tokens/s" if any(each.tokens for each in points) else "rows/s"
    table = Table(box=SIMPLE_HEAD, padding=(0, 1))
    for name in ("", "layout", "rows", "remat", "GiB", "step", "MFU (full)", per):
        left = name in ("", "layout", "remat")
        table.add_column(name, justify="left" if left else "right", overflow="fold")
    best = _frontier(points)
    for place, each in enumerate(points):
        rows_said = f"{each.rows:,}"
        if each.microbatches > 1:
            rows_said += f" / {each.microbatches}"
        mark = "*" if place in best else ""
        table.add_row(mark, each.layout, rows_said, each.remat or "none", *_figures(each))
    stream = io.StringIO()
    console = Console(
        file=stream, width=WIDTH, color_system=None, highlight=False, markup=False, emoji=False
    )
    console.print(table)
    console.print(
        "* on the frontier: no other is as fast with as little memory. Ranges: nothing overlaps .. "
        "everything does. GiB: of one device, needed/available. Predicted by a model; no TPU was "
        "used."
    )
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


def _figures(each: Point) -> tuple[str, str, str, str]:
    if each.plan is None:
        return "", each.why or "no plan", "", ""
    memory = each.plan.facts.memory
    held = f"{gib(memory.peak)}/{gib(memory.available)}"
    times = each.plan.times
    if times is None or not each.plan.fits:
        return held, "does not fit", "", ""
    step = f"{seconds(times.slowest)} .. {seconds(times.fastest)}"
    speed = " .. ".join(count(rate) for rate in each.rates)
    return held, step, percent_range(times.mfu), speed


def _frontier(points: Sequence[Point]) -> set[int]:
    """The places of points that no other beats."""
    values = {
        place: (each.rates[0], each.plan.facts.memory.peak)
        for place, each in enumerate(points)
        if each.plan is not None and each.rates[0] > 0
    }

    def beaten(place: int) -> bool:
        speed, memory = values[place]
        return any(
            other >= speed and held <= memory and (other, held) != (speed, memory)
            for other, held in values.values()
        )

    return {place for place in values if not beaten(place)}
