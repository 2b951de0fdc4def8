"""Seconds of one step, from what was counted and the rates of the chips' table.

Four things take time: arithmetic, the device's memory, links within a slice, the network between
slices. A step takes at least the longest of them, when all overlap, and at most their sum.

Reads from: tpu.plans.facts, tpu.slices.hardware, tpu.programs.hlo, tpu.programs.mesh_axes,
tpu.slices.names, tpu.programs.rings. Used by: tpu.plans.planning, tpu.plans.analytic.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from jaxdl.tpu.plans.facts import Facts, Times
from jaxdl.tpu.programs.hlo import Collective
from jaxdl.tpu.programs.mesh_axes import axes_of
from jaxdl.tpu.programs.rings import HOP_SECONDS, Torus
from jaxdl.tpu.slices.hardware import DERATES, Chip, Figure
from jaxdl.tpu.slices.names import Topology

__all__ = ["DERATED", "NOMINAL", "Rates", "Sent", "Work", "predict", "sent"]

_POINT_TO_POINT = ("collective-permute", "send")


class Work(NamedTuple):
    """What one step has to do; ``Facts`` without what takes no time.

    Attributes:
        topology: the slice.
        mesh: size of each axis, outermost first.
        executed: FLOPs on all devices, recomputation included.
        model: FLOPs on all devices without recomputation, attention in full.
        attention: the part of ``model`` that causal masks halve.
        cycles: the compiler's estimate for one device; ``None`` when there is none.
        hbm_bytes: read and written by one device; ``None`` when not known.
        collectives: every one.
    """

    topology: Topology
    mesh: Mapping[str, int]
    executed: float
    model: float
    attention: float
    cycles: float | None
    hbm_bytes: float | None
    collectives: Sequence[Collective]

    @classmethod
    def of(cls, facts: Facts) -> Work:
        """The work of a step that was compiled.

        Args:
            facts: of the step.
        """
        return cls(
            facts.topology,
            facts.mesh,
            float(facts.flops.total),
            float(facts.flops.model),
            float(facts.attention_flops),
            facts.cycles,
            None if facts.hbm_bytes is None else float(facts.hbm_bytes),
            facts.collectives,
        )

    @property
    def devices(self) -> int:
        """How many devices the mesh takes."""
        return math.prod(self.mesh.values()) if self.mesh else self.topology.devices


@dataclass(frozen=True)
class Rates:
    """What share of the nominal rates is reached.

    Attributes:
        matmul: of the peak FLOP/s.
        hbm: of the memory's bytes/s.
        ici: of ``Chip.axis_bandwidth``.
        sources: where each comes from, in words.
        hop_seconds: what one hop of a collective takes at least.
    """

    matmul: float
    hbm: float
    ici: float
    sources: Mapping[str, str]
    hop_seconds: float = HOP_SECONDS


def _lower(name: str, pair: tuple[Figure, Figure]) -> tuple[str, float, str]:
    least = min(pair, key=lambda each: each.value)
    return name, least.value, least.source


_DERATES = [
    _lower("matmul", DERATES.matmul),
    _lower("hbm", DERATES.hbm),
    _lower("ici", DERATES.ici),
]
DERATED = Rates(
    **{name: value for name, value, _ in _DERATES},
    sources={name: source for name, _, source in _DERATES},
)
"""The lower of what large operations were measured to reach: ``jaxdl.tpu.DERATES``."""
NOMINAL = Rates(1.0, 1.0, 1.0, dict.fromkeys(("matmul", "hbm", "ici"), "nominal"), hop_seconds=0.0)
"""What the chips' pages print, for a bound that no run can beat."""


def predict(facts: Facts | Work, rates: Rates = DERATED) -> Times:
    """The seconds of one step.

    * Arithmetic: the executed FLOPs at the derated bf16 peak, or the compiler's cycles over the
      chip's clock when that is longer. The cycles of a fusion also hold what it waits for memory.
    * Memory: bytes over the derated bandwidth.
    * Links: for each collective the bytes that a device sends (``V (n-1)/n`` of the whole array
      ``V`` for all-gather and reduce-scatter, twice that for all-reduce) over what it can send
      along the torus axes that its group spans; at least a microsecond for each hop.
    * Between slices: the bytes that a device sends over its share of the network.

    Args:
        facts: of the step.
        rates: shares of the nominal rates.
    """
    work = Work.of(facts) if isinstance(facts, Facts) else facts
    chip = work.topology.chip
    peak = chip.device_peak_flops
    compute, compute_words = _compute(work, peak, rates)
    hbm = (work.hbm_bytes or 0) / (chip.device_hbm_bandwidth * rates.hbm)
    ici, dcn = dict[str, float](), 0.0
    for row in sent(work, rates):
        if row.network == "dcn":
            dcn += row.seconds
        else:
            ici[row.axes] = ici.get(row.axes, 0.0) + row.seconds
    parts: dict[Literal["compute", "hbm", "ici", "dcn"], float] = {
        "compute": compute,
        "hbm": hbm,
        "ici": sum(ici.values(), 0.0),
        "dcn": dcn,
    }
    fastest, slowest = max(parts.values()), sum(parts.values())
    causal = work.model - work.attention / 2
    return Times(
        compute=compute,
        hbm=hbm,
        ici=ici,
        dcn=dcn,
        bound=max(parts, key=lambda name: parts[name]),
        fastest=fastest,
        slowest=slowest,
        mfu=(_mfu(work.model, work, slowest), _mfu(work.model, work, fastest)),
        mfu_causal=(_mfu(causal, work, slowest), _mfu(causal, work, fastest)),
        derates={"compute": compute_words, **_words(work, rates)},
    )


def _mfu(flops: float, work: Work, seconds: float) -> float:
    if seconds <= 0:
        return 0.0
    return flops / (work.devices * work.topology.chip.device_peak_flops * seconds)


def _compute(work: Work, peak: float, rates: Rates) -> tuple[float, str]:
    counted = work.executed / work.devices / (peak * rates.matmul)
    words = (
        f"{rates.matmul:.0%} of {peak / 1e12:,.0f} TFLOP/s, the bf16 peak of a device "
        f"({rates.sources['matmul']})"
    )
    clock = work.topology.chip.clock
    if work.cycles is None or clock is None:
        missing = "the compiler gives no cycles" if work.cycles is None else "no clock is known"
        return counted, f"{words}; {missing}"
    waiting = work.cycles / clock.value
    said = f"the compiler's {work.cycles:,.0f} cycles at {clock.value / 1e9:g} GHz ({clock.source})"
    if waiting > counted:
        return waiting, f"{said}; by FLOPs alone {counted * 1e3:,.2f} ms at {words}"
    return counted, f"{words}; {said} give less, {waiting * 1e3:,.2f} ms"


class Sent(NamedTuple):
    """The collectives of a kind over the same mesh axes, in one step.

    Attributes:
        kind: such as ``"all-gather"``.
        network: ``"ici"`` within a slice, ``"dcn"`` between slices.
        axes: the mesh axes, in words.
        times: how many are executed.
        bytes: of the whole arrays, as often as they are sent.
        wire_bytes: what one device sends.
        seconds: what they take when nothing else runs.
    """

    kind: str
    network: Literal["ici", "dcn"]
    axes: str
    times: int
    bytes: int
    wire_bytes: int
    seconds: float


def sent(facts: Facts | Work, rates: Rates = DERATED) -> tuple[Sent, ...]:
    """The traffic of a step, what takes longest first.

    Args:
        facts: of the step.
        rates: shares of the nominal rates.
    """
    work = Work.of(facts) if isinstance(facts, Facts) else facts
    torus = Torus.of(work.topology, work.mesh)
    found: dict[tuple[str, Literal["ici", "dcn"], str], list[Collective]] = {}
    for each in itertools.chain.from_iterable(_in_slices(c, torus) for c in work.collectives):
        if each.wire_bytes:
            axes = " x ".join(axes_of(each, work.mesh)) or "no mesh axis"
            found.setdefault((each.kind, each.network, axes), []).append(each)
    rows = [
        Sent(
            *key,
            sum(each.times for each in alike),
            sum(each.bytes * each.times for each in alike),
            sum(each.wire_bytes for each in alike),
            _between(alike, work.topology.chip) if key[1] == "dcn" else _links(alike, torus, rates),
        )
        for key, alike in found.items()
    ]
    return tuple(sorted(rows, key=lambda row: -row.seconds))


def _in_slices(each: Collective, torus: Torus) -> list[Collective]:
    """A collective whose group spans slices as two: within each slice, and between them.

    libtpu writes them so itself. Between slices a device then sends a part of the whole.
    """
    places = torus.places(each.group) if each.network == "ici" else []
    slices = len({place[0] for place in places})
    if slices < 2:
        return [each]
    if each.kind not in ("all-gather", "all-reduce", "reduce-scatter"):
        return [each._replace(network="dcn")]
    inside = [n for n, p in zip(each.group, places, strict=True) if p[0] == places[0][0]]
    across = [n for n, p in zip(each.group, places, strict=True) if p[1:] == places[0][1:]]
    rounds = 2 if each.kind == "all-reduce" else 1

    def part(size: float, group: list[int], network: Literal["ici", "dcn"]) -> Collective:
        count = max(1, len(group))
        wire = round(rounds * size * (count - 1) / count) * each.times
        return each._replace(
            bytes=round(size),
            wire_bytes=wire,
            group_size=count,
            group=tuple(group),
            network=network,
        )

    return [part(float(each.bytes), inside, "ici"), part(each.bytes / len(inside), across, "dcn")]


def _between(collectives: Sequence[Collective], chip: Chip) -> float:
    share = chip.dcn_bandwidth.value / chip.devices_per_chip
    return sum(each.wire_bytes for each in collectives) / share


def _links(collectives: Sequence[Collective], torus: Torus, rates: Rates) -> float:
    """Seconds of collectives of a kind over the same mesh axes, one after the other."""
    if collectives[0].kind not in _POINT_TO_POINT:
        return sum(_ring(each, torus, rates) for each in collectives)
    one_way = torus.topology.chip.axis_bandwidth.value / 2 * rates.ici
    far = {group: torus.hops(group) for group in {each.group for each in collectives}}
    hops = sum(far[each.group] * each.times for each in collectives)
    return max(torus.busiest(collectives) / one_way, hops * rates.hop_seconds)


def _ring(each: Collective, torus: Torus, rates: Rates) -> float:
    links = torus.links(each.group)
    once = each.wire_bytes / max(1, each.times)
    rounds = 2 if each.kind == "all-reduce" else 1
    if each.kind.endswith("all-to-all"):
        # Half of what a ring's devices hold crosses its middle; on the longest axis, most.
        seconds = max(once / links.bandwidth, each.bytes * links.longest / 4 / links.slowest)
    else:
        seconds = once / links.bandwidth
    return each.times * max(seconds / rates.ici, rounds * links.hops * rates.hop_seconds)


def _words(work: Work, rates: Rates) -> dict[str, str]:
    chip: Chip = work.topology.chip
    peak = chip.device_peak_flops / 1e12
    found = {
        "hbm": f"{rates.hbm:.0%} of {chip.device_hbm_bandwidth / 1e9:,.0f} GB/s of a device "
        f"({rates.sources['hbm']})"
        + ("" if work.hbm_bytes is not None else "; the bytes are not known"),
        "ici": f"{rates.ici:.0%} of the {chip.axis_bandwidth.value / 1e9:,.0f} GB/s that a chip "
        f"sends along one wrapped axis, half of it without wrap ({rates.sources['ici']}); at least "
        f"{rates.hop_seconds * 1e6:g} us a hop",
        "mfu": f"against {peak:,.0f} TFLOP/s, the bf16 peak of each of {work.devices} devices; "
        "recomputation takes time and does not count",
    }
    if work.topology.num_slices > 1:
        share = chip.dcn_bandwidth.value / 1e9
        found["dcn"] = f"{share:,.2f} GB/s a chip, as printed ({chip.dcn_bandwidth.source})"
    return found
