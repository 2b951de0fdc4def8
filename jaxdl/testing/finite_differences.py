"""The gradient of a loss against central differences, both in float64.

Reads from: protocols, tree_paths, testing.report, testing.runs, testing.subject. Used by:
testing.proving.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.protocols import PyTree
from jaxdl.testing.report import Finding, NotMade
from jaxdl.testing.runs import on_host
from jaxdl.testing.subject import Subject
from jaxdl.tree_paths import leaf_paths

__all__ = ["check_gradient"]

_SAMPLED = 48
_STEPS = (1e-4, 1e-6)
_GRADIENT = 1e-4


def check_gradient(
    subject: Subject, loss: Callable[[PyTree, PyTree], Any] | None = None
) -> list[Finding]:
    """The gradient of a loss against central differences, both in float64.

    Args:
        subject: the step, for its parameters and its batch.
        loss: ``(params, batch) -> scalar``.

    Raises:
        NotMade: there is no loss, or it computes in less than float64 whatever it is given.
    """
    if loss is None:
        raise NotMade("no loss=... was given")
    with jax.enable_x64(True):
        params = jax.tree.map(_doubled, on_host(subject.params(subject.state())))
        # As it is: what is made narrow then is made of the parameters.
        batch = jax.tree.map(jnp.asarray, subject.batches[0])
        if not _is_resolved(loss, params, batch):
            raise NotMade("the loss computes in less than float64 whatever it is given")
        worst = _worst(loss, params, batch)
    if worst is None or worst.share <= _GRADIENT:
        return []
    return [
        Finding(
            "wrong-gradient",
            f"the gradient of {worst.path} is {worst.got:.6g} at one place, where the loss itself "
            f"changes by {worst.wanted:.6g} (central differences in float64)",
            f"params/{worst.path}",
            "check custom_vjp rules, stop_gradient, and rounding operations on the way",
        )
    ]


def _is_resolved(loss: Callable[[PyTree, PyTree], Any], params: PyTree, batch: PyTree) -> bool:
    """Whether a change too small for float32 changes the loss, and twice as much when doubled."""
    rng = np.random.default_rng(0)
    along = jax.tree.map(lambda x: rng.normal(size=np.shape(x)), params)
    value = jax.jit(
        lambda by: loss(
            jax.tree.map(lambda x, d: x + (by * d).astype(x.dtype), params, along), batch
        )
    )
    start = float(value(0.0))
    once, twice = (float(value(by)) - start for by in (1e-8, 2e-8))
    return bool(once) and abs(twice / once - 2) < 0.05


class _Worst(NamedTuple):
    share: float
    path: str
    got: float
    wanted: float


def _worst(loss: Callable[[PyTree, PyTree], Any], params: PyTree, batch: PyTree) -> _Worst | None:
    """The sampled coordinate whose gradient is farthest from the difference."""
    value, grads = jax.jit(jax.value_and_grad(loss))(params, batch)
    flats = [np.asarray(x).ravel() for x in jax.tree.leaves(on_host(grads))]
    paths = leaf_paths(params)
    moved = _Moved(loss, params, batch, abs(float(value)))
    worst: _Worst | None = None
    for index, place in _sample(flats):
        got, wanted = float(flats[index][place]), 0.0
        share = np.inf
        # A kink, as of a ReLU, may lie within the longer step.
        for by in _STEPS:
            change = moved.change(index, place, by)
            scale = max(float(np.max(np.abs(flats[index]))), abs(change), 1e-8)
            each = max(abs(got - change) - moved.noise(by), 0.0) / scale
            if each < share:
                share, wanted = each, change
            if share <= _GRADIENT:
                break
        if worst is None or share > worst.share:
            worst = _Worst(share, paths[index], got, wanted)
    return worst


class _Moved:
    """The loss with one coordinate moved: one program for all coordinates."""

    def __init__(self, loss: Callable[..., Any], params: PyTree, batch: PyTree, value: float):
        leaves, structure = jax.tree.flatten(params)

        def moved(index: Any, place: Any, by: Any) -> Any:
            flats = [
                jnp.ravel(x) + jnp.where((jnp.arange(x.size) == place) & (index == number), by, 0.0)
                if jnp.issubdtype(x.dtype, jnp.floating)
                else x
                for number, x in enumerate(leaves)
            ]
            shaped = [x.reshape(old.shape) for x, old in zip(flats, leaves, strict=True)]
            return loss(jax.tree.unflatten(structure, shaped), batch)

        self._moved, self._value = jax.jit(moved), value

    def change(self, index: int, place: int, by: float) -> float:
        """The central difference."""
        ahead, behind = (float(self._moved(index, place, each)) for each in (by, -by))
        return (ahead - behind) / (2 * by)

    def noise(self, by: float) -> float:
        """What the rounding of the loss makes of it."""
        return 64 * float(np.finfo(np.float64).eps) * max(self._value, 1e-3) / by


def _doubled(leaf: Any) -> Any:
    real = jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
    return jnp.asarray(leaf, jnp.float64) if real else jnp.asarray(leaf)


def _sample(flats: list[Any]) -> list[tuple[int, int]]:
    """Coordinates as (leaf, place): of each leaf the largest gradient, and some others."""
    rng = np.random.default_rng(0)
    real = [i for i, x in enumerate(flats) if np.issubdtype(x.dtype, np.floating) and x.size]
    if len(real) > _SAMPLED:
        real = sorted(rng.choice(real, _SAMPLED, replace=False).tolist())
    each = min(4, max(1, _SAMPLED // max(len(real), 1)))
    found: list[tuple[int, int]] = []
    for index in real:
        largest = int(np.argmax(np.abs(flats[index])))
        others = rng.integers(0, flats[index].size, each - 1).tolist()
        found += [(index, place) for place in sorted({largest, *others})]
    return found
