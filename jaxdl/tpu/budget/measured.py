"""What a budget is held against: a step's memory, traffic and FLOPs, on a slice or right here.

Reads from: errors, layouts, placement, protocols, the rest of the planner. Used by:
tpu.budget.budgets.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from jaxdl.errors import ConfigError
from jaxdl.layouts import Layout
from jaxdl.protocols import Batch, PyTree
from jaxdl.tpu.plans import encoding
from jaxdl.tpu.plans.facts import Buffer, Plan
from jaxdl.tpu.plans.memory import buffers_of
from jaxdl.tpu.plans.planning import plan
from jaxdl.tpu.plans.steps import abstract, placed_on, state_of
from jaxdl.tpu.programs.flops import count_jaxpr
from jaxdl.tpu.programs.hlo import Collective, read_collectives
from jaxdl.tpu.slices.names import Topology

__all__ = ["Measured", "measure", "measured_of", "read_measured", "write_measured"]


@dataclass(frozen=True)
class Measured:
    """What one step takes.

    Attributes:
        where: the slice, or the devices of this machine.
        peak: bytes on one device.
        refusal: the compiler's words when the program does not fit, else ``None``.
        collectives: every one; none when the program does not fit.
        flops: executed by one step on all devices, recomputation included.
        seconds: predicted, ``(fastest, slowest)``; ``None`` where nothing is predicted.
        buffers: every argument.
        versions: of what compiled it.
    """

    where: str
    peak: int
    refusal: str | None
    collectives: tuple[Collective, ...]
    flops: int
    seconds: tuple[float, float] | None
    buffers: tuple[Buffer, ...]
    versions: Mapping[str, str]


def measured_of(found: Plan) -> Measured:
    """What a plan says.

    Args:
        found: the plan.
    """
    facts, times = found.facts, found.times
    name, slices = facts.topology.name, facts.topology.num_slices
    return Measured(
        where=f"{slices}x {name}" if slices > 1 else name,
        peak=facts.memory.peak,
        refusal=facts.memory.refusal,
        collectives=facts.collectives,
        flops=facts.flops.total,
        seconds=None if times is None else (times.fastest, times.slowest),
        buffers=facts.buffers,
        versions=facts.versions,
    )


def measure(
    step: Any,
    batch: Batch,
    *,
    topology: str | Topology | None = None,
    layout: Layout | None = None,
    state: PyTree = None,
) -> Measured:
    """Compiles a step for a slice, or for the devices of this machine; runs nothing.

    Args:
        step: as for ``plan``.
        batch: the global batch, arrays or ``jax.ShapeDtypeStruct``.
        topology: the slice; the present devices when ``None``, for which no TPU compiler is needed.
            Collectives and bytes are then those of this backend's program.
        layout: as for ``plan``.
        state: as for ``plan``.

    Raises:
        PlanError: there is no TPU compiler, or it does not take the program.
        ConfigError: the topology does not exist, or ``step`` is no train step.
        LayoutError: the layout does not fit the devices.
    """
    if topology is not None:
        return measured_of(plan(step, batch, topology, layout=layout, state=state))
    own = getattr(getattr(step, "mesh", None), "devices", None)
    devices = jax.devices() if own is None else list(own.flat)
    placed = placed_on(step, devices, layout)
    batch = placed.put(abstract(batch))
    state = state_of(placed, batch, state)
    traced = placed.trace(state, batch)
    compiled = traced.lower().compile()
    device = placed.mesh.devices.flat[0]
    return Measured(
        where=f"{placed.mesh.devices.size} x {device.platform}",
        peak=_peak(compiled),
        refusal=None,
        collectives=read_collectives(compiled.as_text() or ""),
        flops=count_jaxpr(traced.jaxpr).total,
        seconds=None,
        buffers=buffers_of(state, batch),
        versions={"jax": jax.__version__},
    )


def write_measured(measured: Measured, path: str | Path) -> None:
    """Keeps what was measured as a baseline, in JSON.

    Args:
        measured: what ``assert_budget`` returned.
        path: of the file.
    """
    plain = dataclasses.asdict(measured)
    plain["collectives"] = [each._asdict() for each in measured.collectives]
    Path(path).write_text(json.dumps({"measured": plain}, indent=1) + "\n")


def read_measured(path: str | Path) -> Measured:
    """Reads a baseline: what ``write_measured`` wrote, or the JSON of a plan.

    Args:
        path: of the file.

    Raises:
        ConfigError: there is no such file, or it is neither.
    """
    try:
        found = json.loads(Path(path).read_text())
        if "measured" not in found:
            return measured_of(encoding.from_json(found))
        plain: dict[str, Any] = found["measured"]
        seconds = plain["seconds"]
        return Measured(
            where=plain["where"],
            peak=plain["peak"],
            refusal=plain["refusal"],
            collectives=tuple(Collective(**_tuples(each)) for each in plain["collectives"]),
            flops=plain["flops"],
            seconds=None if seconds is None else (seconds[0], seconds[1]),
            buffers=tuple(Buffer(**_tuples(each)) for each in plain["buffers"]),
            versions=plain["versions"],
        )
    except FileNotFoundError as error:
        raise ConfigError(
            f"there is no baseline {path}",
            expected="a file of write_measured, or the JSON of `jaxdl plan`",
            do="write it once: write_measured(assert_budget(step, batch, ...), path)",
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path} is no baseline: {type(error).__name__}: {error}",
            expected="a file of write_measured, or the JSON of `jaxdl plan`",
            do="write it again with this version",
        ) from error


def _peak(compiled: jax.stages.Compiled) -> int:
    """Bytes at one time. Of a CPU program the compiler's own peak leaves temporaries out."""
    analysis: Any = compiled.memory_analysis()
    told = int(getattr(analysis, "peak_memory_in_bytes", 0) or 0)
    held = analysis.argument_size_in_bytes + analysis.output_size_in_bytes
    return max(told, held - analysis.alias_size_in_bytes + analysis.temp_size_in_bytes)


def _tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
