"""A JAX program evaluated equation by equation, with an eye on every value.

This is the interpreter of JAX's guide "Writing custom Jaxpr interpreters". Calls, ``scan``,
``while`` and ``cond`` are entered, so that each primitive is seen alone; what else has a program
inside (``shard_map``, custom kernels) runs whole.

Reads from: replay.rows, replay.trail. Used by: replay.nonfinite.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from jaxdl.replay.rows import bad_rows, follow_rows
from jaxdl.replay.trail import Node, Trail, bad_entries, summarize

__all__ = ["Interpreter", "Scope", "Value"]


class Value(NamedTuple):
    """A value of the program and what is known of it.

    Attributes:
        data: the array, or whatever else JAX computes with.
        node: its number on the trail, or ``None`` when it is finite.
        rows: the batch rows that its leading axes stand for, or ``None``; see ``replay.rows``.
    """

    data: Any
    node: int | None = None
    rows: np.ndarray | None = None


class Scope(NamedTuple):
    """Where in the program an equation is.

    Attributes:
        rows: the batch rows that a batch axis stands for here, or ``None``.
        equations: the equations around it, outermost first.
        iterations: of the loops around it, outermost first.
    """

    rows: np.ndarray | None = None
    equations: tuple[Any, ...] = ()
    iterations: tuple[int, ...] = ()

    def within(self, eqn: Any) -> Scope:
        """The inside of an equation.

        Args:
            eqn: the equation.
        """
        return self._replace(equations=(*self.equations, eqn))

    def iteration(self, number: int, pieces: Iterable[np.ndarray | None] = ()) -> Scope:
        """One iteration of a loop.

        Args:
            number: of the iteration, from 0.
            pieces: the rows of what it takes of each array that the loop runs over.
        """
        known = [rows for rows in pieces if rows is not None and rows.ndim <= 1]
        rows = known[0] if known else self.rows
        return self._replace(rows=rows, iterations=(*self.iterations, number))


class Interpreter:
    """Runs programs and keeps a trail of their non-finite values.

    Attributes:
        trail: the non-finite values so far.
    """

    def __init__(self) -> None:
        self.trail = Trail()
        self._uses: dict[int, tuple[Any, list[list[Any]]]] = {}

    def run(self, program: Any, inputs: Sequence[Value], scope: Scope) -> list[Value]:
        """Evaluates a program, letting go of each value after its last use.

        Args:
            program: a ``Jaxpr``, closed or without constants.
            inputs: one value an input.
            scope: where the program is.
        """
        jaxpr = getattr(program, "jaxpr", program)
        constants = getattr(program, "consts", ())
        known = {
            variable: self._constant(data, variable, scope)
            for variable, data in zip(jaxpr.constvars, constants, strict=True)
        }
        known |= dict(zip(jaxpr.invars, inputs, strict=True))

        def read(atom: Any) -> Value:
            if isinstance(atom, Literal):
                return self._constant(atom.val, atom, scope)
            return known[atom]

        for eqn, done in zip(jaxpr.eqns, self._last_uses(jaxpr), strict=True):
            outputs = self._equation(eqn, [read(v) for v in eqn.invars], scope.within(eqn))
            known.update(zip(eqn.outvars, outputs, strict=True))
            for variable in done:
                del known[variable]
        return [read(v) for v in jaxpr.outvars]

    def _last_uses(self, jaxpr: Any) -> list[list[Any]]:
        """For each equation the variables that nothing after it reads."""
        # The program is kept with its answer, so that its id stays its own.
        _, uses = self._uses.setdefault(id(jaxpr), (jaxpr, []))
        if not uses:
            last: dict[Any, int] = {}
            for index, eqn in enumerate(jaxpr.eqns):
                read = [v for v in eqn.invars if not isinstance(v, Literal)]
                last |= dict.fromkeys([*read, *eqn.outvars], index)
            kept = {v for v in jaxpr.outvars if not isinstance(v, Literal)}
            uses.extend([] for _ in jaxpr.eqns)
            for variable, index in last.items():
                if variable not in kept:
                    uses[index].append(variable)
        return uses

    def _equation(self, eqn: Any, inputs: list[Value], scope: Scope) -> list[Value]:
        outputs = self._inside(eqn, inputs, scope)
        return self._bound(eqn, inputs, scope) if outputs is None else outputs

    def _inside(self, eqn: Any, inputs: list[Value], scope: Scope) -> list[Value] | None:
        """The outputs of an equation that holds a program, or ``None`` when it is to run whole."""
        match eqn.primitive.name:
            case "jit" | "pjit" | "remat" | "remat2" | "checkpoint":
                return self._call(eqn.params.get("jaxpr"), inputs, scope)
            case "closed_call" | "core_call" | "custom_jvp_call" | "custom_vjp_call":
                return self._call(eqn.params.get("call_jaxpr"), inputs, scope)
            case "cond":
                return self._cond(eqn, inputs, scope)
            case "scan":
                return self._scan(eqn, inputs, scope)
            case "while":
                return self._while(eqn, inputs, scope)
            case _:
                return None

    def _bound(self, eqn: Any, inputs: list[Value], scope: Scope) -> list[Value]:
        bind_params = eqn.primitive.get_bind_params(eqn.params)
        functions, params = bind_params if isinstance(bind_params, tuple) else ((), bind_params)
        results = eqn.primitive.bind(*functions, *[v.data for v in inputs], **params)
        results = results if eqn.primitive.multiple_results else [results]
        return [self._made(data, inputs, scope) for data in results]

    def _made(self, data: Any, inputs: Sequence[Value], scope: Scope) -> Value:
        """What an equation made of its inputs, put on the trail when it is not finite."""
        eqn = scope.equations[-1]
        one = inputs[0] if len(inputs) == 1 else Value(None)
        rows = follow_rows(eqn.primitive.name, eqn.params, one.rows, np.shape(data))
        found = bad_entries(data)
        if found is None:
            return Value(data, None, rows)
        kind, bad = found
        parents = self.trail.explain(kind, _taken(eqn, inputs))
        nodes = [self.trail.nodes[n] for n in parents]
        if len(inputs) == 1 and nodes and (nodes[0].source, nodes[0].kind) == ("constant", kind):
            # A constant that was only broadcast or cast is the constant still.
            return Value(data, parents[0], rows)
        telling = all(node.kind == "inf" or node.source == "constant" for node in nodes)
        node = Node(
            source="equation",
            kind=kind,
            shape=bad.shape,
            dtype=str(data.dtype),
            count=int(bad.sum()),
            rows=bad_rows(bad, scope.rows),
            parents=parents,
            equations=scope.equations,
            iterations=scope.iterations,
            operands=summarize([v.data for v in inputs], data) if telling else (),
        )
        return Value(data, self.trail.add(node), rows)

    def _constant(self, data: Any, atom: Any, scope: Scope) -> Value:
        found = bad_entries(data)
        if found is None:
            return Value(data)
        (kind, bad), dtype = found, str(atom.aval.dtype)
        node = Node("constant", kind, bad.shape, dtype, int(bad.sum()), equations=scope.equations)
        return Value(data, self.trail.add(node))

    def _call(self, program: Any, inputs: list[Value], scope: Scope) -> list[Value] | None:
        jaxpr = getattr(program, "jaxpr", program)
        fits = len(getattr(jaxpr, "invars", ())) == len(inputs)
        return self.run(program, inputs, scope) if fits and jaxpr is not None else None

    def _cond(self, eqn: Any, inputs: list[Value], scope: Scope) -> list[Value]:
        branches = eqn.params["branches"]
        index = min(max(int(inputs[0].data), 0), len(branches) - 1)
        return self.run(branches[index], inputs[1:], scope)

    def _while(self, eqn: Any, inputs: list[Value], scope: Scope) -> list[Value] | None:
        params = eqn.params
        test, body = params["cond_jaxpr"], params["body_jaxpr"]
        if getattr(test, "jaxpr", test).outvars[0].aval.shape:
            return None
        split = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
        tested, used, carry = inputs[: split[0]], inputs[split[0] : split[1]], inputs[split[1] :]
        number = 0
        while bool(self.run(test, [*tested, *carry], scope.iteration(number))[0].data):
            carry = self.run(body, [*used, *carry], scope.iteration(number))
            number += 1
        return carry

    def _scan(self, eqn: Any, inputs: list[Value], scope: Scope) -> list[Value] | None:
        program, length = eqn.params["jaxpr"], eqn.params["length"]
        body = getattr(program, "jaxpr", program)
        if not length or len(body.outvars) != len(eqn.outvars):
            return None
        consts, carried = _scan_parts(eqn, body)
        used, carry, arrays = inputs[:consts], inputs[consts:][:carried], inputs[consts:][carried:]
        collected: list[list[Value]] = [[] for _ in eqn.outvars[carried:]]
        order = range(length)
        for number in reversed(order) if eqn.params["reverse"] else order:
            pieces = [self._piece(array, number, scope) for array in arrays]
            inner = scope.iteration(number, [piece.rows for piece in pieces])
            outputs = self.run(program, [*used, *carry, *pieces], inner)
            carry = outputs[:carried]
            for column, value in zip(collected, outputs[carried:], strict=True):
                column.append(value)
        columns = [column[::-1] if eqn.params["reverse"] else column for column in collected]
        return [*carry, *(self._stacked(column, scope) for column in columns)]

    def _piece(self, array: Value, number: int, scope: Scope) -> Value:
        data = jax.lax.dynamic_index_in_dim(array.data, number, keepdims=False)
        rows = None if array.rows is None else array.rows[number]
        node = None if array.node is None else self._made(data, [array], scope).node
        return Value(data, node, rows if rows is None else np.asarray(rows))

    def _stacked(self, column: list[Value], scope: Scope) -> Value:
        return self._made(jnp.stack([v.data for v in column]), column, scope)


def _taken(eqn: Any, inputs: Sequence[Value]) -> list[int]:
    """The non-finite inputs that may reach the output: of a selection, only what it selects."""
    if eqn.primitive.name != "select_n":
        return [v.node for v in inputs if v.node is not None]
    which = np.asarray(jax.device_get(inputs[0].data))
    taken: list[int] = []
    for number, value in enumerate(inputs[1:]):
        found = bad_entries(value.data)
        if value.node is not None and found is not None and (found[1] & (which == number)).any():
            taken.append(value.node)
    return taken


def _scan_parts(eqn: Any, body: Any) -> tuple[int, int]:
    """How many constants a scan has, and how many carried values.

    JAX 0.10 and 0.11 say it in different parameters. In both, what is scanned over has one axis
    more outside of the body than in it.
    """

    def scanned(outer: Sequence[Any], inner: Sequence[Any]) -> int:
        pairs = zip(outer, inner, strict=True)
        return sum(len(o.aval.shape) != len(i.aval.shape) for o, i in pairs)

    carried = len(eqn.outvars) - scanned(eqn.outvars, body.outvars)
    return len(eqn.invars) - scanned(eqn.invars, body.invars) - carried, carried
