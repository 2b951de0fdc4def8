"""How often each part of a compiled program runs: loops counted, calls followed.

XLA on CPU and GPU writes the number of iterations beside a loop. libtpu does not: it follows from
the condition's bound, from the step that the body takes (2 where the loop was unrolled by 2) and
from the first value, any of which may be carried through outer loops.

Reads from: tpu.programs.hlo_text. Used by: tpu.programs.hlo.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from jaxdl.tpu.programs.hlo_text import Computation, Instruction, Module

__all__ = ["Visit", "walk"]

_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_SAME = {"copy", "bitcast", "convert", "reshape", "copy-start", "copy-done", "optimization-barrier"}
_FLIPPED = {"LT": "GT", "LE": "GE", "GT": "LT", "GE": "LE", "NE": "NE"}

Path = tuple[int, ...]


class _Carried(NamedTuple):
    """What a loop carries at a place of its tuple, plus a constant."""

    place: int
    plus: int = 0


Value = int | _Carried | None


@dataclass(frozen=True)
class _Frame:
    """A computation as it is called from one place.

    Attributes:
        computation: what runs.
        argument: the value of an argument, given its number and a path into its tuple.
    """

    computation: Computation
    argument: Callable[[int, Path], Value]


class Visit(NamedTuple):
    """One instruction as it is reached from the program's start.

    Attributes:
        instruction: the line.
        computation: where it stands.
        times: how often one run of the program executes it.
        exact: ``False`` inside a loop whose iterations are not known; they count as one.
        fused: whether it stands in a fusion.
        caller: what calls its computation, unless that is the entry.
    """

    instruction: Instruction
    computation: Computation
    times: int
    exact: bool
    fused: bool
    caller: Instruction | None


class _Call(NamedTuple):
    frame: _Frame
    times: int = 1
    exact: bool = True
    fused: bool = False
    caller: Instruction | None = None


def walk(module: Module, wanted: Callable[[str], bool]) -> Iterator[Visit]:
    """Every wanted instruction, once for each way that leads to it.

    Each branch of a conditional counts as if it were taken.

    Args:
        module: the program.
        wanted: whether an opcode is.
    """
    holding = _holding(module, wanted)
    start = _Frame(module.computations[module.entry], lambda number, path: None)
    todo = [_Call(start)]
    while todo:
        call = todo.pop()
        for each in call.frame.computation.instructions.values():
            if wanted(each.opcode):
                yield Visit(each, call.frame.computation, *call[1:])
            todo += [
                inner
                for inner in _calls(module, call, each)
                if inner.frame.computation.name in holding
            ]


def _holding(module: Module, wanted: Callable[[str], bool]) -> set[str]:
    """The computations that reach a wanted instruction."""
    callers: dict[str, set[str]] = {}
    found: list[str] = []
    for name, computation in module.computations.items():
        for each in computation.instructions.values():
            if wanted(each.opcode):
                found.append(name)
            inner = (*each.called(), each.attribute("body"), each.attribute("condition"))
            for called in inner if each.opcode == "while" else each.called():
                callers.setdefault(called or "", set()).add(name)
    held: set[str] = set()
    while found:
        name = found.pop()
        if name not in held:
            held.add(name)
            found += callers.get(name, ())
    return held


def _calls(module: Module, call: _Call, each: Instruction) -> list[_Call]:
    if each.opcode == "while":
        loop = _Loop(module, call.frame, each)
        trips = loop.trips()
        times, exact = (
            call.times * (1 if trips is None else trips),
            call.exact and trips is not None,
        )
        return [_Call(f, times, exact, call.fused, each) for f in (loop.body, loop.condition)]
    if each.opcode.endswith(("-done", "-update")):
        return []
    fused = call.fused or each.opcode == "fusion"
    frames = [_called(module, call.frame, each, name) for name in each.called()]
    return [_Call(f, call.times, call.exact, fused, each) for f in frames]


def _called(module: Module, frame: _Frame, each: Instruction, name: str) -> _Frame:
    def argument(number: int, path: Path) -> Value:
        known = number < len(each.operands)
        return _value(module, frame, each.operands[number], path) if known else None

    return _Frame(module.computations[name], argument)


class _Loop:
    """A ``while`` in its frame."""

    def __init__(self, module: Module, frame: _Frame, loop: Instruction):
        self._module, self._frame, self._loop = module, frame, loop
        body, condition = loop.attribute("body"), loop.attribute("condition")
        self._body = module.computations[body or ""]
        self.body = _Frame(self._body, self._argument)
        self.condition = _Frame(module.computations[condition or ""], self._argument)

    def first(self, path: Path) -> Value:
        """A carried value before the first iteration."""
        return _value(self._module, self._frame, self._loop.operands[0], path)

    def keeps(self, place: int) -> bool:
        """Whether every iteration hands on what it was given at that place."""
        blank = _Frame(self._body, lambda _, path: _Carried(path[0]) if len(path) == 1 else None)
        return _result(self._module, blank, (place,)) == _Carried(place)

    def _argument(self, _: int, path: Path) -> Value:
        if not path:
            return None
        if self.keeps(path[0]):
            first = self.first(path)
            return first if isinstance(first, int) else None
        return _Carried(path[0]) if len(path) == 1 else None

    def trips(self) -> int | None:
        """The number of iterations, or ``None`` where the text does not tell."""
        written = _TRIPS.search(self._loop.attributes)
        if written:
            return int(written[1])
        root = self.condition.computation.root
        test = _comparison(self._module, self.condition, root.name) if root else None
        if test is None:
            return None
        left, right, direction = test
        if isinstance(right, _Carried):
            left, right, direction = right, left, _FLIPPED.get(direction, "")
        if not isinstance(left, _Carried) or not isinstance(right, int):
            return None
        after = _result(self._module, self.body, (left.place,))
        first = self.first((left.place,))
        if not isinstance(after, _Carried) or not isinstance(first, int):
            return None
        step = after.plus if after.place == left.place else 0
        return _iterations(first + left.plus, right, step, direction)


def _iterations(first: int, bound: int, step: int, direction: str) -> int | None:
    if direction == "NE":
        direction = "LT" if step > 0 else "GT"
    if direction in ("GT", "GE"):
        first, bound, step = -first, -bound, -step
    if direction in ("LE", "GE"):
        bound += 1
    if step <= 0 or direction not in _FLIPPED:
        return None
    return max(0, -(-(bound - first) // step))


def _result(module: Module, frame: _Frame, path: Path) -> Value:
    root = frame.computation.root
    return _value(module, frame, root.name, path) if root else None


def _comparison(module: Module, frame: _Frame, name: str) -> tuple[Value, Value, str] | None:
    each = frame.computation.instructions[name]
    if each.opcode == "compare":
        left, right = (_value(module, frame, operand, ()) for operand in each.operands)
        return left, right, each.attribute("direction") or ""
    if each.opcode in _SAME:
        return _comparison(module, frame, each.operands[0])
    if each.opcode in ("fusion", "call"):
        inner = _called(module, frame, each, each.called()[0])
        root = inner.computation.root
        return _comparison(module, inner, root.name) if root else None
    return None


def _value(module: Module, frame: _Frame, name: str, path: Path) -> Value:
    """What is known of a value, at a path into it when it is a tuple."""
    each = frame.computation.instructions.get(name)
    if each is None:
        return None
    match each.opcode:
        case "constant":
            return int(each.operands[0]) if re.fullmatch(r"-?\d+", each.operands[0]) else None
        case "parameter":
            return frame.argument(int(each.operands[0]), path)
        case "get-tuple-element":
            place = int(each.attribute("index") or 0)
            return _value(module, frame, each.operands[0], (place, *path))
        case "tuple":
            return _value(module, frame, each.operands[path[0]], path[1:]) if path else None
        case "add" | "subtract":
            left, right = (_value(module, frame, operand, ()) for operand in each.operands)
            return _sum(left, right, 1 if each.opcode == "add" else -1)
        case "fusion" | "call":
            return _result(module, _called(module, frame, each, each.called()[0]), path)
        case "while":
            loop = _Loop(module, frame, each)
            return loop.first(path) if path and loop.keeps(path[0]) else None
        case opcode:
            return _value(module, frame, each.operands[0], path) if opcode in _SAME else None


def _sum(left: Value, right: Value, sign: int) -> Value:
    if isinstance(left, int) and isinstance(right, _Carried) and sign > 0:
        left, right = right, left
    if not isinstance(right, int) or left is None:
        return None
    if isinstance(left, _Carried):
        return _Carried(left.place, left.plus + sign * right)
    return left + sign * right
