"""The product of hidden states with one row a word: narrow factors, wide logits.

Reads from: nothing of jaxdl. Used by: models, losses.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["wide_logits"]

_EVERY_WORD = "...btd,...vd->...btv"


@jax.custom_jvp
def wide_logits(x: Any, table: Any) -> jax.Array:
    """Logits of hidden states over a vocabulary.

    They are float32 or wider, whatever the hidden states are: a softmax over bfloat16 logits is
    coarse. Their cotangent is rounded to the dtype of the hidden states before the two products of
    the backward pass, which would otherwise multiply float32 with bfloat16: on GPU in TF32, and
    with twice the bytes to read.

    Args:
        x: shape ``[..., B, T, D]``.
        table: shape ``[..., V, D]``, rounded to the dtype of ``x``.

    Returns:
        Shape ``[..., B, T, V]``.

    Examples:
        >>> wide_logits(jnp.ones((1, 2, 4), jnp.bfloat16), jnp.ones((3, 4))).dtype
        dtype('float32')
    """
    wide = jnp.promote_types(x.dtype, jnp.float32)
    return jnp.einsum(_EVERY_WORD, x, table.astype(x.dtype), preferred_element_type=wide)


@wide_logits.defjvp
def _tangent(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    x, table = primals
    out = wide_logits(x, table)
    # Products in the dtype of x: transposed, they take their cotangent in it.
    moved = jnp.einsum(_EVERY_WORD, tangents[0], table.astype(x.dtype))
    turned = jnp.einsum(_EVERY_WORD, x, tangents[1].astype(x.dtype))
    return out, moved.astype(out.dtype) + turned.astype(out.dtype)
