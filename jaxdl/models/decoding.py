"""What causal decoders share: what each token may look at, and the cache that makes it cheap.

Reads from: errors, models.layers. Used by: models.attention, the decoders beside it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdl.errors import BatchError, ConfigError
from jaxdl.models.layers import check_rank

__all__ = ["Reach", "checked_tokens", "reach_of", "spoiled"]


class Reach(NamedTuple):
    """What the tokens of a call may look at, and where they stand. Handed to every layer.

    Attributes:
        mask: as ``attention`` takes it; with a cache of ``L`` tokens ``[B, T, L]``.
        segments: numbers of packed segments ``[B, T]``, see ``attention``.
        positions: of each token, ``[B, T]``; ``0 .. T - 1`` when ``None``.
        real: shape ``[B, T]``, 0 on padding; ``None`` without a cache, where ``mask`` says it.
        index: how many tokens the cache holds before the call; ``None`` without a cache.
    """

    mask: Any = None
    segments: Any = None
    positions: Any = None
    real: Any = None
    index: Any = None


def checked_tokens(tokens: Any, max_length: int, model: str) -> jax.Array:
    """Tokens as an array.

    Args:
        tokens: what the model was called on.
        max_length: the most tokens of a row.
        model: the model's name, for the message.

    Raises:
        BatchError: they are no integers ``[B, T]``, or too many.
    """
    check_rank(tokens, 2, "[B, T]", model)
    tokens = jnp.asarray(tokens)
    if not jnp.issubdtype(tokens.dtype, jnp.integer) or tokens.shape[1] > max_length:
        raise BatchError(
            f"{model} got tokens of shape {list(tokens.shape)} and dtype {tokens.dtype}",
            expected=f"integers, at most {max_length} in a row",
            do="cut the rows, raise max_length, or cast the tokens",
        )
    return tokens


def reach_of(
    module: nn.Module,
    tokens: jax.Array,
    *,
    mask: Any = None,
    segments: Any = None,
    positions: Any = None,
    decode: bool = False,
) -> Reach:
    """What the tokens of a call may look at. Called in a compact method of the decoder.

    With ``decode`` the collection ``"cache"`` gets ``index``, ``positions [B]`` and ``real
    [B, L]``: the number of tokens so far, of real tokens of each row, and which are real.
    A padding token takes a place of the cache that nobody looks at, and no position.

    Args:
        module: the decoder.
        tokens: shape ``[B, T]``.
        mask: as the decoder takes it; a mask of rows, ``[B]``, is dropped.
        segments: as ``attention`` takes them.
        positions: shape ``[B, T]``, or ``None``.
        decode: whether there is a cache.

    Raises:
        BatchError: mask, segments or positions do not fit the tokens, or the cache is too short.
        ConfigError: there is no cache.
    """
    mask = None if mask is None or jnp.ndim(mask) == 1 else jnp.asarray(mask)
    if not decode:
        for name, value in (("segments", segments), ("positions", positions)):
            _check_shape(name, value, tokens)
        return Reach(mask, segments, positions)
    _check_shape("a mask with decode=True", mask, tokens)
    if segments is not None or positions is not None:
        raise ConfigError(
            "decode=True got segments or positions",
            expected="one text a row, its places counted by the cache",
            do="generate for each segment in a row of its own",
        )
    return _cached(module, tokens, mask)


def _cached(module: nn.Module, tokens: jax.Array, mask: Any) -> Reach:
    rows, count = tokens.shape
    made = module.has_variable("cache", "index")
    if not made and not module.is_initializing():
        raise ConfigError(
            f"{type(module).__name__} got decode=True and no cache",
            expected="the collection 'cache' among the variables",
            do="make one with generation.empty_cache(model, rows, length)",
        )
    index = module.variable("cache", "index", jnp.zeros, (), jnp.int32)
    placed = module.variable("cache", "positions", jnp.zeros, (rows,), jnp.int32)
    real = module.variable("cache", "real", jnp.zeros, (rows, count), bool)
    if not made:
        return Reach(index=index.value)
    before, length = index.value, real.value.shape[1]
    _check_room(before, tokens, real.value)
    new = jnp.ones(tokens.shape, bool) if mask is None else mask != 0
    real.value = jax.lax.dynamic_update_slice(real.value, new, (0, before))
    positions = placed.value[:, None] + jnp.cumsum(new, axis=1, dtype=jnp.int32) - new
    placed.value = placed.value + jnp.sum(new, axis=1, dtype=jnp.int32)
    index.value = before + count
    earlier = jnp.arange(length)[None, :] <= before + jnp.arange(count)[:, None]
    seen = earlier[None] & real.value[:, None, :]
    return Reach(seen, None, positions, new, before)


def spoiled(x: jax.Array, reach: Reach) -> jax.Array:
    """NaN in place of everything after more tokens than the cache has room for.

    Under ``jit`` the number of tokens so far is not known while tracing, so it cannot be an error.

    Args:
        x: what the decoder returns, shape ``[B, T, D]``.
        reach: of the call.
    """
    if reach.index is None or reach.mask is None:
        return x
    fits = reach.index + x.shape[1] <= reach.mask.shape[-1]
    return jnp.where(fits, x, jnp.full_like(x, jnp.nan))


def _check_shape(name: str, value: Any, tokens: jax.Array) -> None:
    if value is not None and jnp.shape(value) != tokens.shape:
        raise BatchError(
            f"{name} of shape {list(jnp.shape(value))} for tokens {list(tokens.shape)}",
            expected=f"{list(tokens.shape)}, one for each token",
            do="cut both from the same rows",
        )


def _check_room(before: jax.Array, tokens: jax.Array, real: jax.Array) -> None:
    rows, length = real.shape
    if tokens.shape[0] != rows or tokens.shape[1] > length:
        raise BatchError(
            f"tokens of shape {list(tokens.shape)} for a cache of {rows} rows x {length} tokens",
            expected=f"{rows} rows, at most {length} tokens",
            do="make the cache for as many rows and tokens as there will be",
        )
    if not isinstance(before, jax.core.Tracer) and int(before) + tokens.shape[1] > length:
        raise BatchError(
            f"the cache holds {int(before)} of {length} tokens, and {tokens.shape[1]} more came",
            expected=f"at most {length} in all",
            do="make the cache longer",
        )
