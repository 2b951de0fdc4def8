"""The sanity check of attributions: with random weights they must be others.

Reads from: protocols, errors. Used by: by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxdl.errors import BatchError
from jaxdl.protocols import Params

__all__ = ["randomised", "rank_correlation", "sanity_check"]


def randomised(params: Params, key: Any) -> Params:
    """Parameters whose every array holds its own values in a random order.

    Each layer keeps the distribution of its weights and loses what it has learned.

    Args:
        params: a tree of arrays.
        key: a typed key.

    Examples:
        >>> mixed = randomised({"kernel": jnp.arange(3.0)}, jax.random.key(0))
        >>> sorted(mixed["kernel"].tolist())
        [0.0, 1.0, 2.0]
    """
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(key, max(len(leaves), 1))
    mixed = [
        jax.random.permutation(own, jnp.ravel(leaf)).reshape(jnp.shape(leaf))
        for own, leaf in zip(keys, leaves, strict=False)
    ]
    return jax.tree.unflatten(structure, mixed)


def rank_correlation(one: Any, other: Any) -> jax.Array:
    """Spearman's rank correlation of two attributions, row by row.

    Source: Spearman 1904, "The proof and measurement of association between two things"; ties share
    their mean rank.

    Args:
        one: shape ``[B, ...]``.
        other: the same shape.

    Returns:
        Shape ``[B]``, from -1 to 1; NaN for a row that is constant.

    Raises:
        BatchError: the shapes differ.

    Examples:
        >>> rank_correlation(jnp.array([[1.0, 2.0, 9.0]]), jnp.array([[1.0, 5.0, 6.0]])).tolist()
        [1.0]
    """
    one, other = jnp.asarray(one), jnp.asarray(other)
    if one.shape != other.shape or one.ndim < 2:
        raise BatchError(
            f"attributions of shapes {list(one.shape)} and {list(other.shape)}",
            expected="two of one shape, [B, ...]",
            do="compare attributions of the same inputs",
        )
    rows = one.shape[0]
    first, second = (jax.vmap(_ranks)(x.reshape(rows, -1)) for x in (one, other))
    first, second = (x - jnp.mean(x, axis=1, keepdims=True) for x in (first, second))
    scale = jnp.sqrt(jnp.sum(first**2, axis=1) * jnp.sum(second**2, axis=1))
    return jnp.clip(jnp.sum(first * second, axis=1) / scale, -1.0, 1.0)


def _ranks(values: jax.Array) -> jax.Array:
    """Ranks from 0, around 0 in size, of a row; equal values have their mean."""
    ordered = jnp.sort(values)
    below = jnp.searchsorted(ordered, values, side="left")
    upto = jnp.searchsorted(ordered, values, side="right")
    return (below + upto).astype(jnp.promote_types(values.dtype, jnp.float32)) / 2


def sanity_check(
    attribute: Callable[[Params], jax.Array], params: Params, *, key: Any, absolute: bool = True
) -> jax.Array:
    """How alike the attributions of a model and of one with random weights are.

    A method whose attributions hardly change does not explain the model: it finds edges. What is
    multiplied by the input has the input's zeros whatever the weights, so compare that with its
    sign.

    Source: Adebayo et al. 2018, "Sanity checks for saliency maps", arXiv:1810.03292, section 3,
    with weights in a random order in place of new ones.

    Args:
        attribute: ``params -> attributions [B, ...]`` of fixed inputs and targets.
        params: of the model.
        key: a typed key.
        absolute: compare absolute values; ``False`` keeps the signs.

    Returns:
        The rank correlation, ``[B]``: 1 where nothing changed.

    Examples:
        >>> from jaxdl.explain.gradients import saliency
        >>> params, x = jnp.array([[3.0], [1.0], [2.0]]), jnp.ones((1, 3))
        >>> float(sanity_check(lambda p: saliency(lambda x: x @ p, x), params,
        ...                    key=jax.random.key(1))[0]) < 1
        True
    """
    learned, other = attribute(params), attribute(randomised(params, key))
    if absolute:
        learned, other = jnp.abs(learned), jnp.abs(other)
    return rank_correlation(learned, other)
