"""The loss scale: gradients that float16 can hold.

float16 has no number between 0 and 6e-8, and gradients are often smaller. The loss is multiplied
before it is differentiated, which moves every gradient up, and the result is divided in float32.

Reads from: errors, protocols, gradients.remembering, gradients.whole.
Used by: step, by the user's choice.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from jaxdl.errors import ObjectiveError
from jaxdl.gradients.remembering import Remembering
from jaxdl.gradients.whole import mean
from jaxdl.protocols import (
    MASK,
    Aux,
    Batch,
    GradFn,
    GradientEstimator,
    Mean,
    ModelState,
    Objective,
    Params,
    Sums,
)

__all__ = ["LossScale", "scaled"]


class LossScale(NamedTuple):
    """What a dynamic loss scale remembers.

    Attributes:
        scale: float32 scalar, what the next loss is multiplied by.
        good_steps: int32 scalar, steps since the scale last changed.
    """

    scale: Any
    good_steps: Any


def scaled(
    inner: GradientEstimator | None = None,
    *,
    scale: Literal["dynamic"] | float = "dynamic",
    initial: float = 2.0**15,
    growth_interval: int = 2000,
    factor: float = 2.0,
    smallest: float = 1.0,
    largest: float = 2.0**24,
) -> GradientEstimator:
    r"""Differentiates :math:`s \cdot L` in place of the loss, and divides by :math:`s` in float32.

    The scale is that of the mean loss: what is differentiated is :math:`s L / N`, with :math:`N`
    how many examples or tokens the whole batch has room for, rounded to a power of two. So one
    scale does for any batch size, and each example's gradient has the same size under ``jit``,
    ``pmap``, ``accumulate`` and ``reproducible``.

    The dynamic scale begins at ``initial``. A step whose gradient or loss is not finite is
    skipped: it is counted in ``sums["skipped"]``, nothing of it is kept, and the scale is divided
    by ``factor``. After ``growth_interval`` good steps in a row it is multiplied by it. The scale
    that a step used is reported as ``loss_scale``. It lies in ``state.opt_state.gradient``, so that
    it is saved and restored with the optimizer's state. A fixed scale keeps no state, and steps
    that overflow are what ``make_train_step(nonfinite=...)`` says.

    Gradients come back in the dtype of the parameters: of float16 parameters they may underflow
    again, so keep the parameters in float32 (``objectives.with_precision`` does).

    Source: Micikevicius et al. 2018, "Mixed precision training", arXiv:1710.03740, section 3.2.

    Args:
        inner: how the scaled loss is differentiated; ``gradients.mean()`` when ``None``. It must
            be linear in the loss: one that clips the gradients of examples would clip scaled ones.
        scale: ``"dynamic"``, or a fixed number, positive.
        initial: the first dynamic scale.
        growth_interval: good steps before the scale grows.
        factor: what the scale is multiplied or divided by, more than 1. A power of two costs no
            rounding.
        smallest: the dynamic scale never falls below.
        largest: nor rises above.

    Returns:
        An estimator. As the outermost: another around it would hide its memory.

    Raises:
        ObjectiveError: a number is out of range, or ``inner`` is no estimator, or scales itself.

    Examples:
        >>> from jaxdl.protocols import Objective
        >>> loss = lambda p, s, b, k, train: (jnp.sum(p * b["x"]), Aux(2.0, s, {}))
        >>> gradient = scaled(scale=1024.0)(Objective(None, loss))
        >>> float(gradient(jnp.array(5.0), {}, {"x": jnp.array([1.0, 3.0])}, None)[0])
        4.0
    """
    chosen = mean() if inner is None else inner
    _check_inner(chosen)
    if scale != "dynamic":
        _check_positive("scale", scale)
        return _Scaled(chosen, float(scale))
    bounds = _Bounds(initial, growth_interval, factor, smallest, largest)
    _check_bounds(bounds)
    return _Dynamic(chosen, None, bounds)


class _Bounds(NamedTuple):
    initial: float = 2.0**15
    growth_interval: int = 2000
    factor: float = 2.0
    smallest: float = 1.0
    largest: float = 2.0**24


@dataclass(frozen=True)
class _Scaled:
    """The estimator, with a scale that is fixed, or handed in as ``memory``."""

    inner: GradientEstimator
    fixed: float | None

    scales_loss = True

    def __call__(self, objective: Objective, /) -> GradFn:
        def summed(
            params: Params,
            model_state: ModelState,
            batch: Batch,
            key: Any,
            *,
            divisor: Callable[[Any], Any] | None = None,
            shards: int = 1,
            memory: LossScale | None = None,
            **places: Any,
        ) -> tuple[Params, Aux]:
            scale = _scale(self.fixed, memory)
            seeds = _Seeds(objective, scale, _rows(batch) * shards)
            returned = self.inner(seeds.objective())(params, model_state, batch, key, **places)
            grads, aux = _checked(returned, seeds)
            share = 1.0 / seeds.factor()
            if divisor is not None:
                share = share / divisor(aux.weight)
            return jax.tree.map(partial(_times, share), grads, params), aux

        if "batch_sharding" not in inspect.signature(self.inner(objective)).parameters:
            return summed

        def crossing(
            params: Params,
            model_state: ModelState,
            batch: Batch,
            key: Any,
            *,
            divisor: Callable[[Any], Any] | None = None,
            shards: int = 1,
            memory: LossScale | None = None,
            axis_name: str | None = None,
            batch_sharding: NamedSharding | None = None,
        ) -> tuple[Params, Aux]:
            options: dict[str, Any] = {"divisor": divisor, "shards": shards, "memory": memory}
            places: dict[str, Any] = {"axis_name": axis_name, "batch_sharding": batch_sharding}
            return summed(params, model_state, batch, key, **options, **places)

        return crossing


@dataclass(frozen=True)
class _Dynamic(_Scaled):
    """The estimator with a scale that adapts; it is ``Remembering``."""

    bounds: _Bounds

    def begin(self) -> LossScale:
        return LossScale(jnp.asarray(self.bounds.initial, jnp.float32), jnp.zeros((), jnp.int32))

    def after(self, memory: LossScale, finite: jax.Array) -> LossScale:
        _, interval, factor, smallest, largest = self.bounds
        good = memory.good_steps + 1
        grows = good >= interval
        larger = jnp.minimum(memory.scale * factor, largest)
        smaller = jnp.maximum(memory.scale / factor, smallest)
        scale = jnp.where(finite, jnp.where(grows, larger, memory.scale), smaller)
        good = jnp.where(finite & ~grows, good, 0)
        return LossScale(scale.astype(jnp.float32), good.astype(jnp.int32))

    def sums(self, memory: LossScale) -> Sums:
        return {"loss_scale": Mean(memory.scale, jnp.ones((), jnp.float32))}


class _Seeds:
    """The objective of the scaled mean loss, and the factor that it was multiplied by.

    How many tokens a row has room for is known when the loss was traced, and is a number of the
    program, not an array of it.
    """

    def __init__(self, objective: Objective, scale: Any, rows: int):
        self._objective, self._scale, self._rows = objective, scale, rows
        self.tokens: float | None = None

    def objective(self) -> Objective:
        def loss(
            params: Params, model_state: ModelState, batch: Batch, key: Any, *, train: bool
        ) -> tuple[Any, Aux]:
            total, aux = self._objective.loss(params, model_state, batch, key, train=train)
            self.tokens = _room(aux.weight, batch) / _rows(batch)
            total = jnp.asarray(total)
            wide = total.astype(jnp.promote_types(total.dtype, jnp.float32))
            return wide * jnp.asarray(self.factor(), wide.dtype), aux

        return self._objective._replace(loss=loss)

    def factor(self) -> Any:
        room = max(self._rows * (self.tokens or 1.0), 1.0)
        return self._scale / 2.0 ** round(math.log2(room))


def _scale(fixed: float | None, memory: LossScale | None) -> Any:
    if fixed is not None:
        return fixed
    if memory is None:
        raise ObjectiveError(
            "scaled() was given no loss scale: it was called by hand, or lies inside another "
            "estimator, which does not hand its memory on",
            expected="make_train_step(..., gradient=gradients.scaled(inner))",
            do="make scaled() the outermost estimator, or give it a fixed scale=",
        )
    return memory.scale


def _rows(batch: Batch) -> int:
    shape = jnp.shape(jax.tree.leaves(batch)[0])
    return max(shape[0], 1) if shape else 1


def _room(weight: Any, batch: Batch) -> float:
    """How many examples or tokens the loss may count, from what is known without the data."""
    if not isinstance(weight, jax.Array):
        return max(float(weight), 1.0)
    mask = batch.get(MASK) if isinstance(batch, Mapping) else None
    return float(_rows(batch) if mask is None else max(jnp.size(mask), 1))


def _checked(returned: Any, seeds: _Seeds) -> tuple[Params, Aux]:
    pair = isinstance(returned, tuple) and len(returned) == 2
    if not (pair and isinstance(returned[1], Aux)):
        raise ObjectiveError(
            "the estimator inside scaled() returned no Aux",
            expected="(gradient sum, Aux), as gradients.mean() returns it",
            do="return the Aux of the objective: the step reads its weight and model_state",
        )
    if seeds.tokens is None:
        raise ObjectiveError(
            "the estimator inside scaled() never called the loss it was given",
            expected="an estimator that differentiates its objective's loss",
            do="differentiate objective.loss, not a loss from elsewhere, which is not scaled",
        )
    return returned


def _times(share: Any, grad: Any, param: Any) -> Any:
    """Divided in float32, then in the dtype of the parameter, which the optimizer counts on."""
    wide = grad.astype(jnp.promote_types(grad.dtype, jnp.float32))
    return (wide * jnp.asarray(share, wide.dtype)).astype(param.dtype)


def _check_inner(inner: Any) -> None:
    wrong = None
    if not callable(inner) or isinstance(inner, Objective):
        wrong = f"scaled() got a {type(inner).__name__} as its first argument"
    elif getattr(inner, "scales_loss", False):
        wrong = "scaled(scaled(...)) scales the loss twice"
    elif getattr(inner, "clips_examples", False):
        wrong = "scaled(private(...)) would clip scaled gradients: give private() a loss_scale"
    elif isinstance(inner, Remembering):
        wrong = f"{type(inner).__name__} inside scaled() has a memory, which would be lost"
    if wrong:
        raise ObjectiveError(
            wrong,
            expected="an estimator such as gradients.mean() or gradients.accumulate(4)",
            do="give the numbers by name: gradients.scaled(gradients.mean(), scale=1024.0)",
        )


def _check_positive(name: str, value: Any) -> None:
    good = isinstance(value, int | float) and not isinstance(value, bool)
    if not (good and math.isfinite(value) and value > 0):
        choices = "'dynamic', or a positive number" if name == "scale" else "a positive number"
        raise ObjectiveError(
            f"scaled({name}={value!r})",
            expected=choices,
            do="powers of two such as 1024.0 cost no rounding",
        )


def _check_bounds(bounds: _Bounds) -> None:
    for name in ("initial", "smallest", "largest", "factor"):
        _check_positive(name, getattr(bounds, name))
    interval, wrong = bounds.growth_interval, None
    if not isinstance(interval, int) or interval < 1:
        wrong = f"scaled(growth_interval={interval!r})"
    elif bounds.factor <= 1:
        wrong = f"scaled(factor={bounds.factor})"
    elif not bounds.smallest <= bounds.initial <= bounds.largest:
        wrong = f"scaled(initial={bounds.initial}) is not within smallest and largest"
    if wrong:
        raise ObjectiveError(
            wrong,
            expected="smallest <= initial <= largest, factor above 1, growth_interval at least 1",
            do="the defaults are 2.0**15 within 1 and 2.0**24, 2.0, and 2000 steps",
        )
