"""A Linen module as two pure functions: its first variables, and its call on a batch.

Reads from: protocols, objectives.dropout. Used by: objectives.linen, objectives.language_model.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdl.objectives.dropout import LAYER_STREAM, per_example_dropout
from jaxdl.protocols import EXAMPLE_KEY, Batch, ModelState, Params

__all__ = ["AUXILIARY", "applied", "auxiliary_of", "first_variables"]

AUXILIARY = "auxiliary_loss"
"""What a module sows among the intermediates, ``[B]``, to have it added to each row's loss."""

_TRANSIENT = ("intermediates", "perturbations")


def first_variables(
    model: nn.Module, key: Any, x: Any, call: Mapping[str, Any]
) -> tuple[Params, ModelState]:
    """Parameters, and the other collections that are the model's state.

    Args:
        model: the module.
        key: a typed key.
        x: the module's input.
        call: its keyword arguments.
    """
    variables = model.init(key, x, **call)
    state = {k: v for k, v in variables.items() if k not in ("params", *_TRANSIENT)}
    return variables.get("params", {}), state


def applied(
    model: nn.Module,
    variables: tuple[Params, ModelState],
    batch: Batch,
    x: Any,
    key: Any,
    call: Mapping[str, Any],
    *,
    train: bool,
    method: str | None = None,
    keep: Sequence[str] = (),
) -> tuple[Any, ModelState]:
    """Calls the module; in training with dropout by example and a state that may change.

    Args:
        model: the module.
        variables: ``(params, model_state)``.
        batch: where the examples' keys are, if there are any.
        x: the module's input.
        key: the step's key.
        call: keyword arguments of the call.
        train: whether random streams are given and the state may change.
        method: the method's name; ``__call__`` when ``None``.
        keep: collections that are returned with the state in training.

    Returns:
        ``(outputs, model_state)``.
    """
    params, model_state = variables
    given = {"params": params, **model_state}
    if not train:
        return model.apply(given, x, method=method, **call), model_state
    rngs = {"dropout": key, LAYER_STREAM: jax.random.key(0)}
    with per_example_dropout(batch.get(EXAMPLE_KEY)):
        mutable = [*model_state, *keep]
        return model.apply(given, x, rngs=rngs, mutable=mutable, method=method, **call)


def auxiliary_of(intermediates: Mapping[str, Any]) -> jax.Array | None:
    """The sum over all layers of what they sowed as ``AUXILIARY``.

    Args:
        intermediates: the collection.

    Returns:
        Shape ``[B]``; ``None`` when nobody did.
    """
    found = [
        leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(intermediates)
        if any(getattr(part, "key", None) == AUXILIARY for part in path)
    ]
    # Of scanned layers the first axis is the layers'.
    sums = [jnp.sum(x, axis=tuple(range(x.ndim - 1))) for x in found]
    return functools.reduce(jnp.add, sums) if sums else None
