"""What a traced step does with its keys: which draws use which key, and what each depends on.

A value is known by two things: a number, equal for values that are computed alike from equal
values, and the set of the step's inputs that it depends on. Both go through calls and loops.

Reads from: nothing of jaxdl. Used by: testing.subject, testing.randomness,
testing.learning.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

__all__ = ["Draw", "Flow", "Value", "flow_of"]

_ONE = {"random_bits", "random_split"}
# A raw key and the typed key made of it are one.
_SAME = {"random_wrap", "random_unwrap"}
_SMALL = 64


class Value(NamedTuple):
    """What is known of a value.

    Attributes:
        number: equal for equal computations.
        inputs: bit ``i`` is set when it depends on input ``i``, and the bit after the last one when
            it depends on the place along a mapped axis.
        loops: the loops within which it changes from one round to the next.
        draws: bit ``i`` is set when it depends on draw ``i``.
    """

    number: int
    inputs: int = 0
    loops: frozenset[int] = frozenset()
    draws: int = 0


class Draw(NamedTuple):
    """One use of a key.

    Attributes:
        kind: ``"random_bits"`` or ``"random_split"``.
        key: the key.
        result: the number of what was drawn.
        loops: the loops around it.
        branches: ``(conditional, branch)`` around it; two branches never both run.
        equations: the chain of equations around it, itself last.
        implementation: of the generator, such as ``"fry"`` or ``"rbg"``.
    """

    kind: str
    key: Value
    result: int
    loops: frozenset[int]
    branches: frozenset[tuple[int, int]]
    equations: tuple[Any, ...]
    implementation: str


class Flow(NamedTuple):
    """A step's draws, and what each of its outputs depends on.

    Attributes:
        draws: in the order of the program.
        outputs: one a leaf.
        inputs: the values that stand for the step's arguments.
        place: the bit of the place along a mapped axis.
    """

    draws: list[Draw]
    outputs: list[Value]
    inputs: list[Value]
    place: int


def flow_of(closed: Any) -> Flow:
    """Follows a closed jaxpr.

    Args:
        closed: as ``jax.make_jaxpr`` gives it.
    """
    place = 1 << len(closed.jaxpr.invars)
    walk = _Walk(place)
    inputs = [Value(walk.fresh(), 1 << i) for i in range(len(closed.jaxpr.invars))]
    outputs = walk.run(closed.jaxpr, [walk.constant(c) for c in closed.consts], inputs)
    used = 0
    for value in outputs:
        used |= value.draws
    # What nothing reads is not in the compiled program.
    live = [draw for index, draw in enumerate(walk.draws) if used >> index & 1]
    return Flow(live, outputs, inputs, place)


class _Walk:
    def __init__(self, place: int) -> None:
        self._place = place
        self.draws: list[Draw] = []
        self._numbers: dict[Any, int] = {}
        self._recording = True
        self._loops: frozenset[int] = frozenset()
        self._branches: frozenset[tuple[int, int]] = frozenset()
        self._chain: tuple[Any, ...] = ()

    def fresh(self) -> int:
        return self.number(object())

    def number(self, key: Any) -> int:
        return self._numbers.setdefault(key, len(self._numbers))

    def constant(self, value: Any) -> Value:
        small = isinstance(value, np.ndarray | np.generic | jax.Array) and value.size <= _SMALL
        if small and not jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            host = np.asarray(value)
            return Value(self.number(("constant", str(host.dtype), host.shape, host.tobytes())))
        return Value(self.number(("constant", id(value))))

    def run(self, jaxpr: Any, consts: Sequence[Value], inputs: Sequence[Value]) -> list[Value]:
        """The values of a jaxpr's outputs."""
        known: dict[Any, Value] = {}
        known.update(zip(jaxpr.constvars, consts, strict=True))
        known.update(zip(jaxpr.invars, inputs, strict=True))

        def read(atom: Any) -> Value:
            if isinstance(atom, core.Literal):
                return self.constant(np.asarray(atom.val))
            return known[atom]

        around = self._chain
        for eqn in jaxpr.eqns:
            self._chain = (*around, eqn)
            values = [read(atom) for atom in eqn.invars]
            known.update(zip(eqn.outvars, self._equation(eqn, values), strict=True))
        self._chain = around
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(self, eqn: Any, values: list[Value]) -> list[Value]:
        name = eqn.primitive.name
        if name == "scan":
            return self._scan(eqn, values)
        if name == "while":
            return self._while(eqn, values)
        if name == "cond":
            return self._cond(eqn, values)
        inner = _called(eqn)
        if inner is not None:
            return self._call(inner, values)
        outputs = self._plain(eqn, values)
        if name == "axis_index":
            outputs = [value._replace(inputs=value.inputs | self._place) for value in outputs]
        if name in _SAME:
            outputs = [outputs[0]._replace(number=values[0].number)]
        if name == "random_fold_in":
            # A number that tells keys apart is no draw, were it drawn.
            outputs = [value._replace(draws=values[0].draws) for value in outputs]
        if name in _ONE and self._recording:
            key = values[0]
            bit = 1 << len(self.draws)
            outputs = [value._replace(draws=value.draws | bit) for value in outputs]
            self.draws.append(
                Draw(
                    name,
                    key,
                    outputs[0].number,
                    self._loops,
                    self._branches,
                    self._chain,
                    str(eqn.invars[0].aval.dtype),
                )
            )
        return outputs

    def _plain(self, eqn: Any, values: list[Value]) -> list[Value]:
        inputs, loops, draws = _united(values)
        pure = not eqn.effects and not any(True for _ in core.jaxprs_in_params(eqn.params))
        how = (eqn.primitive.name, _written(eqn.params)) if pure else (object(), "")
        numbers = tuple(value.number for value in values)
        return [
            Value(self.number((*how, numbers, index)), inputs, loops, draws)
            for index in range(len(eqn.outvars))
        ]

    def _call(self, inner: Any, values: list[Value]) -> list[Value]:
        jaxpr, consts = _opened(inner)
        return self.run(jaxpr, [self.constant(c) for c in consts], values)

    def _scan(self, eqn: Any, values: list[Value]) -> list[Value]:
        count, carried = _scan_parts(eqn)
        consts, start, rows = values[:count], values[count:][:carried], values[count + carried :]
        return self._loop(eqn.params["jaxpr"], consts, start, rows)

    def _while(self, eqn: Any, values: list[Value]) -> list[Value]:
        skipped, count = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
        consts, start = values[skipped : skipped + count], values[skipped + count :]
        ends = self._loop(eqn.params["body_jaxpr"], consts, start, [])
        # It may make no round, and end with what it was given.
        return [
            end._replace(inputs=end.inputs | first.inputs, draws=end.draws | first.draws)
            for end, first in zip(ends, start, strict=True)
        ]

    def _loop(
        self, body: Any, consts: list[Value], start: list[Value], rows: list[Value]
    ) -> list[Value]:
        loop = self.fresh()

        def varying(value: Value) -> Value:
            return value._replace(number=self.fresh(), loops=value.loops | {loop})

        carry, rows = [varying(v) for v in start], [varying(v) for v in rows]
        recording, self._recording = self._recording, False
        after = self._call(body, [*consts, *carry, *rows])
        self._recording = recording
        # What each round hands on as it came is one value in all of them.
        still = [a.number == c.number for a, c in zip(after, carry, strict=False)]
        carry = [s if same else c for same, s, c in zip(still, start, carry, strict=True)]
        outputs = self._settled(loop, body, consts, carry, rows)
        return [
            start[index]
            if index < len(still) and still[index]
            else v._replace(number=self.fresh(), loops=v.loops - {loop})
            for index, v in enumerate(outputs)
        ]

    def _settled(
        self,
        loop: int,
        body: Any,
        consts: list[Value],
        carry: list[Value],
        rows: list[Value],
    ) -> list[Value]:
        """A body's outputs once what its carry depends on grows no more; draws are noted then."""
        recording, outer = self._recording, self._loops
        self._recording, self._loops = False, outer | {loop}
        while True:
            outputs = self._call(body, [*consts, *carry, *rows])
            grown = [
                Value(c.number, c.inputs | o.inputs, c.loops | o.loops, c.draws | o.draws)
                for c, o in zip(carry, outputs, strict=False)
            ]
            if grown == carry:
                break
            carry = grown
        self._recording = recording
        outputs = self._call(body, [*consts, *carry, *rows])
        self._loops = outer
        return outputs

    def _cond(self, eqn: Any, values: list[Value]) -> list[Value]:
        which, outer = self.fresh(), self._branches
        results: list[list[Value]] = []
        for index, branch in enumerate(eqn.params["branches"]):
            self._branches = outer | {(which, index)}
            results.append(self._call(branch, values[1:]))
        self._branches = outer
        return [
            Value(self.fresh(), *_united([values[0], *each])) for each in zip(*results, strict=True)
        ]


def _scan_parts(eqn: Any) -> tuple[int, int]:
    """How many constants and how many carried values a scan has; its rows come after them.

    Read off the shapes, since the names of a scan's parameters are another in JAX 0.11.
    """
    body = _opened(eqn.params["jaxpr"])[0]

    def whole(outer: Any, inner: Any) -> bool:
        return outer.aval.shape == inner.aval.shape

    carried = sum(map(whole, eqn.outvars, body.outvars))
    unchanged = sum(map(whole, eqn.invars, body.invars))
    return unchanged - carried, carried


def _united(values: Sequence[Value]) -> tuple[int, frozenset[int], int]:
    inputs, loops, draws = 0, frozenset[int](), 0
    for value in values:
        inputs |= value.inputs
        loops |= value.loops
        draws |= value.draws
    return inputs, loops, draws


def _written(params: dict[str, Any]) -> str:
    return repr(sorted((name, repr(value)) for name, value in params.items()))


def _opened(inner: Any) -> tuple[Any, Sequence[Any]]:
    closed = isinstance(inner, core.ClosedJaxpr)
    return (inner.jaxpr, inner.consts) if closed else (inner, ())


def _called(eqn: Any) -> Any:
    """The one jaxpr that an equation calls with its own arguments, or ``None``."""
    found = [
        value for value in eqn.params.values() if isinstance(value, core.ClosedJaxpr | core.Jaxpr)
    ]
    fits = [
        inner
        for inner in found
        if len(_opened(inner)[0].invars) == len(eqn.invars)
        and len(_opened(inner)[0].outvars) == len(eqn.outvars)
        and (isinstance(inner, core.ClosedJaxpr) or not inner.constvars)
    ]
    return fits[0] if fits else None
