"""Where a function first becomes non-finite: found by running it one equation at a time.

Reads from: errors, protocols, tree_paths, replay. Used by: cli, and by hand.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.errors import ConfigError
from jaxdl.protocols import TrainState
from jaxdl.replay.finding import Finding
from jaxdl.replay.interpreter import Interpreter, Scope, Value
from jaxdl.replay.places import direction_of, layer_of, line_of
from jaxdl.replay.rows import bad_rows
from jaxdl.replay.trail import Node, Trail, bad_entries
from jaxdl.tree_paths import path_name

__all__ = ["find_nonfinite"]


def find_nonfinite(fn: Callable[..., Any], *args: Any, rows: int | None = None) -> Finding | None:
    """The first cause of the NaN or infinity that a function returns.

    Not every infinity is a fault: a mask of ``-inf`` or ``log(0)`` behind a ``where`` is meant.
    So the search goes back from the results, through non-finite values alone:

    1. Results that hold a NaN are followed; without one, the infinite results that an equation
       made; without those, all infinite results. Without any, there is no cause.
    2. A value is explained by the non-finite inputs of its equation: a value with a NaN by the
       inputs with a NaN, and only without one by infinities. What ``select_n`` (``jnp.where``)
       does not select explains nothing. A value so explained by nothing was made there.
    3. The cause is the earliest value that explains a result and is of the first of these kinds
       that there is: an input of ``fn`` with a NaN; an infinite input; a value that an equation
       made of finite ones; a NaN made of infinite constants; a value that an infinite or NaN
       constant entered; a constant.

    Everything runs one operation after the other, without the compiler's fusion. Values can then
    differ in the last bits, and a half-precision one may overflow here and not there. A step with
    ``nonfinite="skip"`` returns a finite state: give the step without it.

    Args:
        fn: any function of pytrees that JAX can trace, such as ``step.update``.
        args: its arguments. Paths begin with the parameter's name (``batch/image``), except in a
            ``TrainState`` (``params/dense_0/kernel``).
        rows: the batch size, to learn which rows are concerned. A value whose first axis is as long
            counts as having a batch axis. Within a loop over parts of the batch (``accumulate``)
            rows are followed to their numbers in the whole batch.

    Returns:
        The cause, or ``None`` when every result is finite.

    Raises:
        ConfigError: ``rows`` is no positive number.

    Examples:
        >>> finding = find_nonfinite(lambda x: jnp.log(x) * 0.0, jnp.array([1.0, 0.0]), rows=2)
        >>> finding.kind, finding.primitive, finding.rows, finding.operands[0].low
        ('inf', 'log', (1,), 0.0)
    """
    if rows is not None and rows < 1:
        raise ConfigError(
            f"find_nonfinite got rows={rows}",
            expected="the number of rows in the batch",
            do="pass the length of the batch's first axis, or None",
        )
    numbers = None if rows is None else np.arange(rows)
    program = jax.make_jaxpr(fn)(*args)
    interpreter = Interpreter()
    with jax.debug_nans(False), jax.debug_infs(False):
        inputs = _inputs(interpreter, _names(fn, args), args, numbers)
        results = interpreter.run(program, inputs, Scope(numbers))
    bad = [value.node for value in results if value.node is not None]
    if not bad:
        return None
    return _finding(interpreter.trail, bad)


def _finding(trail: Trail, results: list[int]) -> Finding:
    cause = trail.cause(results)
    node = trail.nodes[cause]
    made = node.source == "equation"
    direction = direction_of(node.equations)
    if direction == "forward" and not trail.escapes(cause, results, _is_backward):
        # A local derivative, computed on the way forward: the loss never sees it.
        direction = "backward"
    return Finding(
        kind=node.kind,
        source=node.source,
        primitive=node.equations[-1].primitive.name if made else "",
        path=node.path,
        layer=layer_of(node.equations),
        direction=direction,
        where=line_of(node.equations),
        shape=node.shape,
        dtype=node.dtype,
        count=node.count,
        rows=trail.rows_after(cause, results),
        iterations=node.iterations,
        operands=node.operands,
    )


def _is_backward(node: Node) -> bool:
    return direction_of(node.equations) == "backward"


def _inputs(
    interpreter: Interpreter, names: Sequence[str], args: Sequence[Any], numbers: np.ndarray | None
) -> list[Value]:
    values: list[Value] = []
    for name, arg in zip(names, args, strict=True):
        leaves = jax.tree_util.tree_leaves_with_path(arg)
        shapes = [np.shape(leaf) for _, leaf in leaves]
        # A state may hold an array as long as the batch; a batch holds no other arrays.
        is_batch = numbers is not None and all(shape[:1] == numbers.shape for shape in shapes)
        for path, leaf in leaves:
            data = leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf)
            full = "/".join(part for part in (name, path_name(path)) if part)
            own = numbers if is_batch else None
            values.append(Value(data, _input_node(interpreter, data, full, own), own))
    return values


def _input_node(
    interpreter: Interpreter, data: Any, path: str, numbers: np.ndarray | None
) -> int | None:
    found = bad_entries(data)
    if found is None:
        return None
    kind, bad = found
    dtype, count, rows = str(data.dtype), int(bad.sum()), bad_rows(bad, numbers)
    node = Node("input", kind, bad.shape, dtype, count, rows, path=path)
    return interpreter.trail.add(node)


def _names(fn: Callable[..., Any], args: Sequence[Any]) -> list[str]:
    """What a path begins with, for each argument."""
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        parameters = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):
        parameters = ()
    named = [p.name for p in parameters if p.kind in positional]
    rest = next((p.name for p in parameters if p.kind == inspect.Parameter.VAR_POSITIONAL), "args")
    numbered = [f"{rest}/{i}" for i in range(len(args) - len(named))]
    return [
        "" if isinstance(arg, TrainState) else name
        for name, arg in zip([*named, *numbered], args, strict=False)
    ]
