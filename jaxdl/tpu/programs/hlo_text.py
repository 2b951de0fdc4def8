"""The text of an optimised HLO program, taken apart: computations, instructions, shapes.

Only what the planner asks is kept. Instructions that span lines (Pallas kernels) lose their later
lines, and a computation ends at a line that is nothing but ``}``.

Reads from: errors. Used by: tpu.programs.groups, tpu.programs.loops, tpu.programs.hlo.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from jaxdl.errors import ProgramError

__all__ = ["Computation", "Instruction", "Module", "parse_module", "shape_bytes"]

_HEADER = re.compile(r"(ENTRY )?%?([^\s(]+) \(.*\{$")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%?([^\s=]+) = (.*)")
_COMMENT = re.compile(r"/\*[^*]*\*/")
_SHAPE = re.compile(r"([a-z]\w*)\[([\d,<=]*)\]")
_COUNT = re.compile(r"(?:num_partitions|replica_count)=(\d+)")
_BITS = {"pred": 8, "token": 0, "opaque": 0, "c64": 64, "c128": 128}


class Instruction(NamedTuple):
    """One line of a computation.

    Attributes:
        name: without its ``%``.
        opcode: such as ``"all-reduce"``.
        shape: the result's type as written.
        operands: names, or for a constant or parameter what stands in its brackets.
        attributes: the rest of the line.
        root: whether it is the computation's result.
    """

    name: str
    opcode: str
    shape: str
    operands: tuple[str, ...]
    attributes: str
    root: bool

    def attribute(self, name: str) -> str | None:
        """The name of a computation, or the number, that an attribute gives, if it is there.

        Args:
            name: of the attribute, such as ``"body"``.
        """
        match = re.search(rf"\b{name}=%?([\w.\-]+)", self.attributes)
        return match[1] if match else None

    def called(self) -> tuple[str, ...]:
        """The computations that it runs, but for those of a loop and of a reduction."""
        found = [self.attribute(key) for key in ("calls", "true_computation", "false_computation")]
        lists = re.findall(
            r"(?:branch_computations|called_computations)=\{([^}]*)\}", self.attributes
        )
        names = [name.strip().lstrip("%") for each in lists for name in each.split(",")]
        if self.opcode == "call":
            found.append(self.attribute("to_apply"))
        return tuple(name for name in [*found, *names] if name)


class Computation(NamedTuple):
    """A named list of instructions, in the order of the text."""

    name: str
    instructions: dict[str, Instruction]

    @property
    def root(self) -> Instruction | None:
        """The instruction that gives the result."""
        return next((each for each in self.instructions.values() if each.root), None)


class Module(NamedTuple):
    """A whole program.

    Attributes:
        computations: by name.
        entry: the name of the one that runs first.
        devices: how many devices run the program.
    """

    computations: dict[str, Computation]
    entry: str
    devices: int


def parse_module(text: str) -> Module:
    """Takes the text of a compiled program apart.

    Args:
        text: what ``jax.stages.Compiled.as_text()`` gives.

    Raises:
        ProgramError: the text has no entry computation.
    """
    computations: dict[str, Computation] = {}
    entry, current = "", None
    for line in text.splitlines():
        header = None if line[:1].isspace() else _HEADER.match(line)
        if header:
            current = computations[header[2]] = Computation(header[2], {})
            entry = header[2] if header[1] else entry
        elif line == "}":
            current = None
        elif current is not None:
            found = _instruction(line)
            if found:
                current.instructions[found.name] = found
    if not entry:
        raise ProgramError(
            "the text holds no ENTRY computation",
            expected="optimised HLO, as compiled.as_text() gives it",
            do="compile the program and pass its text",
        )
    first = text.partition("\n")[0]
    return Module(computations, entry, math.prod(int(n) for n in _COUNT.findall(first)))


def shape_bytes(shape: str) -> int:
    """Bytes of a type, the sum over the parts of a tuple; layouts and padding are left out.

    Args:
        shape: as the text has it, such as ``"(f32[8,4]{1,0}, s32[])"``.

    Raises:
        ProgramError: an element type is unknown.

    Examples:
        >>> shape_bytes("(bf16[8,4]{1,0:T(8,128)(2,1)}, s32[])")
        68
    """
    total = 0
    for dtype, sides in _SHAPE.findall(shape):
        count = math.prod(int(side.strip("<=")) for side in sides.split(",") if side)
        total += (count * _bits(dtype) + 7) // 8
    return total


def _bits(dtype: str) -> int:
    if dtype in _BITS:
        return _BITS[dtype]
    match = re.match(r"(?:bf|f|s|u)(\d+)", dtype)
    if match is None:
        raise ProgramError(
            f"the program holds arrays of the unknown type {dtype!r}",
            expected="a type of XLA, such as bf16 or s32",
            do="report it with the line of the program that holds it",
        )
    return int(match[1])


def _instruction(line: str) -> Instruction | None:
    match = _INSTRUCTION.match(_COMMENT.sub("", line) if "/*" in line else line)
    if match is None:
        return None
    rest = match[3]
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.find(" ")
    shape, rest = rest[:end], rest[end:].lstrip()
    opcode, bracket, _ = rest.partition("(")
    if not bracket or end <= 0:
        return None
    close = _closing(rest, len(opcode))
    inside = rest[len(opcode) + 1 : close]
    return Instruction(
        match[2], opcode, shape, _operands(inside), rest[close + 1 :], bool(match[1])
    )


def _closing(text: str, start: int) -> int:
    """Where the bracket that opens at ``start`` closes; the end of the text if it does not."""
    depth = 0
    for place in range(start, len(text)):
        depth += (text[place] == "(") - (text[place] == ")")
        if depth == 0:
            return place
    return len(text)


def _operands(text: str) -> tuple[str, ...]:
    """The names among operands; some versions write the type before each."""
    if "%" in text:
        return tuple(re.findall(r"%([\w.\-]+)", text))
    return tuple(part.split()[-1] for part in text.split(", ") if part.strip())
