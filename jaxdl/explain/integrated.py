"""Integrated gradients: the gradient along the way from a baseline, and how much of the score it
accounts for.

Reads from: errors, explain.gradients, explain.targets. Used by: explain.tokens, explain.occluding,
cli, and by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from jaxdl.errors import BatchError, ConfigError, closest
from jaxdl.explain.gradients import input_gradient
from jaxdl.explain.targets import ScoreFn, Targets, at_mask, check_inputs, chosen, wide

__all__ = ["Integrated", "Rule", "added_up", "baseline_of", "integrated_gradients", "quadrature"]

Rule = Literal[
    "gausslegendre", "riemann_left", "riemann_right", "riemann_middle", "riemann_trapezoid"
]
_RULES = (
    *("gausslegendre", "riemann_left", "riemann_right", "riemann_middle"),
    "riemann_trapezoid",
)
_MOST_PARTS = 16


class Integrated(NamedTuple):
    """What integrated gradients find.

    Attributes:
        attributions: the shape of the inputs.
        error: ``[B]``; how far each row's attributions are from adding up to ``change``. With
            exact integrals it is 0 (completeness), so it says whether there were enough steps.
        change: ``[B]``; the score of the row less that of its baseline.
    """

    attributions: jax.Array
    error: jax.Array
    change: jax.Array


def integrated_gradients(
    fn: ScoreFn,
    inputs: Any,
    targets: Targets = None,
    *,
    baselines: Any = 0.0,
    steps: int = 50,
    rule: Rule = "gausslegendre",
    within: float | None = None,
    chunk: int = 1,
    mask: Any = None,
) -> Integrated:
    r"""The input's distance from a baseline times the mean gradient on the way there.

    .. math:: (x - x') \int_0^1 \partial s(x' + a (x - x')) / \partial x \, da

    The gradients are summed as they are computed, ``chunk`` at a time.

    Source: Sundararajan et al. 2017, "Axiomatic attribution for deep networks", arXiv:1703.01365.
    The rules, and 50 steps of Gauss and Legendre's as the default, are Captum's.

    Args:
        fn: see ``ScoreFn``. With a ``chunk`` of more than 1 it is mapped (``jax.vmap``) over
            points; the number of rows is always ``B``.
        inputs: floats, shape ``[B, ...]``.
        targets: see ``Targets``.
        baselines: where the way begins: a number, or an array ``[B, ...]`` or ``[1, ...]``.
        steps: points on the way.
        rule: where the points are and how they are weighed.
        within: the error that is allowed, as a share of the change, such as 0.01. Rows with a
            larger one have their way cut into 2, 4, 8 or 16 parts of ``steps`` points each.
        chunk: how many points are computed at once.
        mask: as ``saliency``; the error is then taken over what it leaves.

    Returns:
        See ``Integrated``.

    Raises:
        JaxdlError: as ``saliency``.
        BatchError: the baselines do not broadcast to the inputs.
        ConfigError: a setting is out of range.

    Examples:
        >>> found = integrated_gradients(lambda x: jnp.sum(x**2, axis=1), jnp.array([[1.0, 3.0]]))
        >>> found.attributions.round(3).tolist(), found.change.tolist()
        ([[1.0, 9.0]], [10.0])
    """
    inputs = check_inputs(inputs, "integrated_gradients")
    _check_within(within)
    places, weights = (jnp.asarray(each, wide(inputs.dtype)) for each in quadrature(rule, steps))
    start = baseline_of(baselines, inputs)
    way = inputs.astype(start.dtype) - start
    change = chosen(fn(inputs), targets) - chosen(fn(start.astype(inputs.dtype)), targets)

    def gradient(place: jax.Array) -> jax.Array:
        return input_gradient(fn, (start + place * way).astype(inputs.dtype), targets)

    def found(parts: Any) -> Integrated:
        def add(part: Any, total: jax.Array) -> jax.Array:
            return total + added_up(gradient, (part + places) / parts, weights / parts, chunk)

        mean = jax.lax.fori_loop(0, parts, add, jnp.zeros(inputs.shape, way.dtype))
        return _summed(at_mask(mean * way, mask), change)

    if within is None:
        mean = added_up(gradient, places, weights, chunk)
        return _summed(at_mask(mean * way, mask), change)
    return _refined(found, within)


def _summed(attributions: jax.Array, change: jax.Array) -> Integrated:
    total = jnp.sum(attributions, axis=tuple(range(1, attributions.ndim)))
    return Integrated(attributions, total.astype(change.dtype) - change, change)


def _refined(found: Callable[[Any], Integrated], within: float) -> Integrated:
    """More and more parts, until the rows are exact enough; those that are keep what they have."""

    def rough(result: Integrated) -> jax.Array:
        return jnp.abs(result.error) > within * jnp.abs(result.change)

    def again(state: tuple[Any, Integrated]) -> jax.Array:
        return (state[0] < _MOST_PARTS) & jnp.any(rough(state[1]))

    def finer(state: tuple[Any, Integrated]) -> tuple[Any, Integrated]:
        parts, last = 2 * state[0], state[1]
        new, chosen_rows = found(parts), rough(last)

        def kept(ours: jax.Array, old: jax.Array) -> jax.Array:
            return jnp.where(chosen_rows.reshape(-1, *[1] * (ours.ndim - 1)), ours, old)

        return parts, jax.tree.map(kept, new, last)

    one = jnp.asarray(1, jnp.int32)
    return jax.lax.while_loop(again, finer, (one, found(one)))[1]


def _check_within(within: float | None) -> None:
    if within is not None and not within > 0:
        raise ConfigError(
            f"within is {within}", expected="a share above 0, or None", do="use within=0.01"
        )


def quadrature(rule: Rule, steps: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Places from 0 to 1, and their weights.

    Args:
        rule: its name.
        steps: how many.

    Raises:
        ConfigError: there is no such rule, or too few steps for it.

    Examples:
        >>> [values.tolist() for values in quadrature("riemann_middle", 2)]
        [[0.25, 0.75], [0.5, 0.5]]
    """
    if rule not in _RULES:
        raise ConfigError(
            f"rule is {rule!r}", expected=f"one of {', '.join(_RULES)}", do=closest(rule, _RULES)
        )
    least = 1 if rule == "gausslegendre" else 2
    if steps < least:
        raise ConfigError(
            f"steps is {steps}", expected=f"at least {least} for {rule}", do="use steps=50"
        )
    if rule == "gausslegendre":
        places, weights = np.polynomial.legendre.leggauss(steps)
        return (1 + places) / 2, weights / 2
    ends = {
        "riemann_left": (0, 1 - 1 / steps),
        "riemann_right": (1 / steps, 1),
        "riemann_middle": (0.5 / steps, 1 - 0.5 / steps),
        "riemann_trapezoid": (0, 1),
    }
    weights = np.full(steps, 1 / steps)
    if rule == "riemann_trapezoid":
        # As Captum has it: the weights add up to 1 - 1 / steps.
        weights[[0, -1]] /= 2
    return np.linspace(*ends[rule], steps), weights


def added_up(one: Callable[[Any], jax.Array], points: Any, weights: Any, chunk: int) -> jax.Array:
    """The weighted sum of a function's values at points, ``chunk`` at a time.

    Args:
        one: a point to an array, the same shape for all.
        points: shape ``[N, ...]``.
        weights: shape ``[N]``, of the sum's dtype.
        chunk: how many values are held at once; with 1 the function is not mapped.

    Raises:
        ConfigError: ``chunk`` is below 1.
    """
    if chunk < 1:
        raise ConfigError(f"chunk is {chunk}", expected="at least 1", do="use chunk=1")
    points, weights = jnp.asarray(points), jnp.asarray(weights)
    chunk = min(chunk, len(points))
    more = -len(points) % chunk
    points = jnp.concatenate([points, jnp.repeat(points[:1], more, axis=0)])
    weights = jnp.concatenate([weights, jnp.zeros(more, weights.dtype)])

    def add(total: jax.Array, given: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        point, weight = given
        if chunk == 1:
            return total + weight[0] * one(point[0]), None
        values = jax.vmap(one)(point)
        # No contraction: on a TPU that would round to bfloat16.
        return total + jnp.sum(weight.reshape(-1, *[1] * total.ndim) * values, axis=0), None

    shape = jax.eval_shape(one, points[0])
    groups = jax.tree.map(lambda x: x.reshape(-1, chunk, *x.shape[1:]), (points, weights))
    return jax.lax.scan(add, jnp.zeros(shape.shape, shape.dtype), groups)[0]


def baseline_of(baselines: Any, inputs: jax.Array) -> jax.Array:
    """The baselines, in the inputs' shape and float32 or wider.

    Args:
        baselines: a number, or an array ``[B, ...]`` or ``[1, ...]``.
        inputs: shape ``[B, ...]``.

    Raises:
        BatchError: they do not broadcast.
    """
    found = jnp.asarray(baselines, wide(inputs.dtype))
    fits = found.ndim in (0, inputs.ndim) and all(
        own in (1, size) for own, size in zip(found.shape, inputs.shape[: found.ndim], strict=True)
    )
    if not fits:
        raise BatchError(
            f"baselines of shape {list(found.shape)} for inputs {list(inputs.shape)}",
            expected="a number, or an array of the inputs' axes, each of their length or 1",
            do="give baseline[None] where all rows share one",
        )
    return jnp.broadcast_to(found.reshape(found.shape or (1,) * inputs.ndim), inputs.shape)
