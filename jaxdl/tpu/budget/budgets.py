"""Budgets of a step in a test: memory, collectives, FLOPs and time, before anything runs.

A step that needs more than it did yesterday fails its test, with the parameters whose traffic is
new. Programs are compiled as for ``plan``, or for the devices of this machine.

Reads from: errors, layouts, protocols, the rest of the planner. Used by: users' tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxdl.errors import ConfigError, JaxdlError
from jaxdl.layouts import Layout
from jaxdl.protocols import Batch, PyTree
from jaxdl.tpu.budget.excess import Violation, beyond_baseline, beyond_limits
from jaxdl.tpu.budget.limits import Limit, read_limits
from jaxdl.tpu.budget.measured import Measured, measure, read_measured
from jaxdl.tpu.slices.names import Topology

__all__ = ["BudgetError", "assert_budget"]


class BudgetError(JaxdlError, AssertionError):
    """A step takes more than its budget. An ``AssertionError``: a test fails, it is no error."""


def assert_budget(
    step: Any,
    batch: Batch,
    *,
    topology: str | Topology | None = None,
    layout: Layout | None = None,
    state: PyTree = None,
    hbm: Limit | None = None,
    collectives: Mapping[str, Limit] | None = None,
    flops: float | None = None,
    step_seconds: float | None = None,
    baseline: str | Path | None = None,
    tolerance: float = 0.0,
) -> Measured:
    """Compiles a step and fails when it takes more than it may; nothing runs.

    Args:
        step: a placed step, a ``TrainStep``, or ``(state, batch) -> (state, metrics)``.
        batch: the global batch, arrays or ``jax.ShapeDtypeStruct``.
        topology: the slice, such as ``"v5e-16"``. When ``None`` the step is compiled for the
            devices it is placed on, or those of this machine: no TPU compiler is needed, and bytes
            and collectives are those of this backend's program.
        layout: the step's own, else ``data_parallel()``, when ``None``.
        state: for a plain function: its state, abstract or real.
        hbm: the most memory on one device: a size, or a number of bytes. A program that the
            compiler refuses always fails.
        collectives: by kind, the most that one step may execute, loops included: a number
            (``0``, ``"<=40"``), the bytes that one device may send (``"100MiB"``), or both
            (``"<=40, 100MiB"``). ``"other"`` is for all kinds that are not named; without it they
            are free. Traffic between slices counts as ``"all-reduce over dcn"`` and so on.
        flops: the most FLOPs of one step on all devices, recomputation included.
        step_seconds: the most that the slower prediction (nothing overlapped) may take.
        baseline: a file of ``write_measured`` or the JSON of a plan: nothing may take more than it
            did there.
        tolerance: the share by which bytes, FLOPs and seconds may exceed the baseline, such as
            ``0.02``; the numbers of collectives may not.

    Returns:
        What was measured, for ``write_measured``.

    Raises:
        BudgetError: something takes more; every excess is in the message.
        ConfigError: a budget cannot be read, or the baseline is missing or of another place.
        PlanError: there is no TPU compiler, or it does not take the program.
    """
    __tracebackhide__ = True
    limits = read_limits(hbm, collectives or {}, flops, step_seconds)
    if step_seconds is not None and topology is None:
        raise ConfigError(
            f"the budget step_seconds={step_seconds} without a topology",
            expected="a slice, whose chips' rates are known",
            do="pass topology='v5e-16', or leave step_seconds out",
        )
    if not tolerance >= 0:
        raise ConfigError(
            f"tolerance is {tolerance}", expected="a share from 0 up, such as 0.02", do="change it"
        )
    old = None if baseline is None else read_measured(baseline)
    found = measure(step, batch, topology=topology, layout=layout, state=state)
    over = beyond_limits(found, limits, old)
    if old is not None:
        _check_place(found, old, baseline)
        told = {each.why for each in over}
        for each in beyond_baseline(found, old, tolerance):
            why = () if each.why in told else each.why
            over.append(each._replace(name=f"{each.name} (baseline)", why=why))
    if over:
        raise _error(found, over, old)
    return found


def _check_place(found: Measured, old: Measured, baseline: Any) -> None:
    if found.where != old.where:
        raise ConfigError(
            f"the baseline {baseline} is of {old.where}, the step was compiled for {found.where}",
            expected="a baseline of the same devices",
            do="write it again for these, or pass the topology that it is of",
        )


def _error(found: Measured, over: list[Violation], old: Measured | None) -> BudgetError:
    """Every excess in one message, one above the other so that figures can be compared."""
    names, most = max(len(each.name) for each in over), max(len(each.allowed) for each in over)
    lines = [f"the step on {found.where} takes more than it may, in {len(over)} figure(s):"]
    for each in over:
        lines.append(f"    {each.name:{names}}  at most {each.allowed:{most}}  got {each.got}")
        lines += [f"        {line}" for line in each.why]
    if old is not None and old.versions != found.versions:
        lines.append(
            f"    the baseline was compiled by {_versions(old)}, this by {_versions(found)}"
        )
    return BudgetError(
        "\n".join(lines),
        expected="every figure within its budget"
        + (" and not above its baseline" if old is not None else ""),
        do="undo the change that brought it; or, if it is meant, raise the budget"
        + (" and write the baseline again with write_measured" if old is not None else ""),
    )


def _versions(measured: Measured) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(measured.versions.items()))
