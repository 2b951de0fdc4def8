"""Masked sums: the one definition that losses, metrics, objectives and layers share.

Reads from: protocols. Used by: losses, metrics, models, objectives, evaluation.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.errors import BatchError

__all__ = ["expand_mask", "masked_sum", "whole_numbers"]


def whole_numbers(values: Any) -> jax.Array:
    """Integers of fewer than 32 bits as int32, anything else as it is.

    A class number is compared with the number of classes, and multiplied by it: in the uint8 that
    labels are often stored in, 256 is 0.

    Args:
        values: any array.

    Examples:
        >>> whole_numbers(np.array([255], np.uint8)) + 1
        Array([256], dtype=int32)
    """
    values = jnp.asarray(values)
    narrow = jnp.issubdtype(values.dtype, jnp.integer) and values.dtype.itemsize < 4
    return values.astype(jnp.int32) if narrow else values


def expand_mask(mask: Any, shape: tuple[int, ...]) -> jax.Array:
    """Broadcasts a mask from the left: ``[B]`` over ``[B, T]``, never ``[T]`` over ``[B, T]``.

    A mask of more axes than the values, such as one of tokens for the loss of a row, counts a
    value by the largest entry of its part: a row is left out when all of it is padding.

    Args:
        mask: booleans or weights, shape a prefix of ``shape``, or one that ``shape`` is a prefix
            of.
        shape: the shape of the values that it masks.

    Returns:
        float32 of ``shape``.

    Raises:
        BatchError: neither shape is a prefix of the other.

    Examples:
        >>> expand_mask(jnp.array([[1, 1, 0], [0, 0, 0]]), (2,)).tolist()
        [1.0, 0.0]
    """
    mask = jnp.asarray(mask)
    if 0 < len(shape) < mask.ndim and mask.shape[: len(shape)] == shape and 0 not in mask.shape:
        mask = jnp.max(mask, axis=tuple(range(len(shape), mask.ndim)))
    if mask.shape != shape[: mask.ndim]:
        raise BatchError(
            f"mask has shape {list(mask.shape)}, the values it masks have {list(shape)}",
            expected=f"a shape that {list(shape)} begins with, such as {list(shape[:1])}",
            do="give batch['mask'] one entry an example, or one a token",
        )
    wide = mask.reshape(mask.shape + (1,) * (len(shape) - mask.ndim)).astype(jnp.float32)
    return jnp.broadcast_to(wide, shape)


def masked_sum(values: Any, mask: Any | None = None) -> tuple[jax.Array, Any]:
    """The sum of ``values`` where the mask is not 0, and the weight it was taken over.

    A masked value never reaches the sum, not even as NaN. Its gradient is zero where the value's
    own derivative is finite, which is why padding repeats real rows.

    Args:
        values: shape ``[B, ...]``.
        mask: booleans or weights, as ``expand_mask`` takes them; ``None`` counts each once.

    Returns:
        ``(sum, weight)``, float32 scalars. Without a mask the weight is a numpy constant.

    Raises:
        BatchError: as ``expand_mask``.

    Examples:
        >>> total, weight = masked_sum(jnp.array([1.0, 2.0, jnp.nan]), jnp.array([1, 1, 0]))
        >>> float(total), float(weight)
        (3.0, 2.0)
    """
    values = jnp.asarray(values)
    values = values.astype(jnp.promote_types(values.dtype, jnp.float32))
    if mask is None:
        return jnp.sum(values), np.asarray(values.size, values.dtype)
    wide = expand_mask(mask, values.shape).astype(values.dtype)
    kept = jnp.where(wide == 0, jnp.zeros_like(values), values)
    return jnp.sum(kept * wide), jnp.sum(wide)
