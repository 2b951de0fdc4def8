"""Any step, placed on devices that are only described: jaxdl's own, or a user's function.

Reads from: errors, layouts, placement, protocols. Used by: tpu.plans.planning.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax

from jaxdl.errors import ConfigError
from jaxdl.layouts import Layout
from jaxdl.placement import PlacedFunction, PlacedStep, PmappedFunction, PmappedStep, jit
from jaxdl.protocols import Batch, PyTree, TrainStep

__all__ = ["abstract", "placed_on", "state_of"]

_KINDS = "a step of jaxdl.jit, a TrainStep, or a function (state, batch) -> (state, metrics)"
_OTHERS = (PlacedFunction, PmappedFunction, PmappedStep)


def placed_on(step: Any, devices: Sequence[Any], layout: Layout | None) -> PlacedStep:
    """The step on other devices.

    Args:
        step: see ``plan``.
        devices: to place it on.
        layout: instead of the step's own.

    Raises:
        ConfigError: it is no train step.
        LayoutError: the layout does not fit the devices.
    """
    if isinstance(step, PlacedStep):
        return jit(step.pure, layout=layout or step.layout, devices=devices)
    if isinstance(step, TrainStep):
        return jit(step, layout=layout, devices=devices)
    if isinstance(step, _OTHERS) or not callable(step):
        raise ConfigError(
            f"plan was given a {type(step).__name__}",
            expected=_KINDS,
            do="give the TrainStep that it was made of, and layout="
            if isinstance(step, PmappedStep)
            else "give the train step; an eval step takes less",
        )
    return jit(TrainStep(_no_init, _checked(step)), layout=layout, devices=devices)


def abstract(tree: PyTree) -> PyTree:
    """Shapes and dtypes alone, of arrays or of what stands for them.

    Args:
        tree: any pytree; a leaf that is no array stays as it is.
    """

    def shape(leaf: Any) -> Any:
        there = hasattr(leaf, "shape") and hasattr(leaf, "dtype")
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if there else leaf

    return jax.tree.map(shape, tree)


def state_of(placed: PlacedStep, batch: Batch, state: PyTree) -> PyTree:
    """The state's shapes with the shardings that the layout gives.

    Args:
        placed: the step.
        batch: abstract, global.
        state: the user's; that of the step's own ``init`` when ``None``.

    Raises:
        ConfigError: the step has no ``init`` and no state was given, or it holds no arrays.
        LayoutError: as ``Layout.place``.
    """
    if state is None:
        if placed.pure.init is _no_init:
            raise ConfigError(
                "plan was given a function without its state",
                expected="state=, arrays or jax.ShapeDtypeStruct",
                do="pass state=jax.eval_shape(init, key, batch), which allocates nothing",
            )
        return placed.abstract_state(batch)
    shapes = jax.eval_shape(lambda x: x, state)
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        shapes,
        placed.shardings(shapes),
    )


def _no_init(key: Any, batch: Any) -> Any:
    """Stands for the init that a plain function does not have."""
    del key, batch


def _checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which must give back a pair whose first is the state as it came."""
    name = getattr(function, "__name__", type(function).__name__)
    try:
        inspect.signature(function).bind(None, None)
    except TypeError as error:
        raise ConfigError(
            f"{name} cannot be called with (state, batch): {error}",
            expected=_KINDS,
            do="wrap it: plan(lambda state, batch: ..., ...); bind the rest with functools.partial",
        ) from error

    def update(state: PyTree, batch: Batch) -> tuple[PyTree, PyTree]:
        made = function(state, batch)
        if not isinstance(made, tuple) or len(made) != 2:
            got = f"{len(made)} values" if isinstance(made, tuple) else f"a {type(made).__name__}"
            raise ConfigError(
                f"{name} returned {got}",
                expected="a pair (state, metrics)",
                do="wrap it so that it returns the new state first; {} stands for no metrics",
            )
        old, new = jax.tree.structure(state), jax.tree.structure(made[0])
        if old != new:
            raise ConfigError(
                f"{name} was given a state of the structure {old} and returned {new}",
                expected="a new state of the same structure",
                do="return the whole new state first, then the metrics",
            )
        return made

    return update
