"""What a compiled program sends between devices: every collective, its bytes, how often it runs.

The text of optimised HLO has traps, each of which gave a wrong number once: a reduce-scatter that
libtpu writes as an all-reduce inside a computation of that name, one gather that stands in several
fusions while it is under way, loops without a count, four spellings of the groups.

Reads from: tpu.programs.hlo_text, tpu.programs.groups, tpu.programs.loops. Used by: the planner.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal, NamedTuple, TypeGuard

from jaxdl.tpu.programs.groups import between_slices, first_group
from jaxdl.tpu.programs.hlo_text import Instruction, Module, parse_module, shape_bytes
from jaxdl.tpu.programs.loops import Visit, walk

__all__ = ["Collective", "Traffic", "read_collectives", "summarize"]

_KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
    "send",
)
_OPCODES = {*_KINDS, *(f"{kind}-start" for kind in _KINDS)}
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_CHAIN = re.compile(r'chain_id="(\d+)"')
_LAYOUT = re.compile(r"\{[^{}]*\}")


class Collective(NamedTuple):
    """One collective of a program, as often as it runs.

    Attributes:
        kind: such as ``"all-reduce"``; a ``"send"`` goes from one device to one other.
        bytes: of the whole array in one run of it: what an all-gather makes, what a
            reduce-scatter takes.
        group_size: how many devices take part together.
        times: how often one run of the program executes it.
        wire_bytes: what one device sends in all these runs, when the devices pass it on in a ring.
        op_name: the user's operation that it stems from, or ``""``.
        group: the first group of devices, as numbers of partitions.
        shapes: of its operands, on one device.
        exact: ``False`` inside a loop whose iterations are not known; they count as one.
        network: ``"ici"`` inside a slice, ``"dcn"`` between slices.
    """

    kind: str
    bytes: int
    group_size: int
    times: int
    wire_bytes: int
    op_name: str
    group: tuple[int, ...]
    shapes: tuple[str, ...]
    exact: bool = True
    network: Literal["ici", "dcn"] = "ici"


class Traffic(NamedTuple):
    """All collectives of a kind.

    Attributes:
        times: how many are executed.
        bytes: the sum of ``bytes * times``.
        wire_bytes: what one device sends.
    """

    times: int
    bytes: int
    wire_bytes: int


def read_collectives(text: str) -> tuple[Collective, ...]:
    """Every collective of a compiled program, the largest traffic first.

    Args:
        text: optimised HLO, as ``jax.stages.Compiled.as_text()`` gives it.

    Raises:
        ProgramError: the text is no HLO, or groups or types are written in an unknown way.
    """
    module = parse_module(text)
    single: list[Collective] = []
    # While it is under way, an asynchronous collective stands in several fusions: it starts in one,
    # is carried through others (or a whole loop), and ends in one. It runs as often as the rarest.
    # The channel alone does not tell: unrolled layers share one. A reduce-scatter is whole.
    fused: dict[object, Collective] = {}
    for visit in walk(module, _OPCODES.__contains__):
        found = _collective(module, visit)
        if found is None:
            continue
        channel = visit.instruction.attribute("channel_id")
        if not visit.fused or channel is None or _is_scatter(visit):
            single.append(found)
            continue
        chain = _CHAIN.search(visit.instruction.attributes)
        key = (found.kind, channel, chain and chain[1], found.bytes, found.group, found.op_name)
        if key not in fused or found.times < fused[key].times:
            fused[key] = found
    return tuple(sorted([*single, *fused.values()], key=lambda each: -each.wire_bytes))


def summarize(collectives: Iterable[Collective]) -> dict[str, Traffic]:
    """The traffic by kind, the largest first; between slices as ``"all-reduce over dcn"``.

    Args:
        collectives: what ``read_collectives`` gives.
    """
    sums: dict[str, Traffic] = {}
    for each in collectives:
        name = each.kind if each.network == "ici" else f"{each.kind} over {each.network}"
        old = sums.get(name, Traffic(0, 0, 0))
        sums[name] = Traffic(
            old.times + each.times,
            old.bytes + each.bytes * each.times,
            old.wire_bytes + each.wire_bytes,
        )
    return dict(sorted(sums.items(), key=lambda item: -item[1].wire_bytes))


def _collective(module: Module, visit: Visit) -> Collective | None:
    """What an instruction sends, or ``None`` when it sends to the host."""
    each = visit.instruction
    kind, network = each.opcode.removesuffix("-start"), "ici"
    if kind == "send" and (between := between_slices(each.attributes)):
        (kind, group), network = between, "dcn"
    elif "is_host_transfer=true" in each.attributes:
        return None
    else:
        group = first_group(each.attributes, module.devices)[: 2 if kind == "send" else None]
    if kind == "all-reduce" and _is_scatter(visit):
        kind = "reduce-scatter"
    shapes = _operand_shapes(visit)
    size = max(len(group), 1)
    whole = sum(shape_bytes(shape) for shape in shapes) * (size if kind == "all-gather" else 1)
    return Collective(
        kind=kind,
        bytes=whole,
        group_size=size,
        times=visit.times,
        wire_bytes=_wire_bytes(kind, whole, size) * visit.times,
        op_name=_origin(visit),
        group=group,
        shapes=tuple(_LAYOUT.sub("", shape) for shape in shapes),
        exact=visit.exact,
        network=network,
    )


def _is_scatter(visit: Visit) -> bool:
    return visit.computation.name.startswith("all-reduce-scatter")


def _operand_shapes(visit: Visit) -> list[str]:
    """Types of what is sent: results would not do, those of ``-start`` forms hold the input too."""
    known = visit.computation.instructions
    kind = visit.instruction.opcode
    operands = visit.instruction.operands
    # The rest are offsets and sizes, or a token.
    sent = operands[:1] if kind.startswith(("ragged", "send")) else operands
    return [known[name].shape for name in sent if name in known]


def _wire_bytes(kind: str, whole: int, size: int) -> int:
    """What one device of ``size`` sends of an array of ``whole`` bytes."""
    if size == 1:
        return 0
    if kind in ("collective-permute", "collective-broadcast", "send"):
        return whole
    rounds = 2 if kind == "all-reduce" else 1
    return round(rounds * whole * (size - 1) / size)


def _origin(visit: Visit) -> str:
    """The operation that a collective stems from: its own name, its fusion's, or its operand's."""
    around = [visit.caller] if visit.caller and visit.fused else []
    place: Instruction | None = visit.instruction
    for _ in range(4):
        # What the compiler adds for itself has no name; what it works on has.
        place = visit.computation.instructions.get(place.operands[0]) if _operates(place) else None
        around += [place] if place else []
    names = (_OP_NAME.search(each.attributes) for each in (visit.instruction, *around))
    return next((name[1] for name in names if name), "")


def _operates(place: Instruction | None) -> TypeGuard[Instruction]:
    return place is not None and bool(place.operands) and place.opcode != "parameter"
