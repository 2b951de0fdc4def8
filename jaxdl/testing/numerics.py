"""Numbers: silent widening, long sums in half precision, values that are not finite.

Reads from: replay, tree_paths, testing.report, testing.runs, testing.subject. Used by:
testing.proving.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from jaxdl.protocols import MASK, Mean, PyTree
from jaxdl.replay.places import line_of
from jaxdl.testing.memory import equations_of
from jaxdl.testing.report import Finding
from jaxdl.testing.runs import on_host
from jaxdl.testing.subject import Subject
from jaxdl.tree_paths import leaf_paths

__all__ = ["check_dtypes", "check_extremes", "loss_of"]

_HALF = {"bfloat16", "float16"}
_LONG = 512


def loss_of(metrics: PyTree) -> Any:
    """The loss among a step's metrics: a field ``"loss"``, or the metrics when they are one number.

    Args:
        metrics: what the step returned beside the state.

    Returns:
        A scalar, or ``None``.
    """
    if isinstance(metrics, Mapping):
        found = next((metrics[name] for name in metrics if str(name).endswith("loss")), None)
    else:
        found = getattr(metrics, "loss", metrics)
    if isinstance(found, Mean):
        return found.total / jnp.where(found.weight > 0, found.weight, 1)
    if found is not None and jnp.ndim(found) == 0 and not isinstance(found, Mapping):
        return found
    return None


def check_dtypes(subject: Subject) -> list[Finding]:
    """What widens when float64 is on, and long sums in half precision.

    Args:
        subject: the step, whose state and batch are of float32 or less.
    """
    return [*_widened(subject), *_narrow(subject)]


def _widened(subject: Subject) -> list[Finding]:
    state, batch = subject.state(), subject.batches[0]
    if any(_is_double(leaf) for leaf in jax.tree.leaves((state, batch))):
        return []
    # Arrays of NumPy would be read as float64 where the loop's are of float32.
    batch = jax.tree.map(lambda x: jnp.asarray(x) if np.ndim(x) else x, batch)
    try:
        with jax.enable_x64(True):
            traced, shapes = jax.make_jaxpr(subject.update, return_shape=True)(state, batch)
    except (TypeError, ValueError):
        return []
    widened = [
        path
        for path, leaf in zip(leaf_paths(shapes[0]), jax.tree.leaves(shapes[0]), strict=True)
        if str(leaf.dtype) == "float64"
    ]
    place = _wide_constant(traced)
    if not widened or place is None:
        return []
    return [
        Finding(
            "float64-creep",
            f"with float64 on, state/{widened[0]} comes back as float64, though state and batch "
            "are of float32: a constant of NumPy or dtype=float widens all after it",
            place or f"state/{widened[0]}",
            "name the dtype: np.float32(x), jnp.asarray(x, logits.dtype), or a plain Python "
            "number, which takes its neighbour's",
        )
    ]


def _wide_constant(traced: Any) -> str | None:
    """The line that first reads a constant of float64, ``""`` where it has none, or ``None``.

    Arrays of the default dtype, such as ``jnp.zeros(())``, are wide then as well, and no mistake.
    """
    held = any(str(getattr(const, "dtype", "")) == "float64" for const in traced.consts)
    widened: set[Any] = set()
    for chain in equations_of(traced.jaxpr):
        eqn = chain[-1]
        if eqn.primitive.name == "convert_element_type" and _wide(eqn.outvars[0]):
            if str(getattr(eqn.invars[0].aval, "dtype", "")) in {"float32", *_HALF}:
                widened.update(eqn.outvars)
            continue
        literals = [v for v in eqn.invars if isinstance(v, core.Literal)]
        others = [v for v in eqn.invars if not isinstance(v, core.Literal)]
        # The constant widened its neighbours itself, which were narrow until there.
        if any(map(_wide, literals)) and others and all(v in widened for v in others):
            return line_of(chain) or ""
    return "" if held else None


def _wide(atom: Any) -> bool:
    return str(getattr(atom.aval, "dtype", "")) == "float64" and not atom.aval.weak_type


def _is_double(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | np.generic) and str(leaf.dtype) == "float64"


def _narrow(subject: Subject) -> list[Finding]:
    for chain in equations_of(subject.traced[0].jaxpr):
        eqn = chain[-1]
        if eqn.primitive.name not in {"reduce_sum", "cumsum"}:
            continue
        operand = eqn.invars[0].aval
        parts = operand.size // max(1, eqn.outvars[0].aval.size)
        if str(operand.dtype) in _HALF and parts >= _LONG:
            return [
                Finding(
                    "half-precision-sum",
                    f"{parts} values are summed in {operand.dtype}, which has "
                    f"{jnp.finfo(operand.dtype).nmant + 1} bits",
                    line_of(chain) or "a library's code",
                    "sum in float32: jnp.sum(x, dtype=jnp.float32), or x.astype(jnp.float32) first",
                )
            ]
    return []


def check_extremes(subject: Subject) -> list[Finding]:
    """Inputs of zeros, a constant, large ones, and a batch with nothing real in it.

    Args:
        subject: the step.
    """
    update = subject.compiled
    if not _finite(on_host(update(subject.state(), subject.batches[0]))):
        return [_not_finite("on the batch as it is", on_host(subject.after_one), subject)]
    found: list[Finding] = []
    for name, change in _EXTREMES.items():
        batch = subject.batches[0]
        if name == "nothing real" and not (isinstance(batch, Mapping) and MASK in batch):
            continue
        after = on_host(update(subject.state(), change(batch)))
        if not _finite(after):
            found.append(_not_finite(f"on {_WORDS[name]}", after, subject))
    return found


def _over_floats(change: Callable[[Any], Any]) -> Callable[[PyTree], PyTree]:
    def changed(batch: PyTree) -> PyTree:
        def one(path: Any, leaf: Any) -> Any:
            leaf = np.asarray(leaf)
            masks = MASK in jax.tree_util.keystr(path)
            real = np.issubdtype(leaf.dtype, np.floating) and not masks
            return change(leaf).astype(leaf.dtype) if real else leaf

        return jax.tree_util.tree_map_with_path(one, batch)

    return changed


def _nothing_real(batch: Any) -> Any:
    return {**batch, MASK: np.zeros_like(np.asarray(batch[MASK]))}


_EXTREMES: dict[str, Callable[[Any], Any]] = {
    "zeros": _over_floats(np.zeros_like),
    "a constant": _over_floats(np.ones_like),
    "large": _over_floats(lambda x: x * 1e3),
    "nothing real": _nothing_real,
}
_WORDS = {
    "zeros": "inputs of zeros",
    "a constant": "inputs that are all one",
    "large": "inputs a thousand times as large",
    "nothing real": "a batch whose mask is all zeros",
}


def _finite(tree: PyTree) -> bool:
    return all(
        np.all(np.isfinite(leaf))
        for leaf in jax.tree.leaves(tree)
        if jnp.issubdtype(leaf.dtype, jnp.inexact)
    )


def _not_finite(what: str, after: PyTree, subject: Subject) -> Finding:
    paths = [
        path
        for path, leaf in zip(leaf_paths(after), jax.tree.leaves(after), strict=True)
        if not _finite(leaf)
    ]
    names = [("state/" if p.startswith("0/") else "metrics/") + p.partition("/")[2] for p in paths]
    return Finding(
        "not-finite",
        f"{what} there are values that are not finite: {', '.join(names[:3])}"
        + (f" and {len(names) - 3} more" if len(names) > 3 else ""),
        names[0] if names else subject.name,
        "work with logits (log_softmax, logsumexp), put an epsilon under roots and into quotients, "
        "and divide by jnp.maximum(weight, 1)",
    )
