"""``plan``: a step compiled for a slice that is not there, and what that says of it.

Everything comes from the program: memory and cycles from the compiler, traffic from the compiled
text, FLOPs from the traced jaxpr. Times are predicted from those, at rates of the chips' table.

Reads from: errors, layouts, placement, protocols, tpu. Used by: tpu.changing.search, cli, and by
hand.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import math
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxdl.errors import LayoutError
from jaxdl.layouts import Layout
from jaxdl.placement import PlacedStep
from jaxdl.protocols import Batch, PyTree
from jaxdl.tpu.plans import remembering, roofline
from jaxdl.tpu.plans.compiling import compile_for_tpu, find_compiler, program_text, topology_devices
from jaxdl.tpu.plans.facts import Buffer, Facts, Memory, Plan
from jaxdl.tpu.plans.memory import buffers_of, memory_of
from jaxdl.tpu.plans.steps import abstract, placed_on, state_of
from jaxdl.tpu.programs import costs
from jaxdl.tpu.programs.attention_flops import count_attention
from jaxdl.tpu.programs.flops import Flops, count_jaxpr
from jaxdl.tpu.programs.hlo import Collective, read_collectives
from jaxdl.tpu.slices.names import Topology, parse_topology

__all__ = ["layout_in_words", "plan"]

_UNUSED_DONATION = "Some donated buffers were not usable"


def plan(
    step: Any,
    batch: Batch,
    topology: str | Topology,
    *,
    layout: Layout | None = None,
    state: PyTree = None,
    fresh: bool = False,
) -> Plan:
    """What a train step takes on a TPU slice, and how long it should: no TPU is needed or touched.

    The step is compiled by the TPU compiler itself (libtpu, ``pip install 'jaxdl[tpu]'``) for
    devices that are only described. Nothing is allocated and nothing runs. It takes about half a
    minute, whatever the size of the slice; an equal program is not compiled twice, its plan is
    remembered in the data folder.

    Args:
        step: a placed step, whose devices do not matter; a ``TrainStep``; or any function
            ``(state, batch) -> (state, metrics)``, whose state is donated.
        batch: arrays or ``jax.ShapeDtypeStruct`` of the GLOBAL batch, the one of all hosts.
        topology: such as ``"v5e-256"`` or ``"2x v5p-128"``, see ``parse_topology``.
        layout: where arrays lie; the placed step's own, else ``data_parallel()``, when ``None``.
        state: the state's arrays or ``jax.ShapeDtypeStruct``; needed for a plain function only.
        fresh: compile again even if the plan of an equal program is remembered.

    Returns:
        A ``Plan``. A program that does not fit the memory is a plan too: ``plan.fits`` tells.

    Raises:
        PlanError: there is no libtpu, or it does not take the program.
        ConfigError: the topology does not exist, or ``step`` is none of the three.
        LayoutError: the layout does not fit the slice, or the batch or the state the layout.
        ProgramError: the compiled program cannot be read.
    """
    target = parse_topology(topology) if isinstance(topology, str) else topology
    begin = time.perf_counter()
    versions = _versions()
    placed = placed_on(step, topology_devices(target), layout)
    traced = _traced(placed, abstract(batch), state)
    key = {
        "program": traced.program,
        "topology": str(target),
        "layout": layout_in_words(placed),
        "buffers": [list(map(str, each)) for each in map(_fields, traced.buffers)],
        "versions": versions,
        "planner": _planner(),
    }
    if not fresh and (known := remembering.recall(key)) is not None:
        return known
    compiled = compile_for_tpu(traced.lowered)
    found = Plan(_facts(placed, traced, compiled, target, versions, begin), None)
    if found.fits:
        found = Plan(found.facts, roofline.predict(found.facts))
    remembering.keep(key, found)
    return found


def layout_in_words(placed: PlacedStep) -> str:
    """Such as ``"fsdp 256"``, ``"data 16 x fsdp 16"`` or ``"zero1, data 8"``.

    Args:
        placed: a step on its mesh.
    """
    axes = " x ".join(f"{name} {size}" for name, size in placed.mesh.shape.items())
    return f"zero1, {axes}" if placed.layout.sharded == "optimizer" else axes


class _Traced(NamedTuple):
    """A step before it is compiled."""

    lowered: jax.stages.Lowered
    program: str
    buffers: tuple[Buffer, ...]
    rows: int
    flops: Flops
    attention: int


def _traced(placed: PlacedStep, batch: Batch, state: PyTree) -> _Traced:
    batch = placed.put(batch)
    state = state_of(placed, batch, state)
    try:
        with warnings.catch_warnings():
            # Which leaves it concerns is read from the compiled program.
            warnings.filterwarnings("ignore", message=_UNUSED_DONATION)
            traced = placed.trace(state, batch)
            lowered = traced.lower()
    except ValueError as error:
        raise _as_layout_error(error) from error
    flops = count_jaxpr(traced.jaxpr)
    return _Traced(
        lowered,
        hashlib.sha256(lowered.as_text().encode()).hexdigest(),
        buffers_of(state, batch),
        jax.tree.leaves(batch)[0].shape[0],
        flops,
        min(count_attention(traced.jaxpr), flops.model),
    )


def _facts(
    placed: PlacedStep,
    traced: _Traced,
    compiled: jax.stages.Compiled | str,
    topology: Topology,
    versions: Mapping[str, str],
    begin: float,
) -> Facts:
    memory = memory_of(compiled, traced.buffers, topology.chip)
    collectives: tuple[Collective, ...] = ()
    cycles, hbm_bytes, notes = None, None, list(traced.flops.notes)
    if not isinstance(compiled, str):
        text = program_text(compiled)
        collectives = read_collectives(text)
        read = costs.read_costs(text)
        cycles, hbm_bytes = read.cycles, read.hbm_bytes
        notes += [*read.notes, *_padding(compiled, memory), *_held_twice(compiled, traced.buffers)]
    mesh = dict(placed.mesh.shape)
    if math.prod(mesh.values()) != topology.devices:
        notes.append(f"the mesh takes {math.prod(mesh.values())} of {topology.devices} devices")
    parameters = (each for each in traced.buffers if each.use == "parameters")
    return Facts(
        topology=topology,
        mesh=mesh,
        layout=layout_in_words(placed),
        rows=traced.rows,
        parameters=sum(math.prod(each.shape) for each in parameters),
        memory=memory,
        buffers=traced.buffers,
        collectives=collectives,
        flops=traced.flops,
        attention_flops=traced.attention,
        cycles=cycles,
        hbm_bytes=hbm_bytes,
        compile_seconds=time.perf_counter() - begin,
        versions=versions,
        program=traced.program,
        notes=tuple(dict.fromkeys(notes)),
    )


def _fields(buffer: Buffer) -> tuple[Any, ...]:
    return buffer.path, buffer.use, buffer.shape, buffer.dtype, buffer.spec


def _padding(compiled: jax.stages.Compiled, memory: Memory) -> list[str]:
    """The compiler lays arrays out in tiles, which small and narrow ones do not fill."""
    analysis: Any = compiled.memory_analysis()
    extra = int(analysis.argument_size_in_bytes) - memory.arguments
    if extra <= 0.01 * memory.arguments:
        return []
    return [f"tiles add {extra:,} bytes to the {memory.arguments:,} of the arguments"]


def _held_twice(compiled: jax.stages.Compiled, buffers: tuple[Buffer, ...]) -> list[str]:
    """A leaf of the state that is not given back as it came lies beside its successor."""
    analysis: Any = compiled.memory_analysis()
    state = sum(each.bytes for each in buffers if each.use != "batch")
    lost = state - int(analysis.alias_size_in_bytes)
    if lost <= 0:
        return []
    told = "are not given back with their shape, dtype and sharding: they lie there twice"
    return [f"{lost:,} of the state's {state:,} bytes {told}"]


def _as_layout_error(error: ValueError) -> ValueError:
    """JAX's words for an array that does not divide, as the library's; other errors as they are."""
    told = str(error)
    if isinstance(error, LayoutError) or "divisible" not in told:
        return error
    line = next(each.strip() for each in told.splitlines() if "divisible" in each)
    return LayoutError(
        f"an array of the step does not divide over the mesh: {line}",
        expected="sizes that are multiples of the axes they are divided over",
        do="change that size (such as the number of heads), or the mesh axis",
    )


@functools.cache
def _planner() -> str:
    """Of this package's own code, which reads what the compiler says."""
    text = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    return hashlib.sha256(text).hexdigest()


def _versions() -> dict[str, str]:
    named = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "jaxdl")}
    return {**named, "libtpu": find_compiler().version}
