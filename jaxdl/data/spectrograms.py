"""What is done to spectrograms before a model reads them: normalising, and masking at random.

Reads from: errors. Used by: recipes, by choice.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxdl.errors import BatchError, ConfigError

__all__ = ["normalized", "spec_augment"]


def normalized(x: Any, mask: Any = None, *, epsilon: float = 1e-5) -> jax.Array:
    """Each row's bands with mean 0 and deviation 1 over its real frames; padding is 0.

    Args:
        x: floats, shape ``[B, T, F]``.
        mask: shape ``[B, T]``, 0 on padding; all frames are real when ``None``.
        epsilon: added to the variance.

    Returns:
        The shape of ``x``.

    Raises:
        BatchError: the shapes do not go together.
    """
    x, keep = _checked(x, mask)
    weights = keep[..., None].astype(x.dtype)
    count = jnp.maximum(jnp.sum(weights, axis=1, keepdims=True), 1.0)
    x = jnp.where(keep[..., None], x, jnp.zeros_like(x))
    centred = (x - jnp.sum(x, axis=1, keepdims=True) / count) * weights
    variance = jnp.sum(jnp.square(centred), axis=1, keepdims=True) / count
    return centred * jax.lax.rsqrt(variance + epsilon)


def spec_augment(
    x: Any,
    keys: Any,
    mask: Any = None,
    *,
    bands: tuple[int, int] = (2, 27),
    frames: tuple[int, int] = (2, 100),
    share: float = 1.0,
) -> jax.Array:
    """Stripes of bands and of frames set to 0, which is the mean of normalised spectrograms.

    A stripe's width is drawn from 0 to its limit, then its place. Source: Park et al. 2019,
    arXiv:1904.08779, policy LD with ``share=1.0`` (without time warping). What a row loses depends
    on its key and its length alone.

    Args:
        x: floats, shape ``[B, T, F]``.
        keys: typed keys, shape ``[B]``.
        mask: shape ``[B, T]``, 0 on padding at the end of a row; or ``[B]`` or ``None``.
        bands: how many stripes of bands, and their limit of width.
        frames: how many stripes of frames, and their limit of width.
        share: the most of a row's real frames that one stripe covers.

    Returns:
        The shape and dtype of ``x``.

    Raises:
        BatchError: the shapes do not go together.
        ConfigError: a count or limit is negative, or ``share`` is not from 0 to 1.
    """
    if min(*bands, *frames) < 0 or not 0.0 <= share <= 1.0:
        raise ConfigError(
            f"bands is {bands}, frames {frames}, share {share}",
            expected="counts and limits of at least 0, a share from 0 to 1",
            do="give (how many, width at most)",
        )
    x, keep = _checked(x, mask if mask is None or jnp.ndim(mask) != 1 else None)

    def covered(key: Any, count: int, limit: Any, size: Any, length: int) -> jax.Array:
        """Booleans ``[length]``: true in a stripe."""
        draws = jax.random.uniform(key, (count, 2))
        width = jnp.floor(draws[:, 0] * (jnp.minimum(limit, size) + 1))
        start = jnp.floor(draws[:, 1] * (size - width + 1))
        places = jnp.arange(length)[None]
        inside = (places >= start[:, None]) & (places < (start + width)[:, None])
        return jnp.any(inside, axis=0)

    def row(x: jax.Array, key: Any, real: jax.Array) -> jax.Array:
        over_bands, over_frames = jax.random.split(key)
        lost_bands = covered(over_bands, *bands, x.shape[1], x.shape[1])
        # A share that is a whole number of frames but for rounding is that number.
        limit = jnp.minimum(frames[1], jnp.floor(share * real + 1e-4))
        lost_frames = covered(over_frames, frames[0], limit, real, x.shape[0])
        return jnp.where(lost_bands[None] | lost_frames[:, None], jnp.zeros_like(x), x)

    return jax.vmap(row)(x, keys, jnp.sum(keep, axis=1))


def _checked(x: Any, mask: Any) -> tuple[jax.Array, jax.Array]:
    x = jnp.asarray(x)
    good = x.ndim == 3 and jnp.issubdtype(x.dtype, jnp.floating)
    if not good or (mask is not None and jnp.shape(mask) != x.shape[:2]):
        raise BatchError(
            f"got {x.dtype} of shape {list(x.shape)} and a mask of "
            f"{None if mask is None else list(jnp.shape(mask))}",
            expected="floats [B, T, F] and [B, T]",
            do="give one entry of the mask to a frame",
        )
    return x, jnp.ones(x.shape[:2], bool) if mask is None else jnp.asarray(mask) != 0
