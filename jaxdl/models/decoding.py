"""What a decoder does with the masks, segments and positions of its call, and with its cache.

Reads from: errors, models.masks. Used by: models.gpt.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxdl.errors import BatchError, ConfigError
from jaxdl.models.masks import Reach

__all__ = ["reach_in"]


def reach_in(
    module: nn.Module,
    tokens: Any,
    *,
    mask: Any = None,
    segments: Any = None,
    positions: Any = None,
    decode: bool = False,
) -> Any:
    """What the blocks of a decoder are handed as their mask. Called in a compact method.

    With ``decode`` the module keeps in the collection ``"cache"`` how many tokens it has read,
    ``"index"``. A call that finds no cache makes it, with room for as many tokens as it was given,
    and reads none of them.

    Args:
        module: the decoder.
        tokens: integers ``[B, T]``.
        mask: as of the decoder's call; a mask of rows, ``[B]``, hides nothing.
        segments: integers ``[B, T]``, or ``None``.
        positions: integers ``[B, T]``, or ``None``.
        decode: whether there is a cache.

    Returns:
        The mask itself where nothing else was given, else a ``Reach``.

    Raises:
        BatchError: segments or positions do not fit the tokens.
        ConfigError: segments together with a cache, or a cache that may not be written.
    """
    shape = jnp.shape(tokens)
    for name, value in (("segments", segments), ("positions", positions)):
        _check_integers(name, value, shape)
    mask = None if mask is None or jnp.ndim(mask) == 1 else mask
    if not decode:
        return mask if segments is None and positions is None else Reach(mask, segments, positions)
    if segments is not None:
        raise ConfigError(
            "segments were given together with decode=True",
            expected="one text a row where tokens are kept in a cache",
            do="unpack the rows first",
        )
    if not module.is_mutable_collection("cache"):
        raise ConfigError(
            "decode=True, and the collection 'cache' may not be written",
            expected='mutable=["cache"] beside decode=True',
            do='logits, kept = model.apply(variables, tokens, decode=True, mutable=["cache"])',
        )
    made = module.has_variable("cache", "index")
    index = module.variable("cache", "index", jnp.zeros, (), jnp.int32)
    before = index.value
    if made:
        index.value = before + shape[1]
    return Reach(mask, None, positions, before)


def _check_integers(name: str, value: Any, shape: tuple[int, ...]) -> None:
    if value is None:
        return
    if jnp.shape(value) != shape or not jnp.issubdtype(jnp.result_type(value), jnp.integer):
        raise BatchError(
            f"{name} have shape {list(jnp.shape(value))} and dtype {jnp.result_type(value)}",
            expected=f"integers {list(shape)}: one a token",
            do="take them from data.pack, beside its tokens",
        )
