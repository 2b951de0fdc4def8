"""A plan as a person reads it, and a sweep of plans.

Reads from: tpu.plans.encoding, tpu.plans.facts, tpu.plans.roofline, tpu.showing.sweep_table, units.
Used by: cli, benchmarks.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from jaxdl.tpu.plans.encoding import as_json, from_json
from jaxdl.tpu.plans.facts import Facts, Plan, Times
from jaxdl.tpu.plans.roofline import sent
from jaxdl.tpu.showing.sweep_table import Point, frontier
from jaxdl.units import bar, count, flops, gib, percent_range, seconds, size

__all__ = ["Point", "as_json", "from_json", "frontier", "table", "to_text"]

WIDTH = 100
_BUFFERS = 10
_NETWORKS = {"ici": "", "dcn": ", between slices"}
_WORDS = {
    "compute": "arithmetic",
    "hbm": "memory (HBM)",
    "ici": "links in a slice (ICI)",
    "dcn": "between slices (DCN)",
}


def table(plan: Plan, changes: Iterable[Any] = ()) -> str:
    """A plan as text of at most 100 columns.

    Args:
        plan: the plan.
        changes: under which it fits, each said by ``str``, such as ``Search.found``.
    """
    facts = plan.facts
    parts: list[RenderableType] = [_header(facts), _verdict(plan), _memory(facts)]
    if not plan.fits:
        parts.append(_buffers(facts))
    said = [str(each) for each in changes]
    if said:
        parts.append(_list("Changes under which it fits, the smallest first", said, numbered=True))
    parts.append(_flops(facts))
    if plan.times is not None:
        parts += [_collectives(facts), _times(plan.times), _mfu(facts, plan.times)]
        assumed = [f"{name}: {words}" for name, words in plan.times.derates.items()]
        parts.append(_list("Assumptions", assumed))
    if facts.notes:
        parts.append(_list("Notes", facts.notes))
    parts.append(_footer(facts))
    return to_text(parts)


def to_text(parts: Sequence[RenderableType], width: int = WIDTH) -> str:
    """What rich draws, as plain text.

    Args:
        parts: one below the other.
        width: columns at most.
    """
    stream = io.StringIO()
    console = Console(
        file=stream, width=width, color_system=None, highlight=False, markup=False, emoji=False
    )
    console.print(Group(*parts))
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


def _header(facts: Facts) -> RenderableType:
    axes = " x ".join(f"{name} {size}" for name, size in facts.mesh.items())
    step = (
        f"layout {facts.layout} (mesh {axes}), {facts.rows:,} rows a step, "
        f"{count(facts.parameters)} parameters"
    )
    lines = [str(facts.topology), step]
    chip = facts.topology.chip
    if chip.name_counts == "TensorCores":
        lines.insert(
            1, f"the number in {facts.topology.name} counts TensorCores, two to a chip, not chips"
        )
    return Text("\n".join(lines))


def _verdict(plan: Plan) -> RenderableType:
    memory = plan.facts.memory
    if plan.fits:
        words = f"fits: {size(memory.peak)} of {size(memory.available)} on each device"
        return Text(f"\n{words} (compiler's figure)")
    words = f"does not fit: needs {gib(memory.peak)} GiB, has {gib(memory.available)} GiB"
    return Text(f"\n{words} (compiler's figure)\nthe compiler: {memory.refusal}")


def _table(title: str, *columns: str, left: int = 1) -> Table:
    found = Table(
        title=title, box=SIMPLE_HEAD, title_justify="left", title_style="", padding=(0, 1)
    )
    for place, column in enumerate(columns):
        justify: Literal["left", "right"] = "left" if place < left else "right"
        found.add_column(column, justify=justify, overflow="fold")
    return found


def _memory(facts: Facts) -> RenderableType:
    memory = facts.memory
    shown = _table("Memory of one device", "use", "bytes", "of HBM", "")
    shown.columns[3].justify = "left"
    rows = [*memory.by_use.items(), ("temporaries", memory.temporaries), ("program", memory.code)]
    for name, used in rows:
        share = used / memory.available
        shown.add_row(name, size(used), f"{share:.1%}", bar(share))
    shown.add_section()
    share = memory.peak / memory.available
    shown.add_row(
        "peak" if memory.fits else "needed", size(memory.peak), f"{share:.1%}", bar(share)
    )
    if not memory.fits:
        return shown
    # The parts are each at their largest, which they are not at one time.
    return Group(
        shown, Padding(Text("results reuse the state's memory; the peak is not the sum"), (0, 2))
    )


def _buffers(facts: Facts) -> RenderableType:
    shown = _table("Largest arguments of one device", "path", "shape", "placed", "bytes", left=3)
    for each in facts.buffers[:_BUFFERS]:
        shape = f"{each.dtype}[{','.join(map(str, each.shape))}]"
        shown.add_row(each.path, shape, each.spec, size(each.bytes))
    left = len(facts.buffers) - _BUFFERS
    if left > 0:
        rest = sum(each.bytes for each in facts.buffers[_BUFFERS:])
        shown.add_row(f"{left} more", "", "", size(rest))
    return shown


def _flops(facts: Facts) -> RenderableType:
    devices = facts.topology.devices
    shown = _table("FLOPs of one step", "", "all devices", "one device")
    rows: list[tuple[str, float]] = [
        ("executed", facts.flops.total),
        ("recomputed (remat)", facts.flops.recomputed),
    ]
    if facts.attention_flops:
        rows.append(("model, attention in full", facts.flops.model))
        rows.append(("model, attention causal", facts.flops.model - facts.attention_flops / 2))
    else:
        rows.append(("model", facts.flops.model))
    for name, value in rows:
        shown.add_row(name, flops(value), flops(value / devices))
    return shown


def _collectives(facts: Facts) -> RenderableType:
    rows = sent(facts)
    if not rows:
        return Text("\nNo collectives: no device sends anything to another.")
    shown = _table(
        "Collectives of one step, as often as they are executed",
        *("kind", "over", "times", "bytes", "a device sends", "time"),
        left=2,
    )
    for row in rows:
        shown.add_row(
            *(row.kind, row.axes + _NETWORKS[row.network], f"{row.times:,}", size(row.bytes)),
            *(size(row.wire_bytes), seconds(row.seconds)),
        )
    return shown


def _times(times: Times) -> RenderableType:
    shown = _table("Time of one step, predicted", "", "time", "", "")
    shown.columns[2].justify = shown.columns[3].justify = "left"
    values = {
        "compute": times.compute,
        "hbm": times.hbm,
        "ici": sum(times.ici.values()),
        "dcn": times.dcn,
    }
    for name, value in values.items():
        share = value / times.slowest if times.slowest else 0.0
        binds = "binds" if name == times.bound else ""
        shown.add_row(_WORDS[name], seconds(value), bar(share), binds)
    if len(times.ici) > 1:
        for axes, value in times.ici.items():
            shown.add_row(f"  over {axes}", seconds(value), "", "")
    shown.add_section()
    shown.add_row("all overlap", seconds(times.fastest), "", "")
    shown.add_row("nothing overlaps", seconds(times.slowest), "", "")
    return shown


def _mfu(facts: Facts, times: Times) -> RenderableType:
    title, range_ = "Model FLOPs utilisation (MFU)", "no overlap .. full overlap"
    if not facts.attention_flops:
        shown = _table(title, range_, left=0)
        shown.add_row(percent_range(times.mfu))
        return shown
    shown = _table(title, "attention counted", range_)
    shown.add_row("in full", percent_range(times.mfu))
    shown.add_row("as a causal mask leaves it", percent_range(times.mfu_causal))
    return shown


def _list(title: str, lines: Iterable[str], *, numbered: bool = False) -> RenderableType:
    shown = Table(box=None, show_header=False, padding=(0, 1), title=f"\n{title}")
    shown.title_justify, shown.title_style = "left", ""
    shown.add_column(justify="right")
    shown.add_column(overflow="fold")
    for place, line in enumerate(lines, start=1):
        shown.add_row(f"{place}." if numbered else "-", line)
    return shown


def _footer(facts: Facts) -> RenderableType:
    versions = ", ".join(f"{name} {version}" for name, version in facts.versions.items())
    return Text(
        f"\n{versions}; compiled in {facts.compile_seconds:.0f} s\n"
        "Predicted by a model; no TPU was used."
    )
