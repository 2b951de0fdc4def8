"""What a compiled program costs one device: cycles of arithmetic, and bytes to and from its memory.

XLA's own analysis takes the body of a loop once; here every instruction counts as often as it runs.

Reads from: tpu.programs.hlo_text, tpu.programs.loops. Used by: tpu.plans.planning.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from jaxdl.tpu.programs.hlo_text import Computation, Instruction, Module, parse_module, shape_bytes
from jaxdl.tpu.programs.loops import Visit, walk

__all__ = ["Costs", "read_costs"]

_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_KERNEL = re.compile(r'custom_call_target="(tpu_custom_call|MosaicTPU)[^"]*"')
_ARRAY = re.compile(r"([a-z]\w*\[[\d,<=]*\])(?:\{([^{}]*)\})?")
_SPACE = re.compile(r"S\((\d+)\)")
# They give names to memory, or only hold what runs.
_FREE = {
    *("add-dependency", "after-all", "bitcast", "call", "conditional", "constant", "domain"),
    *("get-tuple-element", "opt-barrier", "optimization-barrier", "parameter", "partition-id"),
    *("replica-id", "tuple", "while", "async-start", "recv"),
}
# They read no more of their first operand than they give.
_SLICES = {"dynamic-slice", "gather", "slice"}
_UPDATES = {"dynamic-update-slice": 1, "scatter": 2}
_THROUGH = {"bitcast", "reshape", "copy", "convert", "transpose"}


class Costs(NamedTuple):
    """One run of a program on one device.

    Attributes:
        cycles: the compiler's estimates, added up; ``None`` when the text holds none.
        hbm_bytes: read from and written to the device's memory. Arrays that the compiler keeps in
            the core's own memory do not count, only their way there and back.
        custom_calls: how many kernels run for which the compiler estimates no cycles.
        notes: what the figures leave open.
    """

    cycles: float | None
    hbm_bytes: int
    custom_calls: int
    notes: tuple[str, ...]


def read_costs(hlo_text: str, *, everywhere: bool = False) -> Costs:
    """Adds up what a compiled program costs.

    Every instruction outside of fusions reads its operands and writes its results. A slice, also
    one within a fusion, reads what it cuts out, and an update in place touches what it replaces:
    a loop over stacked layers reads each layer once.

    Args:
        hlo_text: optimised HLO, as ``jax.stages.Compiled.as_text()`` gives it.
        everywhere: counts arrays in the core's own memory too, as XLA's "bytes accessed" does.

    Raises:
        ProgramError: the text is no HLO, or holds an array of an unknown type.
    """
    module = parse_module(hlo_text)
    cycles, total, kernels, estimated, exact = 0, 0, 0, False, True
    reading = _Reading(module, everywhere=everywhere)
    for visit in walk(module, lambda opcode: opcode not in _FREE):
        if visit.fused:
            continue
        attributes = visit.instruction.attributes
        if found := _CYCLES.search(attributes):
            cycles, estimated = cycles + int(found[1]) * visit.times, True
        elif _KERNEL.search(attributes):
            kernels += visit.times
        exact = exact and visit.exact
        total += reading.traffic(visit) * visit.times
    return Costs(float(cycles) if estimated else None, total, kernels, _notes(kernels, exact))


def _notes(kernels: int, exact: bool) -> tuple[str, ...]:
    notes: list[str] = []
    if kernels:
        notes.append(
            f"{kernels} runs of Pallas kernels carry no estimate of cycles; their FLOPs count"
        )
    if not exact:
        notes.append("a loop of unknown length counts as one iteration in cycles and memory bytes")
    return tuple(notes)


class _Reading:
    """Bytes in memory that instructions touch."""

    def __init__(self, module: Module, *, everywhere: bool = False):
        self._module, self._everywhere = module, everywhere
        self._used: dict[tuple[str, str], int | None] = {}
        self._users: dict[str, dict[str, list[Instruction]]] = {}

    def traffic(self, visit: Visit) -> int:
        """Bytes that one run of an instruction reads and writes."""
        each, known = visit.instruction, visit.computation.instructions
        if each.opcode.endswith(("-done", "-update")):
            return 0
        if each.opcode == "custom-call" and not _KERNEL.search(each.attributes):
            return 0
        if each.opcode.endswith("-start"):
            return self._started(each)
        operands = [known[name] for name in each.operands if name in known]
        if each.opcode in _SLICES:
            size = shape_bytes(each.shape)
            return size * self._resides(operands[0].shape) + self._in_memory(each.shape)
        if each.opcode in _UPDATES:
            update = operands[_UPDATES[each.opcode]]
            written = shape_bytes(update.shape) * self._resides(each.shape)
            return written + self._in_memory(update.shape)
        if each.opcode == "fusion":
            return self._fusion(each, operands)
        return sum(self._in_memory(operand.shape) for operand in operands) + self._in_memory(
            each.shape
        )

    def _started(self, each: Instruction) -> int:
        """Of an asynchronous form, whose result holds the operands beside what comes of them."""
        if each.opcode != "slice-start":
            return self._in_memory(each.shape)
        # ((operand), slice, ...): the operand is read as far as the slice goes.
        whole, part = list(_arrays(each.shape))[:2]
        return shape_bytes(part) * (self._resides(whole) + self._resides(part))

    def _fusion(self, each: Instruction, operands: list[Instruction]) -> int:
        inner = self._module.computations[each.called()[0]]
        parameters = _parameters(inner)
        total = self._written(inner, each.shape)
        for number, operand in enumerate(operands):
            size = self._in_memory(operand.shape)
            if size and number in parameters:
                used = self._read(inner, parameters[number])
                size = size if used is None else min(size, used)
            total += size
        return total

    def _read(self, inner: Computation, name: str) -> int | None:
        """Bytes of a value that a fused computation uses; ``None`` for all of them."""
        key = (inner.name, name)
        if key not in self._used:
            self._used[key] = None
            parts = [self._read_by(inner, user, name) for user in self._users_of(inner, name)]
            known = [part for part in parts if part is not None]
            self._used[key] = sum(known) if len(known) == len(parts) else None
        return self._used[key]

    def _read_by(self, inner: Computation, user: Instruction, name: str) -> int | None:
        first = user.operands[0] == name
        if user.opcode in _SLICES and first:
            return shape_bytes(user.shape)
        if (user.opcode in _UPDATES and first) or user.opcode in ("tuple", "get-tuple-element"):
            # Updated in place, or handed on.
            return 0
        if user.opcode in _THROUGH:
            return self._read(inner, user.name) if not user.root else None
        if user.opcode == "fusion":
            called = self._module.computations[user.called()[0]]
            parameters = _parameters(called)
            places = [number for number, each in enumerate(user.operands) if each == name]
            parts = [self._read(called, parameters[n]) for n in places if n in parameters]
            return None if None in parts else sum(part or 0 for part in parts)
        return None

    def _users_of(self, inner: Computation, name: str) -> list[Instruction]:
        if inner.name not in self._users:
            users: dict[str, list[Instruction]] = {}
            for each in inner.instructions.values():
                for operand in dict.fromkeys(each.operands):
                    users.setdefault(operand, []).append(each)
            self._users[inner.name] = users
        return self._users[inner.name].get(name, [])

    def _written(self, inner: Computation, shape: str) -> int:
        """Bytes that a fusion writes: of an update in place, the part that is new."""
        root = inner.root
        if root is None:
            return self._in_memory(shape)
        if root.opcode != "tuple":
            return self._result(inner, root, shape)
        parts = list(_arrays(shape))
        results = [inner.instructions.get(name) for name in root.operands]
        if len(parts) != len(results):
            return self._in_memory(shape)
        return sum(
            self._result(inner, result, part) if result else self._in_memory(part)
            for result, part in zip(results, parts, strict=True)
        )

    def _result(self, inner: Computation, result: Instruction, shape: str) -> int:
        place: Instruction | None = result
        while place and place.opcode in _THROUGH and place.operands:
            place = inner.instructions.get(place.operands[0])
        if place is None or not self._resides(shape):
            return self._in_memory(shape)
        if place.opcode in ("parameter", "get-tuple-element") and place is result:
            return 0
        if place.opcode in _UPDATES and len(place.operands) > _UPDATES[place.opcode]:
            update = inner.instructions.get(place.operands[_UPDATES[place.opcode]])
            if update is not None:
                return min(self._in_memory(shape), shape_bytes(update.shape))
        if place.opcode == "fusion":
            return self._written(self._module.computations[place.called()[0]], shape)
        return self._in_memory(shape)

    def _resides(self, array: str) -> bool:
        """Whether an array lies in the device's memory, not in the core's or the host's."""
        space = _SPACE.search(array)
        return self._everywhere or space is None or space[1] == "0"

    def _in_memory(self, shape: str) -> int:
        return sum(shape_bytes(array) for array in _arrays(shape) if self._resides(array))


def _parameters(inner: Computation) -> dict[int, str]:
    return {
        int(each.operands[0]): each.name
        for each in inner.instructions.values()
        if each.opcode == "parameter"
    }


def _arrays(shape: str) -> Iterator[str]:
    """The arrays of a type, each with its layout."""
    for match in _ARRAY.finditer(shape):
        yield match[0]
