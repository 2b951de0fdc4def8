"""Losses of long rows over large vocabularies, one value a token.

Reads from: errors, losses.classification. Used by: objectives, by choice.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxdl.errors import BatchError, ConfigError
from jaxdl.losses.classification import softmax_cross_entropy

__all__ = ["chunked_cross_entropy"]


def chunked_cross_entropy(
    hidden: Any,
    embedding: Any,
    targets: Any,
    *,
    chunk_size: int = 128,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> jax.Array:
    """``softmax_cross_entropy(hidden @ embedding.T, targets)``, the logits never held at once.

    The row is cut along ``T``, so that rows may lie on different devices. A chunk's logits live
    while its loss is taken, and are computed again for its gradient: one more product with the
    embedding, for ``T / chunk_size`` times less memory. They are float32, summed in float32.

    Args:
        hidden: floats, shape ``[B, T, D]``.
        embedding: one row a word, shape ``[V, D]``; cast to the dtype of ``hidden``.
        targets: class numbers, shape ``[B, T]``; one outside ``0 .. V - 1`` gives NaN.
        chunk_size: how many tokens of each row are taken at once. A last, shorter chunk is
            filled up.
        label_smoothing: as ``softmax_cross_entropy``.
        z_loss: as ``softmax_cross_entropy``.

    Returns:
        Float32, shape ``[B, T]``, in nats.

    Raises:
        BatchError: shapes or dtypes do not go together.
        ConfigError: ``chunk_size`` is not positive, or ``label_smoothing`` is out of range.

    Examples:
        >>> values = chunked_cross_entropy(jnp.zeros((1, 3, 2)), jnp.ones((4, 2)),
        ...                                jnp.array([[0, 1, 3]]), chunk_size=2)
        >>> [round(float(x), 4) for x in values[0]]
        [1.3863, 1.3863, 1.3863]
    """
    hidden, embedding, targets = jnp.asarray(hidden), jnp.asarray(embedding), jnp.asarray(targets)
    _check(hidden, embedding, targets, chunk_size)
    length = hidden.shape[1]
    size = min(chunk_size, length)
    pieces = _cut(hidden, size), _cut(targets, size)

    def losses_of(hidden: jax.Array, embedding: jax.Array, targets: jax.Array) -> jax.Array:
        head = embedding.astype(hidden.dtype)
        logits = jnp.einsum("btd,vd->btv", hidden, head, preferred_element_type=jnp.float32)
        return softmax_cross_entropy(
            logits, targets, label_smoothing=label_smoothing, z_loss=z_loss
        )

    def body(carry: None, piece: tuple[jax.Array, jax.Array]) -> tuple[None, jax.Array]:
        # Within a scan the loop itself keeps the compiler from merging the two computations.
        again = jax.checkpoint(losses_of, prevent_cse=False)
        return carry, again(piece[0], embedding, piece[1])

    _, values = jax.lax.scan(body, None, pieces)
    return jnp.moveaxis(values, 0, 1).reshape(hidden.shape[0], -1)[:, :length]


def _cut(x: jax.Array, size: int) -> jax.Array:
    """``[B, T, ...]`` as chunks of ``size`` tokens, ``[T / size, B, size, ...]``."""
    padding = -x.shape[1] % size
    x = jnp.pad(x, [(0, padding if axis == 1 else 0) for axis in range(x.ndim)])
    return jnp.moveaxis(x.reshape(x.shape[0], -1, size, *x.shape[2:]), 1, 0)


def _check(hidden: jax.Array, embedding: jax.Array, targets: jax.Array, chunk_size: int) -> None:
    if chunk_size < 1:
        raise ConfigError(
            f"chunk_size is {chunk_size}", expected="at least 1 token", do="128 is usual"
        )
    fits = (
        hidden.ndim == 3
        and hidden.shape[1] > 0
        and embedding.shape == (embedding.shape[0], hidden.shape[-1])
        and targets.shape == hidden.shape[:2]
        and jnp.issubdtype(hidden.dtype, jnp.floating)
        and jnp.issubdtype(targets.dtype, jnp.integer)
    )
    if not fits:
        raise BatchError(
            f"chunked_cross_entropy got {hidden.dtype} hidden {list(hidden.shape)}, embedding "
            f"{list(embedding.shape)} and {targets.dtype} targets {list(targets.shape)}",
            expected="floats [B, T, D] and [V, D], integers [B, T]",
            do="pass what model.apply(..., method='hidden') returns, and the tokens that follow",
        )
