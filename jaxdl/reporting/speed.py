"""How fast the run went, where its time went, and what a plan had said.

Reads from: errors, tpu.plans.encoding, tpu.plans.facts, units, reporting.blocks,
.curves, .figures, .reading, .wording. Used by: reporting.sections.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxdl import units
from jaxdl.errors import PlanError
from jaxdl.reporting.blocks import Block, Facts, Figures, Section, Table, Text
from jaxdl.reporting.curves import Series, series
from jaxdl.reporting.figures import curve
from jaxdl.reporting.reading import RunFolder
from jaxdl.reporting.wording import duration, flattened, number, percent
from jaxdl.tpu.plans.encoding import from_json
from jaxdl.tpu.plans.facts import Plan

__all__ = ["Rate", "plans", "rate_of", "speed"]

_STALL = "stall"
_LEAST_SHOWN = 0.01


class Rate(NamedTuple):
    """How fast the steps were.

    Attributes:
        median: steps a second.
        slowest: steps a second of the slowest window.
        slowest_at: the step at which that window ended.
        seconds: of all windows together.
        slow: how many windows went at less than half of the median.
        windows: how many there were.
    """

    median: float
    slowest: float
    slowest_at: int
    seconds: float
    slow: int
    windows: int


def rate_of(run: RunFolder) -> Rate | None:
    """What the train records say of the speed; ``None`` where they say nothing.

    Args:
        run: what its folder holds.
    """
    found = _series(run, "steps_per_second")
    if found is None:
        return None
    good = found.finite & (found.values > 0)
    if not good.any():
        return None
    rates, steps = found.values[good], found.steps[good]
    median = float(np.median(rates))
    # A window goes from the record before to its own.
    lengths = np.diff(np.concatenate([[0.0], found.steps]))[good]
    lengths[0] = min(lengths[0], np.median(lengths))
    slow = int(np.count_nonzero(rates < median / 2))
    at = int(rates.argmin())
    seconds = float((lengths / rates).sum())
    return Rate(median, float(rates[at]), int(steps[at]), seconds, slow, len(rates))


def speed(run: RunFolder) -> Section:
    """Throughput, and the time that was not spent in steps.

    Args:
        run: what its folder holds.
    """
    rate = rate_of(run)
    key, title = "throughput", "Throughput and stall"
    if rate is None:
        why = "No record says how fast the steps were: the run ended within its first log window."
        return Section(key, title, [Text(why, quiet=True)])
    facts = [
        ("Step, median", units.seconds(1 / rate.median)),
        ("Steps a second, median", number(rate.median)),
    ]
    examples = _series(run, "examples_per_second")
    if examples is not None and examples.finite.any():
        median = float(np.median(examples.values[examples.finite]))
        facts.append(("Examples a second, median", number(median)))
    facts.append(("Slowest window", f"{number(rate.slowest)} steps/s at {rate.slowest_at:,}"))
    stall = _series(run, _STALL)
    recorded = stall is not None and stall.finite.any()
    if stall is not None and recorded:
        facts.append(("Waited for data, mean", percent(float(stall.values[stall.finite].mean()))))
    blocks: list[Block] = [Facts(facts), Text(_where_time_went(run, rate))]
    blocks.append(
        Text(
            f"{rate.slow:,} of {rate.windows:,} log windows went at less than half of the median "
            "rate."
            + (
                ""
                if recorded
                else " The records do not say how long a step waited for its batch; slow windows "
                "are where such waits would show."
            )
        )
    )
    names = ("examples_per_second", "steps_per_second")
    there = [(name, found) for name in names if (found := _series(run, name)) is not None]
    # Both are the same curve on other scales.
    shown = there[:1]
    if stall is not None and recorded and np.nanmax(stall.values) > _LEAST_SHOWN:
        shown.append((_STALL, stall))
    figures = [curve(name, [("train", found)]) for name, found in shown]
    return Section(key, title, [*blocks, Figures(figures)])


def plans(run: RunFolder) -> Section:
    """What ``jaxdl plan`` had said beside what was measured.

    Args:
        run: what its folder holds.
    """
    key, title = "plan", "Plan against measured"
    given = run.documents.get("plan", [])
    if not given:
        why = (
            "No plan lies beside this run: jaxdl plan FILE --on SLICE --json RUN/plan.json, with "
            "the options of the run, puts one there."
        )
        return Section(key, title, [Text(why, quiet=True)])
    blocks: list[Block] = []
    for name, content in given:
        try:
            plan = from_json(content)
        except PlanError as error:
            blocks.append(Text(f"{name} cannot be read: {error.what}.", quiet=True))
            continue
        blocks += _plan(name, plan, run, rate_of(run))
    return Section(key, title, blocks)


def _series(run: RunFolder, name: str) -> Series | None:
    return next((each for each in series(run.records, name) if each.split == "train"), None)


def _where_time_went(run: RunFolder, rate: Rate) -> str:
    total = (run.summary or {}).get("seconds")
    steps = f"The steps took {duration(rate.seconds)} by their own rate"
    if not isinstance(total, int | float) or total <= 0:
        return f"{steps}; how long the run took in all is not recorded, since it did not end."
    total = float(total)
    if rate.seconds > total * 1.02:
        return (
            f"{steps}, and the last sitting {duration(total)}: the run was gone on with, so that "
            "the two cannot be compared."
        )
    rest = max(total - rate.seconds, 0.0)
    return (
        f"{steps}, {percent(min(rate.seconds / total, 1.0))} of {duration(total)} in all. The "
        f"other {duration(rest)} are compiling, validation, saving and measuring every split."
    )


def _plan(name: str, plan: Plan, run: RunFolder, rate: Rate | None) -> list[Block]:
    facts, times = plan.facts, plan.times
    measured = 1 / rate.median if rate is not None else None
    count = sum(each.size for each in run.parameters) or (run.summary or {}).get("parameters")
    devices = [str(each) for each in (run.summary or {}).get("devices") or ()]
    settings = flattened(run.config.get("config") or {})
    rows = [
        ["devices", str(facts.topology), _devices(devices)],
        ["layout", facts.layout, "as the recipe says"],
        ["rows of a batch", number(facts.rows), number(settings.get("batch_size", "not recorded"))],
        ["parameters", number(facts.parameters), "not known" if count is None else number(count)],
    ]
    step = "not recorded" if measured is None else units.seconds(measured)
    if times is not None:
        between = f"{units.seconds(times.fastest)} to {units.seconds(times.slowest)}"
        rows += [["time of a step", between, step], ["bound by", times.bound, "not measured"]]
    else:
        rows.append(["time of a step", "does not fit", step])
    total = facts.flops.model
    achieved = "not recorded" if measured is None else f"{units.flops(total / measured)}/s"
    planned = "" if times is None else f"{units.flops(total / times.slowest)}/s at least"
    memory = f"{units.size(facts.memory.peak)} of {units.size(facts.memory.available)}"
    rows += [
        ["FLOPs of a step", units.flops(total), "the same program"],
        ["FLOPs a second, all devices", planned, achieved],
        ["memory of a device, peak", memory, "not recorded"],
    ]
    table = Table(
        f"{name}, made for {facts.topology}.",
        ["quantity", "planned", "measured"],
        rows,
        left=(1, 2),
    )
    return [table, *_differ(plan, devices, count, measured)]


def _differ(
    plan: Plan, devices: Sequence[str], count: int | None, measured: float | None
) -> list[Block]:
    said: list[Block] = []
    if count is not None and count != plan.facts.parameters:
        said.append(
            Text("The plan is of another model: the parameters are not as many.", quiet=True)
        )
    if not any("tpu" in each.lower() for each in devices):
        words = "The run was not on TPUs, so that its times do not say whether the plan is right."
        return [*said, Text(words, quiet=True)]
    if plan.times is not None and measured is not None:
        low, high = plan.times.fastest, plan.times.slowest
        where = "within" if low <= measured <= high else "below" if measured < low else "above"
        said.append(Text(f"The measured time of a step is {where} the planned range."))
    return said


def _devices(devices: Sequence[str]) -> str:
    if not devices:
        return "not recorded"
    return devices[0] if len(devices) == 1 else f"{len(devices)}, the first {devices[0]}"
