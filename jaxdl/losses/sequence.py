"""Losses of long rows over large vocabularies, one value a token.

Reads from: errors, products, losses.classification. Used by: objectives, by choice.
"""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxdl.errors import BatchError, ConfigError
from jaxdl.losses.classification import softmax_cross_entropy
from jaxdl.products import wide_logits

__all__ = ["chunked_cross_entropy"]


def chunked_cross_entropy(
    hidden: Any,
    embedding: Any,
    targets: Any,
    *,
    chunk_size: int | Literal["auto"] = "auto",
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    batch_shards: int = 1,
    time_shards: int = 1,
) -> jax.Array:
    """``softmax_cross_entropy(hidden @ embedding.T, targets)``, the logits never held at once.

    The row is cut along ``T``, so that rows, and parts of a row, may lie on different devices. A
    chunk's logits live while its loss is taken, and are computed again for its gradient: one more
    product with the embedding, for ``T / chunk_size`` times less memory. They are float32, summed
    in float32.

    ``"auto"`` takes a 64th of the row, and 8 tokens at least: with fewer, the product with the
    embedding waits for the memory that the embedding is read from. So the memory is a 64th from 512
    tokens on, and more of it for shorter rows, whose logits are small. The number of rows does not
    enter: it is that of all devices, and a large batch is divided over many.

    In a program over a mesh, which adds the gradient of the embedding over the devices that hold
    the rows, the compiler would add it once a chunk. With ``batch_shards`` and ``time_shards`` as
    many partial sums are kept as there are such devices, one on each, and are added once after the
    last chunk.

    Args:
        hidden: floats, shape ``[B, T, D]``.
        embedding: one row a word, shape ``[V, D]``; cast to the dtype of ``hidden``.
        targets: class numbers, shape ``[B, T]``; one outside ``0 .. V - 1`` gives NaN.
        chunk_size: how many tokens of each row are taken at once; a last, shorter chunk is
            filled up. ``"auto"`` is ``max(8, T / 64)``.
        label_smoothing: as ``softmax_cross_entropy``.
        z_loss: as ``softmax_cross_entropy``.
        batch_shards: over how many devices of a mesh the rows lie; must divide ``B``. Leave it at 1
            on one device and within ``pmap`` or ``jax.shard_map``, where each device has its own
            rows. ``objectives.language_model`` sets it.
        time_shards: over how many devices each row lies. A chunk that does not divide is not.

    Returns:
        Float32, shape ``[B, T]``, in nats.

    Raises:
        BatchError: shapes or dtypes do not go together.
        ConfigError: ``chunk_size``, ``batch_shards`` or ``time_shards`` is no positive number, or
            ``label_smoothing`` is out of range.

    Examples:
        >>> values = chunked_cross_entropy(jnp.zeros((1, 3, 2)), jnp.ones((4, 2)),
        ...                                jnp.array([[0, 1, 3]]), chunk_size=2)
        >>> [round(float(x), 4) for x in values[0]]
        [1.3863, 1.3863, 1.3863]
    """
    hidden, embedding, targets = jnp.asarray(hidden), jnp.asarray(embedding), jnp.asarray(targets)
    _check_settings(chunk_size=chunk_size, batch_shards=batch_shards, time_shards=time_shards)
    _check(hidden, embedding, targets, batch_shards)
    length = targets.shape[1]
    if chunk_size == "auto":
        size = min(length, -(-max(8, -(-length // 64)) // time_shards) * time_shards)
    else:
        size = min(chunk_size, length)
    shards = batch_shards, 1 if size % time_shards else time_shards
    pieces = _cut(hidden, size, shards), _cut(targets, size, shards)
    # The embedding's gradient is the sum over the first axes, which is taken after the loop.
    heads = jnp.broadcast_to(embedding, (*shards, *embedding.shape))

    def losses_of(hidden: jax.Array, heads: jax.Array, targets: jax.Array) -> jax.Array:
        logits = wide_logits(hidden, heads)
        return softmax_cross_entropy(
            logits, targets, label_smoothing=label_smoothing, z_loss=z_loss
        )

    def body(carry: None, piece: tuple[jax.Array, jax.Array]) -> tuple[None, jax.Array]:
        # Within a scan the loop itself keeps the compiler from merging the two computations.
        again = jax.checkpoint(losses_of, prevent_cse=False)
        return carry, again(piece[0], heads, piece[1])

    _, values = jax.lax.scan(body, None, pieces)
    return _joined(values)[:, :length]


def _cut(x: jax.Array, size: int, shards: tuple[int, int]) -> jax.Array:
    """``[B, T, ...]`` as ``[T / size, R, S, B / R, size / S, ...]`` for shards ``(R, S)``.

    A chunk takes tokens from all along the row: of a row that is divided over devices, each then
    has its part of every chunk.
    """
    padding = -x.shape[1] % size
    x = jnp.pad(x, [(0, padding if axis == 1 else 0) for axis in range(x.ndim)])
    rows, columns = shards
    x = x.reshape(rows, x.shape[0] // rows, columns, size // columns, -1, *x.shape[2:])
    return jnp.moveaxis(x, (4, 0, 2), (0, 1, 2))


def _joined(values: jax.Array) -> jax.Array:
    """What ``_cut`` made of ``[B, T]``, put back."""
    values = jnp.moveaxis(values, (0, 1, 2), (4, 0, 2))
    return values.reshape(values.shape[0] * values.shape[1], -1)


def _check_settings(**settings: Any) -> None:
    for name, value in settings.items():
        if name == "chunk_size" and value == "auto":
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigError(
                f"{name} is {value!r}",
                expected="at least 1" + (" token, or 'auto'" if name == "chunk_size" else ""),
                do="leave it out: the default fits most shapes",
            )


def _check(hidden: jax.Array, embedding: jax.Array, targets: jax.Array, shards: int) -> None:
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
    if hidden.shape[0] % shards:
        raise BatchError(
            f"{hidden.shape[0]} rows do not divide into batch_shards={shards}",
            expected="as many shards as devices hold the rows, equally many each",
            do="leave batch_shards at 1, or change the batch size",
        )
