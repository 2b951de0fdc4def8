"""What is known of a step on a slice: memory, traffic, FLOPs, and the times that follow.

Reads from: tpu.slices.names, tpu.programs.hlo, tpu.programs.flops. Used by: the rest of the
planner.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from jaxdl.tpu.programs.flops import Flops
from jaxdl.tpu.programs.hlo import Collective
from jaxdl.tpu.slices.names import Topology

__all__ = ["Buffer", "Facts", "Memory", "Plan", "Times", "Use"]

Use = Literal["parameters", "optimizer", "average", "model state", "other state", "batch"]


@dataclass(frozen=True)
class Buffer:
    """One argument of the step, as it lies on one device.

    Attributes:
        path: such as ``params/block_0/mlp_in/kernel``.
        use: what it is for.
        shape: of the whole array.
        dtype: its type's name.
        spec: its ``PartitionSpec``, in words.
        bytes: on one device.
    """

    path: str
    use: Use
    shape: tuple[int, ...]
    dtype: str
    spec: str
    bytes: int


@dataclass(frozen=True)
class Memory:
    """Bytes on one device.

    Attributes:
        by_use: of the arguments, by what they are for.
        temporaries: activations, gradients and what else the program holds while it runs.
        code: the program itself.
        peak: the most at one time, as the compiler says; when it refuses, what it says it needs.
        available: what the compiler gives out.
        refusal: the compiler's own words when the program does not fit, else ``None``.
    """

    by_use: Mapping[Use, int]
    temporaries: int
    code: int
    peak: int
    available: int
    refusal: str | None = None

    @property
    def fits(self) -> bool:
        """Whether the compiler placed the program."""
        return self.refusal is None

    @property
    def arguments(self) -> int:
        """Bytes of the state and the batch."""
        return sum(self.by_use.values())


@dataclass(frozen=True)
class Facts:
    """What was counted or compiled.

    Attributes:
        topology: the slice.
        mesh: size of each axis, outermost first.
        layout: in words, such as ``"fsdp 256"``.
        rows: of the global batch.
        parameters: how many there are.
        memory: of one device.
        buffers: every argument, the largest first.
        collectives: every one; empty when the program does not fit.
        flops: of one step on all devices.
        attention_flops: the part of ``flops.model`` in products of two activations within causal
            attention, which its mask halves; 0 when there is none, see ``count_attention``.
        cycles: the compiler's estimate of one step's arithmetic on one device; ``None`` when it
            gave none.
        hbm_bytes: read and written by one step on one device; ``None`` when it did not compile.
        compile_seconds: wall time of tracing and compiling.
        versions: of jax, jaxlib, libtpu and jaxdl.
        program: SHA-256 of the lowered program.
        notes: what the figures leave open.
    """

    topology: Topology
    mesh: Mapping[str, int]
    layout: str
    rows: int
    parameters: int
    memory: Memory
    buffers: tuple[Buffer, ...]
    collectives: tuple[Collective, ...]
    flops: Flops
    attention_flops: int
    cycles: float | None
    hbm_bytes: int | None
    compile_seconds: float
    versions: Mapping[str, str]
    program: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Times:
    """Predicted seconds of one step on one device, at derated rates.

    Attributes:
        compute: arithmetic.
        hbm: reading and writing memory.
        ici: collectives within a slice, by mesh axes in words.
        dcn: transfers between slices.
        bound: which of them binds.
        fastest: everything overlapped: the largest of them.
        slowest: nothing overlapped: their sum.
        mfu: model FLOPs utilisation, ``(slowest, fastest)`` step, full attention.
        mfu_causal: the same, causal attention counted as its mask leaves it.
        derates: each rate that was assumed, in words.
    """

    compute: float
    hbm: float
    ici: Mapping[str, float]
    dcn: float
    bound: Literal["compute", "hbm", "ici", "dcn"]
    fastest: float
    slowest: float
    mfu: tuple[float, float]
    mfu_causal: tuple[float, float]
    derates: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class Plan:
    """A step on a slice: what it takes, and how long it should.

    Attributes:
        facts: counted or compiled.
        times: predicted; ``None`` when the program does not fit.
    """

    facts: Facts
    times: Times | None

    @property
    def fits(self) -> bool:
        """Whether the program fits the slice's memory."""
        return self.facts.memory.fits
