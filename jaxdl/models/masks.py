"""What the queries of a decoder may see: masks, packed segments, and how full its cache is.

Reads from: errors. Used by: models.attention, models.decoding, models.gpt, models.gpt_mixture.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdl.errors import BatchError, ConfigError

__all__ = ["Reach", "cache_mask", "places", "reach_of", "real_tokens", "segment_mask"]


class Reach(NamedTuple):
    """What each token may see, and where it stands; handed to every block in place of a mask.

    Attributes:
        mask: ``[B, S]``, 0 on keys that nobody may see, or ``[B, T, S]``, 0 where query ``t`` may
            not see key ``s``; ``None`` hides nothing. With a cache of ``L`` tokens ``[B, L]``.
        segments: integers ``[B, T]``: the number of each token's segment, 0 on padding.
        positions: integers ``[B, T]``: the place of each token in its text.
        index: how many tokens the cache holds before these, an int32 scalar; ``None`` without one.
    """

    mask: Any = None
    segments: Any = None
    positions: Any = None
    index: Any = None


def reach_of(mask: Any) -> Reach:
    """A mask, a ``Reach`` or nothing as a ``Reach``.

    Args:
        mask: an array, a ``Reach`` or ``None``.
    """
    return mask if isinstance(mask, Reach) else Reach(mask)


def segment_mask(segments: Any) -> jax.Array:
    """Which tokens of packed rows may see each other: those of one segment.

    Args:
        segments: integers, shape ``[B, T]``: the number of each token's segment, 0 on padding.

    Returns:
        Booleans, shape ``[B, T, T]``.

    Raises:
        BatchError: ``segments`` is no ``[B, T]``.

    Examples:
        >>> segment_mask(jnp.array([[1, 2, 0]])).astype(int).tolist()
        [[[1, 0, 0], [0, 1, 0], [0, 0, 0]]]
    """
    segments = jnp.asarray(segments)
    if segments.ndim != 2:
        raise BatchError(
            f"segments have shape {list(segments.shape)}",
            expected="[B, T]: one number a token",
            do="give the segments that data.pack made",
        )
    return (segments[:, :, None] == segments[:, None, :]) & (segments != 0)[:, None, :]


def places(reach: Reach, rows: int, length: int) -> jax.Array:
    """The position of each token, int ``[B, T]``: the given ones, else on from the cache's end.

    Args:
        reach: what the tokens may see.
        rows: ``B``.
        length: ``T``.

    Examples:
        >>> places(Reach(index=jnp.int32(3)), 1, 2).tolist()
        [[3, 4]]
    """
    if reach.positions is not None:
        return jnp.asarray(reach.positions)
    start = 0 if reach.index is None else reach.index
    return jnp.broadcast_to((start + jnp.arange(length))[None], (rows, length))


def cache_mask(reach: Reach, rows: int, length: int, room: int) -> jax.Array:
    """Which tokens of the cache each new token sees: itself and those before it.

    Args:
        reach: its ``mask`` is over the cache, its ``index`` is how many tokens are in it.
        rows: ``B``.
        length: ``T``, how many tokens are new.
        room: ``L``, of the cache.

    Returns:
        Booleans ``[B, T, L]``.

    Raises:
        BatchError: the mask is not over the cache.
        ConfigError: packed segments, which no cache knows.

    Examples:
        >>> cache_mask(Reach(index=jnp.int32(1)), 1, 2, 4).astype(int).tolist()
        [[[1, 1, 0, 0], [1, 1, 1, 0]]]
    """
    if reach.segments is not None:
        raise ConfigError(
            "packed segments were given to a cache",
            expected="one text a row where tokens are kept in a cache",
            do="unpack the rows, and say by mask which tokens of the cache are padding",
        )
    if reach.mask is not None and jnp.shape(reach.mask) != (rows, room):
        raise BatchError(
            f"the mask has shape {list(jnp.shape(reach.mask))}",
            expected=f"{[rows, room]}: one entry for each token that the cache has room for",
            do="give 1 for real tokens, those to come among them, and 0 for padding",
        )
    last = reach.index + jnp.arange(length)
    seen = jnp.arange(room)[None] <= last[:, None]
    seen = jnp.broadcast_to(seen[None], (rows, length, room))
    return seen if reach.mask is None else seen & (jnp.asarray(reach.mask) != 0)[:, None]


def real_tokens(mask: Any, length: int) -> Any:
    """Which of the tokens at hand are no padding, for layers that look at no others.

    Args:
        mask: an array, a ``Reach`` or ``None``.
        length: ``T``.

    Returns:
        The mask as it was, ``[B, T]`` of a cache's mask or of segments, or ``None``.

    Examples:
        >>> real_tokens(Reach(jnp.array([[1, 0, 1, 1]]), index=jnp.int32(1)), 2).tolist()
        [[0, 1]]
    """
    reach = reach_of(mask)
    if reach.segments is not None:
        real = jnp.asarray(reach.segments) != 0
        if reach.mask is None:
            return real
        given = jnp.asarray(reach.mask) != 0
        return real & (given if given.ndim == 2 else jnp.diagonal(given, axis1=1, axis2=2))
    if reach.mask is None or reach.index is None:
        return reach.mask
    return jax.lax.dynamic_slice_in_dim(jnp.asarray(reach.mask), reach.index, length, axis=1)
