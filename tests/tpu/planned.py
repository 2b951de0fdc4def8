"""Plans that a test makes up, for what is done with plans."""

from __future__ import annotations

from dataclasses import replace

from jaxdl.tpu import parse_topology
from jaxdl.tpu.plans.facts import Buffer, Facts, Memory, Plan, Times
from jaxdl.tpu.programs.flops import Flops
from jaxdl.tpu.programs.hlo import Collective

GIB = 2**30
AVAILABLE = 16 * GIB


def flops(total: int = 1000) -> Flops:
    return Flops(total, 0, {}, {}, ())


def planned(
    needed: int,
    *,
    topology: str = "v5e-16",
    rows: int = 64,
    seconds: tuple[float, float] = (1.0, 2.0),
    collectives: tuple[Collective, ...] = (),
    buffers: tuple[Buffer, ...] = (),
    total: int = 1000,
) -> Plan:
    """A plan that needs so many bytes; refused when that is more than there are."""
    refusal = f"needs {needed}" if needed > AVAILABLE else None
    facts = Facts(
        topology=parse_topology(topology),
        mesh={"data": 16},
        layout="data 16",
        rows=rows,
        parameters=1,
        memory=Memory({"parameters": 1}, needed - 1, 0, needed, AVAILABLE, refusal),
        buffers=buffers,
        collectives=() if refusal else collectives,
        flops=flops(total),
        attention_flops=0,
        cycles=None,
        hbm_bytes=None,
        compile_seconds=1.0,
        versions={"jax": "1"},
        program="",
    )
    times = Times(1.0, 0.0, {}, 0.0, "compute", *seconds, (0.5, 0.5), (0.5, 0.5))
    return Plan(facts, None if refusal else times)


def faster(plan: Plan, seconds: tuple[float, float]) -> Plan:
    times = replace(plan.times, fastest=seconds[0], slowest=seconds[1])
    return replace(plan, times=times)
