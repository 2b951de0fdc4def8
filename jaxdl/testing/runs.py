"""One step run in several ways, and how far two runs are apart against a bound from float64.

Reads from: tree_paths, testing.memory, testing.subject. Used by: testing.sameness,
testing.numerics, testing.assertions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdl.protocols import PyTree
from jaxdl.testing.memory import equations_of
from jaxdl.testing.subject import Subject
from jaxdl.tree_paths import leaf_paths

__all__ = [
    "Apart",
    "farthest",
    "float64_errors",
    "on_devices",
    "on_host",
    "plain_run",
    "rows_of",
    "under_pmap",
]

_ROUNDING = 32
_EPS = float(np.finfo(np.float32).eps)


class Apart(NamedTuple):
    """The leaf in which two runs differ most, against what may be.

    Attributes:
        path: of the leaf.
        difference: the largest, absolute.
        bound: what rounding explains.
    """

    path: str
    difference: float
    bound: float

    def __str__(self) -> str:
        """The figures in words."""
        return f"{self.path} differs by {self.difference:.2e}, rounding explains {self.bound:.2e}"


def on_host(tree: PyTree) -> PyTree:
    """A tree of NumPy arrays; keys by their data.

    Args:
        tree: of arrays and numbers.
    """

    def host(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        return np.asarray(leaf)

    return jax.tree.map(host, tree)


def rows_of(batch: PyTree) -> int | None:
    """The rows of a batch, or ``None`` when its leaves do not agree on them.

    Args:
        batch: a tree of arrays.
    """
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(batch)]
    counts = {shape[0] if shape else None for shape in shapes}
    return counts.pop() if len(counts) == 1 else None


def plain_run(subject: Subject, batch: PyTree, state: PyTree = None) -> PyTree:
    """State and metrics after one batch, compiled on one device, on the host.

    Args:
        subject: the step.
        batch: the batch.
        state: the state before; the first one when ``None``.
    """
    state = subject.state() if state is None else state
    return on_host(subject.compiled(state, batch))


def on_devices(subject: Subject, batch: PyTree, devices: int) -> PyTree:
    """The same with the rows divided over several devices.

    Args:
        subject: the step.
        batch: its rows must divide.
        devices: how many.
    """
    mesh = Mesh(np.array(jax.devices()[:devices]), ("data",))
    whole = NamedSharding(mesh, PartitionSpec())
    rows = NamedSharding(mesh, PartitionSpec("data"))
    state = jax.device_put(jax.tree.map(jnp.asarray, subject.state()), whole)
    out = subject.compiled(state, jax.device_put(batch, rows))
    return on_host(jax.block_until_ready(out))


def under_pmap(subject: Subject, batch: PyTree, devices: int, axis_name: str) -> PyTree:
    """The same under ``jax.pmap``; each device's copy must agree, the first is given.

    Args:
        subject: the step, which must take ``axis_name``.
        batch: its rows must divide.
        devices: how many.
        axis_name: of the mapped axis.
    """

    def update(state: Any, batch: Any) -> Any:
        return subject.update(state, batch, axis_name=axis_name)

    cut = jax.tree.map(lambda x: np.reshape(x, (devices, -1, *np.shape(x)[1:])), batch)
    mapped = jax.pmap(
        update, axis_name=axis_name, in_axes=(None, 0), devices=jax.devices()[:devices]
    )
    out = jax.block_until_ready(mapped(subject.state(), cut))
    return on_host(jax.tree.map(lambda x: x[0], out))


def float64_errors(subject: Subject, batch: PyTree, run: PyTree) -> dict[str, float]:
    """How far a run in float32 is from one in float64, a leaf.

    Where there is no such run, or where the step computes in half precision and does so in that run
    as well, it is how far the run moves when state and batch move by one rounding.

    Args:
        subject: the step.
        batch: of the run.
        run: its state and metrics, on the host.
    """
    errors = _against_float64(subject, batch, run)
    half = _half(subject)
    if errors is not None and half is None:
        return errors
    moved = _sensitivity(subject, batch, run, _EPS if half is None else half)
    return {path: max(error, (errors or {}).get(path, 0.0)) for path, error in moved.items()}


def _half(subject: Subject) -> float | None:
    """The coarsest rounding of a half precision that the step computes in, or ``None``."""
    dtypes = {
        str(getattr(var.aval, "dtype", ""))
        for chain in equations_of(subject.traced[0].jaxpr)
        for var in chain[-1].outvars
    }
    found = [float(jnp.finfo(name).eps) for name in dtypes & {"bfloat16", "float16"}]
    return max(found, default=None)


def _sensitivity(subject: Subject, batch: PyTree, run: PyTree, eps: float) -> dict[str, float]:
    rng = np.random.default_rng(0)

    def nudged(leaf: Any) -> Any:
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            return leaf
        factor = 1 + eps * rng.uniform(-1, 1, np.shape(leaf))
        return jnp.asarray(np.asarray(leaf, np.float64) * factor, jnp.result_type(leaf))

    state = subject.state()
    moved = jax.tree.map(nudged, state)
    before = {
        f"0/{path}": (old, new)
        for path, old, new in zip(
            leaf_paths(state),
            jax.tree.leaves(on_host(state)),
            jax.tree.leaves(on_host(moved)),
            strict=True,
        )
    }
    other = on_host(subject.compiled(moved, jax.tree.map(nudged, batch)))
    errors: dict[str, float] = {}
    for path, a, b in zip(
        leaf_paths(run), jax.tree.leaves(run), jax.tree.leaves(other), strict=True
    ):
        if np.shape(a) == np.shape(b) and _real(a):
            old, new = before.get(path, (0.0, 0.0))
            # What a leaf was moved by itself is no error of the step's.
            own = np.asarray(new, np.float64) - np.asarray(old, np.float64)
            own = own if own.shape == np.shape(b) else 0.0
            errors[path] = _gap(a, np.asarray(b, np.float64) - own)
    return errors


def _against_float64(subject: Subject, batch: PyTree, run: PyTree) -> dict[str, float] | None:

    def wide(leaf: Any) -> Any:
        real = jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
        return jnp.asarray(leaf, jnp.float64) if real else leaf

    try:
        with jax.enable_x64(True):
            state, batch = jax.tree.map(wide, (subject.state(), batch))
            exact = on_host(jax.jit(subject.update)(state, batch))
    except Exception:  # noqa: BLE001 - a step may refuse float64 in any way it likes
        return None
    errors: dict[str, float] = {}
    for path, a, b in zip(
        leaf_paths(run), jax.tree.leaves(run), jax.tree.leaves(exact), strict=False
    ):
        if np.shape(a) == np.shape(b) and _real(a):
            errors[path] = _gap(a, b)
    return errors


def _real(leaf: Any) -> bool:
    return jnp.issubdtype(np.asarray(leaf).dtype, jnp.inexact)


def _gap(a: Any, b: Any) -> float:
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    same = (x == y) | (np.isnan(x) & np.isnan(y))
    return float(np.max(np.where(same, 0.0, np.abs(x - y)), initial=0.0))


def farthest(
    run: PyTree,
    other: PyTree,
    errors: Mapping[str, float] | None,
    *,
    ignore: Callable[[str], bool] = lambda _: False,
) -> Apart | None:
    """The leaf that differs most beyond its bound, or ``None`` when all are within.

    The bound of a leaf is 32 times its error against float64 and at least 32 roundings of its
    largest value; integers must be equal.

    Args:
        run: state and metrics of one run, on the host.
        other: of the other.
        errors: from ``float64_errors``, or ``None``.
        ignore: paths that are not compared.
    """
    worst: Apart | None = None
    for path, a, b in zip(
        leaf_paths(run), jax.tree.leaves(run), jax.tree.leaves(other), strict=True
    ):
        if ignore(path):
            continue
        if np.shape(a) != np.shape(b):
            return Apart(f"{path} ({np.shape(a)}, {np.shape(b)})", float("inf"), 0.0)
        if not _real(a):
            gap, bound = (0.0 if np.array_equal(a, b) else float("inf")), 0.0
        else:
            eps = max(_EPS, float(jnp.finfo(np.asarray(a).dtype).eps))
            scale = float(np.max(np.abs(np.nan_to_num(np.asarray(a, np.float64))), initial=0.0))
            error = (errors or {}).get(path, 0.0)
            gap, bound = _gap(a, b), _ROUNDING * max(error, eps * max(scale, 1e-6))
        if np.isnan(gap) or gap > bound:
            share = float("inf") if np.isnan(gap) or not bound else gap / bound
            if worst is None or share > worst.difference / max(worst.bound, 1e-300):
                worst = Apart(path, float("inf") if np.isnan(gap) else gap, bound)
    return worst
