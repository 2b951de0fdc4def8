"""Which tokens of a row are hidden, and by what: drawn row by row, from the row's own key.

Reads from: errors, protocols. Used by: objectives.masked_lm.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.errors import ConfigError
from jaxdl.protocols import EXAMPLE_KEY, Batch

__all__ = ["Hidden", "Masking", "content_keys", "example_keys", "hide"]

# Of the draws made here, so that they are others than those of dropout from the same key.
_STREAM = 0x6D61736B
_MASKED, _RANDOM = 0.8, 0.9


class Masking:
    """The rule of hiding tokens.

    Args:
        vocab_size: ``V``.
        mask_token: the number of the token that hides another.
        special: numbers of tokens that are never chosen.
        rate: the share of tokens to choose.

    Raises:
        ConfigError: a setting is out of range.
    """

    def __init__(self, vocab_size: int, mask_token: int, special: tuple[int, ...], rate: float):
        if not 0.0 < rate <= 1.0:
            raise ConfigError(
                f"masked_lm has rate={rate}", expected="above 0 and up to 1", do="0.15 is BERT's"
            )
        for token in (mask_token, *special):
            if not 0 <= token < vocab_size:
                raise ConfigError(
                    f"masked_lm has the token {token} in a vocabulary of {vocab_size}",
                    expected=f"mask_token and special from 0 to {vocab_size - 1}",
                    do="take the numbers from the tokenizer, and vocab_size from the model",
                )
        self.vocab_size = vocab_size
        self.mask_token = mask_token
        self.kept = np.array(sorted({mask_token, *special}), np.int32)
        self.rate = rate

    def counts(self, length: int) -> np.ndarray:
        """How many of ``0 .. length`` tokens are chosen.

        Args:
            length: of a row.
        """
        counts = np.round(self.rate * np.arange(length + 1)).astype(np.int32)
        return np.maximum(counts, np.minimum(np.arange(length + 1), 1))


class Hidden(NamedTuple):
    """Rows with tokens hidden. ``S`` is how many can be chosen of a row.

    Attributes:
        tokens: what the model reads, shape ``[B, T]``.
        positions: the places that are asked for, shape ``[B, S]``.
        labels: what stood there, shape ``[B, S]``.
        weights: how much each counts, shape ``[B, S]``; 0 where fewer were chosen.
    """

    tokens: jax.Array
    positions: jax.Array
    labels: jax.Array
    weights: jax.Array


def example_keys(batch: Batch, key: Any, tokens: jax.Array) -> jax.Array:
    """One key an example: those that the train step adds, else made from ``key``.

    Args:
        batch: the batch.
        key: the step's key.
        tokens: shape ``[B, T]``.
    """
    keys = batch.get(EXAMPLE_KEY)
    if keys is None:
        rows = jnp.arange(tokens.shape[0])
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, rows)
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, _STREAM)


def content_keys(tokens: jax.Array, real: jax.Array, seed: int) -> jax.Array:
    """One key a row that follows from its real tokens and their places.

    Args:
        tokens: integers, shape ``[B, T]``.
        real: booleans, shape ``[B, T]``.
        seed: another gives other keys.

    Returns:
        Typed keys, shape ``[B]``, of one generator whatever JAX is set to.
    """
    start = jax.random.key(seed, impl="threefry2x32")
    places = jnp.arange(tokens.shape[1], dtype=jnp.uint32)[None]
    digests = []
    for number in (0x9E3779B9, 0x85EBCA6B):
        mixed = _mixed(tokens.astype(jnp.uint32) + _mixed(places + jnp.uint32(number)))
        kept = jnp.where(real, mixed, jnp.uint32(0))
        # Whole numbers wrap around, so the sum is exact in any order.
        digests.append(jnp.sum(kept, axis=1, dtype=jnp.uint32))

    def keyed(first: jax.Array, second: jax.Array) -> jax.Array:
        return jax.random.fold_in(jax.random.fold_in(start, first), second)

    return jax.vmap(keyed)(*digests)


def _mixed(x: jax.Array) -> jax.Array:
    """The finalizer of MurmurHash3 (Appleby, smhasher): each bit of the result from all of x."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def hide(keys: jax.Array, tokens: jax.Array, real: jax.Array, rule: Masking) -> Hidden:
    """Chooses tokens and hides them.

    The draws of a place follow from its row's key and its number, so that more padding changes
    none.

    Args:
        keys: typed, shape ``[B]``.
        tokens: integers, shape ``[B, T]``.
        real: how much each token counts, shape ``[B, T]``, integers or floats; 0 on padding.
        rule: what is chosen and how it is hidden.
    """
    length = tokens.shape[1]
    special = jnp.any(tokens[:, :, None] == rule.kept.astype(tokens.dtype)[None, None], axis=-1)
    free = (real != 0) & ~special
    places = jnp.arange(length)
    at = jax.vmap(lambda key: jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, places))(keys)
    scores, way, other = jax.vmap(jax.vmap(lambda key: _draws(key, rule.vocab_size)))(at)
    counts = rule.counts(length)
    # A sort, which a program over a mesh keeps to the rows of each device.
    order = jnp.argsort(jnp.where(free, scores, 2.0), axis=1)
    positions = order[:, : int(counts[-1])]
    rank = jnp.arange(positions.shape[1])[None]
    chosen = rank < jnp.asarray(counts)[jnp.sum(free, axis=1)][:, None]
    labels = jnp.take_along_axis(tokens, positions, axis=1)
    way = jnp.take_along_axis(way, positions, axis=1)
    other = jnp.take_along_axis(other, positions, axis=1).astype(tokens.dtype)
    new = jnp.where(way < _RANDOM, other, labels)
    new = jnp.where(way < _MASKED, jnp.asarray(rule.mask_token, tokens.dtype), new)
    read = jax.vmap(lambda row, at, put: row.at[at].set(put))(
        tokens, positions, jnp.where(chosen, new, labels)
    )
    weights = jnp.where(chosen, jnp.take_along_axis(real, positions, axis=1), 0)
    return Hidden(read, positions, labels, weights.astype(real.dtype))


def _draws(key: jax.Array, vocab_size: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """A place's score, the way it is hidden, and the token it may be replaced by."""
    first, second, third = jax.random.split(key, 3)
    score, way = jax.random.uniform(first), jax.random.uniform(second)
    return score, way, jax.random.randint(third, (), 0, vocab_size)
