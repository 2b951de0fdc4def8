"""Masks of attention: of keys, of pairs and of packed segments, and the shapes they go with.

Reads from: errors. Used by: models.attention, models.kernels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdl.errors import BatchError

__all__ = ["Masks", "check_heads", "masks_of", "segment_mask"]


class Masks(NamedTuple):
    """What of an attention is masked; at most one of the three is there.

    Attributes:
        keys: booleans ``[B, S]``, false on keys that nobody may see.
        pairs: booleans ``[B, T, S]``, false where query ``t`` may not see key ``s``.
        segments: integers ``[B, T]``; a token sees those of its own number, 0 is padding.
    """

    keys: jax.Array | None = None
    pairs: jax.Array | None = None
    segments: jax.Array | None = None

    def over_heads(self) -> jax.Array | None:
        """As booleans that broadcast over ``[B, N, T, S]``; ``None`` when nothing is masked."""
        if self.segments is not None:
            return segment_mask(self.segments)[:, None]
        if self.pairs is not None:
            return self.pairs[:, None]
        return None if self.keys is None else self.keys[:, None, None, :]

    def sees_something(self, queries: int, *, causal: bool) -> jax.Array | None:
        """Which queries may see any key, ``[B, T]`` or ``[B, 1]``; ``None`` when all do.

        Args:
            queries: ``T``.
            causal: whether the future is masked too.
        """
        if self.segments is not None:
            return self.segments != 0
        if self.pairs is not None:
            seen = self.pairs
            return jnp.any(jnp.tril(seen) if causal else seen, axis=-1)
        if self.keys is None:
            return None
        if causal:
            return jnp.cumsum(self.keys[:, :queries], axis=1) > 0
        return jnp.any(self.keys, axis=1, keepdims=True)


def segment_mask(segments: Any) -> jax.Array:
    """Which tokens of packed rows may see each other: those of one segment.

    Args:
        segments: integers, shape ``[B, T]``: the number of each token's segment, 0 on padding.

    Returns:
        Booleans, shape ``[B, T, T]``.

    Examples:
        >>> segment_mask(jnp.array([[1, 2, 0]])).astype(int).tolist()
        [[[1, 0, 0], [0, 1, 0], [0, 0, 0]]]
    """
    segments = jnp.asarray(segments)
    return (segments[:, :, None] == segments[:, None, :]) & (segments != 0)[:, None, :]


def check_heads(query: jax.Array, key: jax.Array, value: jax.Array, *, causal: bool) -> None:
    """Query, key and value go together.

    Args:
        query: ``[B, T, N, H]``.
        key: ``[B, S, K, H]`` with ``K`` a divisor of ``N``.
        value: as ``key``.
        causal: whether ``S`` must be ``T``.

    Raises:
        BatchError: they do not.
    """
    fits = (
        query.ndim == key.ndim == 4
        and key.shape == value.shape
        and (query.shape[0], query.shape[3]) == (key.shape[0], key.shape[3])
        and key.shape[2] > 0
        and query.shape[2] % key.shape[2] == 0
        and not (causal and query.shape[1] != key.shape[1])
    )
    if not fits:
        raise BatchError(
            f"attention got query {list(query.shape)}, key {list(key.shape)} and value "
            f"{list(value.shape)}",
            expected="[B, T, N, H], [B, S, K, H] and [B, S, K, H], K a divisor of N, S = T when "
            "causal",
            do="reshape the projections to heads first",
        )


def masks_of(mask: Any, segments: Any, *, rows: int, queries: int, keys: int) -> Masks:
    """The masks of a call, put together.

    Args:
        mask: see ``attention``.
        segments: see ``attention``. What ``mask`` says is padding is of segment 0.
        rows: ``B``.
        queries: ``T``.
        keys: ``S``.

    Raises:
        BatchError: they do not fit the shapes.
    """
    made = _of_mask(mask, rows, queries, keys)
    if segments is None:
        return made
    segments = jnp.asarray(segments)
    fits = segments.shape == (rows, queries) and queries == keys
    if not fits or not jnp.issubdtype(segments.dtype, jnp.integer):
        raise BatchError(
            f"attention got segments of shape {list(segments.shape)} and dtype {segments.dtype} "
            f"for {queries} queries and {keys} keys",
            expected=f"integers {[rows, queries]}, as many queries as keys",
            do="number the segments of each row from 1, with 0 on padding",
        )
    if made.pairs is not None:
        return Masks(pairs=made.pairs & segment_mask(segments))
    if made.keys is not None:
        segments = jnp.where(made.keys, segments, 0)
    return Masks(segments=segments)


def _of_mask(mask: Any, rows: int, queries: int, keys: int) -> Masks:
    if mask is None:
        return Masks()
    mask = jnp.asarray(mask) != 0
    if mask.shape == (rows, keys):
        return Masks(keys=mask)
    if mask.shape == (rows, queries, keys):
        return Masks(pairs=mask)
    raise BatchError(
        f"the attention mask has shape {list(mask.shape)}",
        expected=f"{[rows, keys]} (keys) or {[rows, queries, keys]} (pairs)",
        do="give one entry a key, or one a query and key",
    )
