"""Which parameters a collective moves: by its shapes, and by the module that its operation names.

A compiled program does not name the arrays of the state. A collective has the shapes of what it
sends, and the name of one operation that it stems from; where several were merged into one, the
name of the first. What these leave open is said, not guessed.

Reads from: tpu.plans.facts, tpu.programs.hlo. Used by: tpu.budget.budgets.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from jaxdl.tpu.plans.facts import Buffer
from jaxdl.tpu.programs.hlo import Collective

__all__ = ["Origin", "origin_of"]

_OPERAND = re.compile(r"(\w+)\[([\d,]*)\]")
_BITS = re.compile(r"\d+$")
_SHOWN = 3


class Origin(NamedTuple):
    """What a collective moves.

    Attributes:
        paths: of every parameter that it may be, the ones it surely is when ``sure``.
        sure: whether exactly these parameters are moved.
        words: the same in words.
    """

    paths: tuple[str, ...]
    sure: bool
    words: str


def origin_of(collective: Collective, buffers: Iterable[Buffer]) -> Origin:
    """Finds the parameters whose values or gradients a collective moves.

    An array matches a parameter when it has its elements: of the whole, of the part on one device,
    of the parts of the collective's group together, or of one layer of a scanned stack. Of several
    that match, those stay whose module the operation's name has in it, and of these the ones with
    exactly its shape.

    Args:
        collective: one of ``read_collectives``.
        buffers: the step's arguments, as ``Facts.buffers``.
    """
    parameters = [each for each in buffers if each.use == "parameters"]
    scope = _scope(collective.op_name)
    moved = [_moved(collective, shape) for shape in collective.shapes]
    moved = [shape for shape in moved if math.prod(shape) > 1]
    if len(moved) == 1:
        found = _narrowed(_alike(moved[0], parameters, collective), moved[0], scope)
        return _one(collective, found)
    matches = [_alike(shape, parameters, collective) for shape in moved]
    for place, (found, shape) in enumerate(zip(matches, moved, strict=True)):
        exact = [each for each in found if _same_shape(each.shape, shape)]
        matches[place] = exact or found
    return _several(collective, matches)


def _moved(collective: Collective, shape: str) -> tuple[int, ...]:
    """Dimensions of what is sent, ones left out; of an all-gather, with the group as the first."""
    match = _OPERAND.match(shape)
    sides = [int(side) for side in match[2].split(",") if side] if match else []
    group = [collective.group_size] if collective.kind == "all-gather" else []
    return tuple(side for side in (*group, *sides) if side != 1)


def _alike(
    moved: Sequence[int], parameters: Sequence[Buffer], collective: Collective
) -> list[Buffer]:
    size = math.prod(moved)
    return [each for each in parameters if size in _sizes(each, collective)]


def _sizes(buffer: Buffer, collective: Collective) -> set[int]:
    """Elements that a collective of a parameter may send."""
    whole, bits = math.prod(buffer.shape), _BITS.search(buffer.dtype)
    own = buffer.bytes * 8 // int(bits[0]) if bits else whole
    sizes = {whole, own}
    if collective.kind == "all-gather":
        sizes.add(own * collective.group_size)
    # A scan sends one layer of a stacked parameter in each iteration.
    layers = buffer.shape[0] if len(buffer.shape) > 1 else 1
    if collective.times > 1:
        sizes |= {size // layers for size in sizes if size % layers == 0}
    return sizes


def _narrowed(
    found: list[Buffer], moved: tuple[int, ...], scope: Sequence[str]
) -> tuple[list[Buffer], bool]:
    """Those in the operation's module, then those of its shape; and whether the module told."""
    depths = [_depth(each.path, scope) for each in found]
    deepest = max(depths, default=0)
    named = [each for each, depth in zip(found, depths, strict=True) if depth == deepest > 0]
    exact = [each for each in named or found if _same_shape(each.shape, moved)]
    return exact or named or found, bool(named)


def _depth(path: str, scope: Sequence[str]) -> int:
    """How many modules the path has, when the operation's name has all of them; else 0."""
    modules = path.split("/")[1:-1]
    rest = iter(scope)
    return len(modules) if modules and all(name in rest for name in modules) else 0


def _same_shape(shape: Sequence[int], moved: Sequence[int]) -> bool:
    """Whether the sides are the same, or become so when the first of ``moved`` joins another."""
    sides = [side for side in shape if side != 1]
    if list(moved) == sides or list(moved) == sides[1:]:
        return True
    first, rest = moved[0], list(moved[1:])
    joined = [[*rest[:i], first * rest[i], *rest[i + 1 :]] for i in range(len(rest))]
    return any(each in (sides, sides[1:]) for each in joined)


def _one(collective: Collective, narrowed: tuple[list[Buffer], bool]) -> Origin:
    found, named = narrowed
    paths = tuple(each.path for each in found)
    if not found:
        where = "/".join(_scope(collective.op_name)[-3:]) or "an operation without a name"
        return Origin((), True, f"no parameter: {collective.shapes[0]} at {where}")
    what = _what(collective)
    if len(found) == 1:
        sure = "" if named else ", by its shape alone"
        return Origin(paths, named, f"{what} {_described(found[0])}{sure}")
    names = _list(paths)
    return Origin(paths, False, f"{what} one of {len(found)} that match: {names}")


def _several(collective: Collective, matches: Sequence[Sequence[Buffer]]) -> Origin:
    """Of merged collectives: every parameter, where as many were sent as match."""
    paths = tuple(dict.fromkeys(each.path for match in matches for each in match))
    sent = sum(1 for match in matches if match)
    what = _what(collective)
    if not paths:
        counted = f"{len(matches)} arrays merged" if matches else "single numbers"
        return Origin((), True, f"no parameter: {counted}, {_sides(collective)}")
    others = len(matches) - sent
    rest = f", and {others} arrays of no parameter" if others else ""
    if sent == len(paths):
        return Origin(paths, True, f"{what} {sent} parameters in one: {_list(paths)}{rest}")
    among = f"{sent} of {len(paths)}" if sent < len(paths) else f"{sent} arrays, {len(paths)}"
    words = f"{what} {among} that match, in one: {_list(paths)}{rest}"
    return Origin(paths, False, words)


def _what(collective: Collective) -> str:
    backwards, forwards = "transpose(" in collective.op_name, "jvp(" in collective.op_name
    if collective.kind in ("all-reduce", "reduce-scatter"):
        return "gradient of" if backwards else "sum for"
    named = {"all-gather": "gather", "all-to-all": "exchange"}.get(collective.kind, "transfer")
    when = "backwards" if backwards else "forwards" if forwards else "elsewhere"
    return f"{named} ({when}) of"


def _scope(op_name: str) -> list[str]:
    """The modules of an operation's name; ``transpose(jvp(GPT))`` is ``GPT``."""
    names = [re.sub(r"^(?:\w+\()+|\)+$", "", name) for name in op_name.split("/")]
    return [part for name in names for part in name.split(".")]


def _described(buffer: Buffer) -> str:
    short = buffer.dtype.replace("float", "f")
    return f"{buffer.path} {short}[{','.join(map(str, buffer.shape))}]"


def _list(paths: Sequence[str]) -> str:
    more = len(paths) - _SHOWN
    return ", ".join(paths[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _sides(collective: Collective) -> str:
    return ", ".join(collective.shapes[:_SHOWN])
