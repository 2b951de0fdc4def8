"""How many FLOPs a function takes, counted in its jaxpr before any compile.

XLA's own count takes the body of a loop once. This one multiplies by the loop's length, and enters
calls, branches, recomputation and maps over devices. A multiplication with its addition is 2 FLOPs;
only matrix products and convolutions count, as in the formulas of the literature.

Reads from: tpu.programs.contractions. Used by: the planner.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax

from jaxdl.tpu.programs.contractions import CONTRACTIONS

__all__ = ["Flops", "count_flops", "count_jaxpr"]

_WRAPPER = re.compile(r"^\w+\((.*)\)$")
_RECOMPUTED = "rematted_computation"
_NOT_LAYERS = {"", "checkpoint", _RECOMPUTED}
_UNCOUNTED = {
    *("cholesky", "eig", "eigh", "householder_product", "lu", "qr", "schur", "svd"),
    *("fft", "ffi_call", "triangular_solve", "tridiagonal_solve"),
}


class Flops(NamedTuple):
    """FLOPs of one call on all devices together.

    Attributes:
        total: everything that is executed.
        recomputed: the part of ``total`` that ``jax.checkpoint`` computes a second time.
        by_primitive: ``total`` by JAX primitive.
        by_scope: ``total`` by the names of modules, such as ``"MLP/dense_1"``; forward and
            backward together, ``""`` for what has no name.
        notes: what the count leaves open, such as loops of unknown length.
    """

    total: int
    recomputed: int
    by_primitive: dict[str, int]
    by_scope: dict[str, int]
    notes: tuple[str, ...]

    @property
    def model(self) -> int:
        """FLOPs without recomputation: what model FLOPs utilisation (MFU) counts."""
        return self.total - self.recomputed


def count_flops(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Flops:
    """Counts the FLOPs of a function without running or compiling it.

    Of a ``cond`` the most expensive branch counts; a ``while`` counts once and leaves a note, since
    its number of iterations is known only at run time (a ``fori_loop`` with constant bounds is a
    ``scan``). A ``shard_map`` counts for all devices of its mesh.

    Args:
        fn: the function, jitted or not.
        args: its arguments, arrays or ``jax.ShapeDtypeStruct``.
        kwargs: its arguments by name.

    Examples:
        >>> import jax.numpy as jnp
        >>> x, w = (jax.ShapeDtypeStruct(s, jnp.float32) for s in [(8, 16), (16, 4)])
        >>> count_flops(jnp.dot, x, w).total
        1024
    """
    return count_jaxpr(jax.make_jaxpr(fn)(*args, **kwargs))


def count_jaxpr(program: Any) -> Flops:
    """Counts the FLOPs of a program that is traced already.

    Args:
        program: a jaxpr, from ``jax.make_jaxpr`` or as ``jax.jit(fn).trace(...).jaxpr``.
    """
    tally = _Tally()
    _walk(program, _Place(), tally)
    return Flops(
        total=sum(tally.primitives.values()),
        recomputed=tally.recomputed,
        by_primitive=dict(tally.primitives.most_common()),
        by_scope=dict(tally.scopes.most_common()),
        notes=tuple(tally.notes),
    )


@dataclass
class _Tally:
    primitives: Counter[str] = field(default_factory=Counter)
    scopes: Counter[str] = field(default_factory=Counter)
    recomputed: int = 0
    notes: dict[str, None] = field(default_factory=dict)

    def merge(self, other: _Tally) -> None:
        self.primitives.update(other.primitives)
        self.scopes.update(other.scopes)
        self.recomputed += other.recomputed
        self.notes |= other.notes


class _Place(NamedTuple):
    """Where the walk is: how often this runs, and the names around it."""

    times: int = 1
    names: tuple[str, ...] = ()

    def within(self, eqn: Any) -> _Place:
        name = str(eqn.source_info.name_stack)
        return self._replace(names=(*self.names, *(part for part in name.split("/") if part)))

    def repeated(self, times: int) -> _Place:
        return self._replace(times=self.times * times)


def _walk(program: Any, place: _Place, tally: _Tally) -> None:
    for eqn in getattr(program, "jaxpr", program).eqns:
        here, name = place.within(eqn), eqn.primitive.name
        if name in CONTRACTIONS:
            found = CONTRACTIONS[name](eqn) * here.times
            tally.primitives[name] += found
            tally.scopes[_scope(here.names)] += found
            tally.recomputed += found if _RECOMPUTED in here.names else 0
        elif name == "cond":
            branches = [_Tally() for _ in eqn.params["branches"]]
            for branch, inner in zip(eqn.params["branches"], branches, strict=True):
                _walk(branch, here, inner)
            tally.merge(max(branches, key=lambda each: each.primitives.total()))
        elif name == "while":
            _while(eqn, here, tally)
        elif name in _UNCOUNTED:
            tally.notes[f"{name} is not counted"] = None
        else:
            for inner in _programs(eqn):
                _walk(inner, here.repeated(_repeats(eqn)), tally)


def _while(eqn: Any, here: _Place, tally: _Tally) -> None:
    once = _Tally()
    _walk(eqn.params["cond_jaxpr"], here, once)
    _walk(eqn.params["body_jaxpr"], here, once)
    if once.primitives.total():
        where = _scope(here.names)
        text = "a while loop of unknown length counts as one iteration"
        once.notes[text + (f" ({where})" if where else "")] = None
    tally.merge(once)


def _programs(eqn: Any) -> Iterator[Any]:
    """The programs that an equation runs, each once."""
    # Functions with their own derivative also hold the programs of the derivative.
    values = [eqn.params["call_jaxpr"]] if "call_jaxpr" in eqn.params else eqn.params.values()
    for value in values:
        for each in value if isinstance(value, (tuple, list)) else (value,):
            if hasattr(getattr(each, "jaxpr", each), "eqns"):
                yield each


def _repeats(eqn: Any) -> int:
    """How often an equation runs its program, over its iterations or its devices."""
    match eqn.primitive.name:
        case "scan":
            return eqn.params["length"]
        case "shard_map":
            # Versions of JAX name the axes differently, and a map over all axes need not name any.
            mesh, params = eqn.params["mesh"], eqn.params
            axes = params.get("newly_manual_axes", params.get("manual_axes", mesh.axis_names))
            return math.prod(mesh.shape[axis] for axis in axes)
        case "pallas_call":
            grid = eqn.params["grid_mapping"].grid
            return math.prod(side for side in grid if isinstance(side, int))
        case _:
            return 1


def _scope(names: Sequence[str]) -> str:
    layers: list[str] = []
    for name in names:
        bare = name
        while match := _WRAPPER.match(bare):
            bare = match[1]
        if bare in _NOT_LAYERS or "<" in bare or "->" in bare:
            continue
        if bare != name and layers and bare == layers[0]:
            # Recomputed in the backward pass: the whole chain of names is written once more.
            layers = []
        layers.append(bare)
    return "/".join(layers)
