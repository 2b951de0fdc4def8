"""One step over many shards of a batch: what is summed, what is averaged, which key is whose.

Under ``jit`` the batch is one global array and ``axis_name`` is ``None``; under a mapped axis each
device sees its own rows, and the sums here make it the same step.

Reads from: protocols. Used by: step.train.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from jaxdl.protocols import (
    EXAMPLE_KEY,
    Aux,
    Batch,
    GradFn,
    Params,
    PyTree,
)

__all__ = ["crosses_shards", "differentiate", "with_example_keys"]


def crosses_shards(gradient: GradFn) -> bool:
    """Whether a gradient function sums over the shards of a batch itself (see ``GradFn``).

    Args:
        gradient: what an estimator returned.
    """
    return "batch_sharding" in inspect.signature(gradient).parameters


def differentiate(
    gradient: GradFn, axis_name: str | None, batch_sharding: NamedSharding | None
) -> Callable[..., tuple[Params, Aux]]:
    """The gradient over the global weight, with everything summed over the axis.

    Args:
        gradient: what an estimator returned, with or without the keywords that ``GradFn`` names.
        axis_name: the mapped axis that the batch is divided over, or ``None``.
        batch_sharding: how a global batch is divided over a mesh, where that is known.

    Returns:
        ``(params, model_state, batch, key) -> (mean gradient, Aux)``, global over the axis. The
        key is that of the step, the same on every shard.
    """
    options: dict[str, Any] = {}
    if crosses_shards(gradient):
        options = {"axis_name": axis_name, "batch_sharding": batch_sharding}
        axis_name = None

    def divisor(weight: Any) -> Any:
        weight = jnp.asarray(weight, jnp.float32)
        weight = weight if axis_name is None else jax.lax.psum(weight, axis_name)
        return jnp.where(weight > 0, weight, 1.0)

    folds = "divisor" in inspect.signature(gradient).parameters
    if folds:
        options["divisor"] = divisor

    def summed(trained: Params, model_state: PyTree, batch: Batch, key: Any) -> tuple[Params, Aux]:
        if axis_name is not None:
            key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
        grads, aux = gradient(trained, model_state, batch, key, **options)
        if not folds:
            total = divisor(aux.weight)
            grads = jax.tree.map(lambda g: g / jnp.asarray(total, g.dtype), grads)
        aux = Aux(aux.weight, _kept(aux, model_state), aux.metrics)
        if axis_name is None:
            return grads, aux
        grads, metrics = jax.lax.psum((grads, aux.metrics), axis_name)
        return grads, Aux(aux.weight, _averaged(aux, axis_name), metrics)

    return summed


def _kept(aux: Aux, old: PyTree) -> PyTree:
    """Statistics of a batch that is all padding are nobody's: the old ones stay."""
    if jax.tree.structure(aux.model_state) != jax.tree.structure(old):
        return aux.model_state

    def keep(n: Any, o: Any) -> Any:
        same = n is o or jnp.shape(n) != jnp.shape(o)
        return n if same else jnp.where(jnp.asarray(aux.weight) > 0, n, o)

    return jax.tree.map(keep, aux.model_state, old)


def _averaged(aux: Aux, axis_name: str) -> PyTree:
    """Model state over a mapped axis: the mean by weight; counters, which agree, by maximum."""
    local = jnp.asarray(aux.weight, jnp.float32)
    total = jax.lax.psum(local, axis_name)
    shards = jax.lax.psum(1, axis_name)
    share = jnp.where(total > 0, local / jnp.where(total > 0, total, 1.0), 1.0 / shards)

    def average(leaf: Any) -> Any:
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            return jax.lax.pmax(leaf, axis_name)
        return jax.lax.psum(leaf * share.astype(leaf.dtype), axis_name)

    return jax.tree.map(average, aux.model_state)


def with_example_keys(step_key: Any, batch: Batch, axis_name: str | None) -> Batch:
    """The batch with one key an example.

    An example's key counts its row in the global batch, so it is the same wherever the row lies.

    Args:
        step_key: the key of this step, the same on every shard.
        batch: this shard's rows. A batch that is no mapping is given back as it is.
        axis_name: the mapped axis that the batch is divided over, or ``None``.
    """
    if not isinstance(batch, Mapping):
        return batch
    rows = jax.tree.leaves(dict(batch))[0].shape[0]
    ids = jnp.arange(rows)
    if axis_name is not None:
        ids = ids + jax.lax.axis_index(axis_name) * rows
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(step_key, ids)
    return {**batch, EXAMPLE_KEY: keys}
