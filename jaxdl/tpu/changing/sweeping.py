"""Many ways to build one program, each planned: what memory buys in speed, and what does not fit.

Reads from: errors, layouts, the rest of the planner. Used by: cli, and by hand.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from jaxdl.errors import ConfigError, JaxdlError
from jaxdl.layouts import Layout
from jaxdl.protocols import Batch, PyTree
from jaxdl.tpu.changing.changes import Change
from jaxdl.tpu.plans.compiling import find_compiler
from jaxdl.tpu.plans.facts import Plan
from jaxdl.tpu.plans.planning import plan
from jaxdl.tpu.slices.names import Topology, parse_topology

__all__ = ["SweepRow", "sweep"]


@dataclass(frozen=True)
class SweepRow:
    """One way to build a program, and what it takes.

    Attributes:
        change: the whole of it.
        words: the same in words.
        plan: of it, whether it fits or not; ``None`` when none could be made.
        why: why no plan could be made, or the compiler's words when it does not fit, else ``""``.
    """

    change: Change
    words: str
    plan: Plan | None
    why: str = ""

    @property
    def fits(self) -> bool:
        """Whether it fits the slice."""
        return self.plan is not None and self.plan.fits

    @property
    def peak(self) -> int | None:
        """Bytes on one device; of a program that does not fit, what the compiler needs."""
        return None if self.plan is None else self.plan.facts.memory.peak

    @property
    def rows(self) -> int | None:
        """Of the global batch."""
        return self.change.rows if self.plan is None else self.plan.facts.rows

    @property
    def rows_per_second(self) -> tuple[float, float] | None:
        """Predicted, of the slowest and the fastest step; ``None`` when it does not fit."""
        times = None if self.plan is None else self.plan.times
        if times is None or self.rows is None:
            return None
        return self.rows / times.slowest, self.rows / times.fastest


def sweep(
    build: Callable[[Change], tuple[Any, Batch]],
    topology: str | Topology,
    layouts: Sequence[Layout | None] = (None,),
    batches: Sequence[int | None] = (None,),
    remats: Sequence[str | None] = (None,),
    *,
    microbatches: Sequence[int] = (1,),
    state: PyTree = None,
    progress: Callable[[int, int, SweepRow], None] | None = None,
    planner: Callable[..., Plan] = plan,
) -> tuple[SweepRow, ...]:
    """Plans every combination. Programs that were planned before are not compiled again.

    What does not fit, or cannot be built, stays in the table with the reason.

    Args:
        build: makes the program of a change: ``(step, batch)``, with ``change.rows`` rows.
        topology: the slice.
        layouts: to plan; ``None`` is the step's own.
        batches: rows of the global batch; ``None`` is the file's own.
        remats: names of ``REMAT_POLICIES``, and ``None`` to keep everything.
        microbatches: the ``n`` of ``gradients.accumulate(n)``.
        state: as for ``plan``, when the step has no ``init``.
        progress: given how many are done, how many there are, and the last row.
        planner: stands for ``plan``.

    Returns:
        A row for each, in the order of the arguments.

    Raises:
        ConfigError: there is nothing to plan, or no such topology.
        PlanError: there is no TPU compiler.
    """
    target = parse_topology(topology) if isinstance(topology, str) else topology
    grid = [
        Change(layout, split, remat, rows)
        for layout, rows, remat, split in itertools.product(layouts, batches, remats, microbatches)
    ]
    if not grid:
        raise ConfigError(
            "a sweep over nothing",
            expected="at least one layout, batch size, remat policy and number of microbatches",
            do="leave an argument out to keep what the file says",
        )
    if planner is plan:
        # Once for all: it is no fault of a row's.
        find_compiler()
    planned = planner if state is None else partial(planner, state=state)
    found: list[SweepRow] = []
    for change in grid:
        found.append(_row(build, target, change, planned))
        if progress is not None:
            progress(len(found), len(grid), found[-1])
    return tuple(found)


def _row(
    build: Callable[[Change], tuple[Any, Batch]],
    topology: Topology,
    change: Change,
    planned: Callable[..., Plan],
) -> SweepRow:
    words = change.words()
    try:
        step, batch = build(change)
        words = replace(change, layout=change.layout or getattr(step, "layout", None)).words()
        found = planned(step, batch, topology, layout=change.layout)
    except JaxdlError as error:
        return SweepRow(change, words, None, f"{type(error).__name__}: {error.what}")
    return SweepRow(change, words, found, found.facts.memory.refusal or "")
