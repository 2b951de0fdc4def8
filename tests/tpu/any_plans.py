"""Plans of nothing in particular, for tests."""

from __future__ import annotations

import math

from jaxdl.tpu.plans.facts import Buffer, Facts, Memory, Plan
from jaxdl.tpu.plans.roofline import predict
from jaxdl.tpu.programs.flops import Flops
from jaxdl.tpu.programs.hlo import Collective
from jaxdl.tpu.slices.names import parse_topology

GIB = 2**30


def collective(kind="all-reduce", size=1 << 30, group=(0, 1), times=1, network="ici"):
    """A collective whose wire bytes follow from its kind."""
    share = (len(group) - 1) / len(group)
    wire = {"all-reduce": 2 * size * share, "collective-permute": size}.get(kind, size * share)
    shapes = (f"f32[{size // 4}]",)
    return Collective(
        kind,
        size,
        len(group),
        times,
        round(wire) * times,
        "op",
        tuple(group),
        shapes,
        True,
        network,
    )


def facts(topology="v5e-16", mesh=None, collectives=(), flops=1_000, refusal=None, **other):
    """Facts of a step."""
    slices = parse_topology(topology)
    memory = Memory(
        {"parameters": 3 * GIB, "optimizer": 6 * GIB, "batch": 4096},
        2 * GIB,
        1 << 20,
        int(27.44 * GIB) if refusal else 11 * GIB,
        int(15.75 * GIB),
        refusal,
    )
    buffers = tuple(
        Buffer(f"params/block_{n}/kernel", "parameters", (1024, 64), "float32", "P('fsdp')", 1 << n)
        for n in range(14, 0, -1)
    )
    count = Flops(flops, flops // 4, {"dot_general": flops}, {"GPT": flops}, ())
    known = {
        "topology": slices,
        "mesh": mesh or {"data": slices.devices},
        "layout": "fsdp",
        "rows": 64,
        "parameters": 124_439_808,
        "memory": memory,
        "buffers": buffers,
        "collectives": tuple(collectives),
        "flops": count,
        "attention_flops": flops // 10,
        "cycles": None,
        "hbm_bytes": 0,
        "compile_seconds": 31.4,
        "versions": {"jax": "0.10.2", "libtpu": "0.0.42.1"},
        "program": "ab" * 32,
    }
    return Facts(**{**known, **other})


def planned(**given):
    """A plan of such facts."""
    known = facts(**given)
    return Plan(known, predict(known) if known.memory.fits else None)


def groups(mesh, axis):
    """The first group along an axis of a mesh, as partitions are numbered."""
    sizes = list(mesh.values())
    place = list(mesh).index(axis)
    step = math.prod(sizes[place + 1 :])
    return tuple(range(0, step * sizes[place], step))
