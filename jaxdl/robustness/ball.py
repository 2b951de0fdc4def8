"""Perturbations that stay where they may be: in a ball around an image, and in the valid range.

All of it holds to the last bit. The float nearest to ``x + d`` may be further from ``x`` than
``d`` is; here sums are rounded towards ``x``, in bfloat16 by more than a hundredth of the range.

Reads from: errors. Used by: robustness.attacks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.errors import BatchError

__all__ = [
    "Bound",
    "Norm",
    "clipped",
    "direction",
    "drawn",
    "ends",
    "inward",
    "moved",
    "rows",
    "wide",
]

Norm = Literal["linf", "l2"]

Bound = float | Sequence[float]
"""An end of the valid range: one number, or one for each entry of the last axis (channels)."""


def wide(dtype: Any) -> Any:
    """The dtype that perturbations are computed in: float32 at least.

    Args:
        dtype: of the images.
    """
    return jnp.promote_types(dtype, jnp.float32)


def rows(values: jax.Array, like: jax.Array) -> jax.Array:
    """One number a row, shaped to meet the row's entries.

    Args:
        values: shape ``[B]``.
        like: shape ``[B, ...]``.
    """
    return values.reshape(values.shape + (1,) * (like.ndim - 1))


def inward(value: Bound, dtype: Any, side: Literal["low", "high"]) -> np.ndarray:
    """An end of a range as the nearest float of a dtype that lies in the range.

    Args:
        value: the end.
        dtype: of floats.
        side: which end it is.

    Examples:
        >>> float(inward(0.3, jnp.float32, "high")) <= 0.3 <= float(inward(0.3, jnp.float32, "low"))
        True
    """
    exact = np.asarray(value, np.float64)
    near = exact.astype(dtype)
    low = side == "low"
    outside = near.astype(np.float64) < exact if low else near.astype(np.float64) > exact
    return np.where(
        outside, np.nextafter(near, np.asarray(np.inf if low else -np.inf, dtype)), near
    )


def direction(gradient: jax.Array, norm: Norm) -> jax.Array:
    """Where the loss rises fastest for a step of norm 1, row by row; 0 where it is flat.

    The sign for ``"linf"``, the gradient over its length for ``"l2"``, however small it is.

    Args:
        gradient: shape ``[B, ...]``.
        norm: which.
    """
    if norm == "linf":
        return jnp.sign(gradient)
    axes = tuple(range(1, gradient.ndim))
    largest = jnp.max(jnp.abs(gradient), axis=axes, keepdims=True, initial=0.0)
    flat = largest == 0
    # Over its largest entry first: squares of small numbers vanish.
    scaled = gradient / jnp.where(flat, jnp.ones_like(largest), largest)
    length = jnp.sqrt(jnp.sum(scaled**2, axis=axes, keepdims=True))
    return scaled / jnp.where(flat, jnp.ones_like(length), length)


def drawn(keys: jax.Array, shape: tuple[int, ...], radius: Any, norm: Norm) -> jax.Array:
    """Uniform points of balls, one a key.

    Args:
        keys: typed, shape ``[B]``.
        shape: of one point.
        radius: of the ball, a scalar array of the dtype of the points.
        norm: of the ball.

    Returns:
        Shape ``[B, *shape]``.
    """
    dtype = radius.dtype

    def cube(key: jax.Array) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -radius, radius)

    def sphere(key: jax.Array) -> jax.Array:
        where, how_far = jax.random.split(key)
        points = direction(jax.random.normal(where, (1, *shape), dtype), "l2")[0]
        share = jax.random.uniform(how_far, (), dtype) ** (1.0 / max(1, int(np.prod(shape))))
        return points * jnp.broadcast_to(radius * share, points.shape)

    return jax.vmap(cube if norm == "linf" else sphere)(keys)


def clipped(delta: jax.Array, radius: jax.Array, norm: Norm) -> jax.Array:
    """The nearest perturbation of each row that is in the ball.

    Args:
        delta: shape ``[B, ...]``.
        radius: of the ball, a scalar of the same dtype.
        norm: of the ball.
    """
    if norm == "linf":
        return jnp.clip(delta, -radius, radius)
    axes = tuple(range(1, delta.ndim))
    # What the sum of so many squares may be off by.
    entries = int(np.prod(delta.shape[1:]))
    margin = 1.0 - float(jnp.finfo(delta.dtype).eps) * (4.0 + entries**0.5)
    length = jnp.sqrt(jnp.sum(delta**2, axis=axes, keepdims=True))
    most = jnp.broadcast_to(radius * margin, length.shape)
    outside = length > most
    share = most / jnp.where(outside, length, jnp.ones_like(length))
    return jnp.where(outside, delta * share, delta)


def moved(images: jax.Array, delta: jax.Array, low: Bound, high: Bound) -> jax.Array:
    """The images with perturbations, none of them enlarged by rounding, in the valid range.

    Args:
        images: floats, shape ``[B, ...]``. One that is outside of the range already comes no
            further out.
        delta: of the dtype ``wide``, same shape.
        low: the lower end of the range.
        high: the upper end.

    Returns:
        Images of the dtype they had.

    Raises:
        BatchError: the range has an end for each channel, of which there are others.
    """
    x = images.astype(delta.dtype)
    total = x + delta
    # The exact error of the sum (Knuth, TAOCP 2, section 4.2.2).
    back = total - x
    error = (x - (total - back)) + (delta - back)
    beyond = jnp.where(delta > 0, error < 0, error > 0) & (delta != 0)
    total = jnp.where(beyond, jax.lax.nextafter(total, x), total)
    if images.dtype != delta.dtype:
        total = _narrowed(total, images, x, delta)
    return jnp.clip(total, *_range(images, low, high))


def ends(images: jax.Array, low: Bound, high: Bound, dtype: Any) -> tuple[jax.Array, jax.Array]:
    """How far down and up each entry may move in the valid range.

    Args:
        images: floats, shape ``[B, ...]``.
        low: the lower end of the range.
        high: the upper end.
        dtype: of perturbations.

    Returns:
        At most 0 and at least 0, each of the images' shape.

    Raises:
        BatchError: as ``moved``.
    """
    x = images.astype(dtype)
    lowest, highest = _range(images, low, high)
    return lowest.astype(dtype) - x, highest.astype(dtype) - x


def _narrowed(total: jax.Array, images: jax.Array, x: jax.Array, delta: jax.Array) -> jax.Array:
    """``total`` in the dtype of the images, rounded towards them."""
    info = jnp.finfo(images.dtype)
    # A cast there and back may be dropped by the compiler; this may not.
    near = jax.lax.reduce_precision(total, info.nexp, info.nmant)
    beyond = jnp.where(delta > 0, near > total, near < total)
    stepped = jax.lax.nextafter(near.astype(images.dtype), images)
    near = jnp.where(beyond, stepped, near.astype(images.dtype))
    kept = jnp.abs(near.astype(x.dtype) - x) <= jnp.abs(delta)
    return jnp.where(kept | jnp.isnan(total), near, images)


def _range(images: jax.Array, low: Bound, high: Bound) -> tuple[jax.Array, jax.Array]:
    """The ends for each entry; where it lies outside of them already, it is the end itself."""
    lowest, highest = _end(low, images, "low"), _end(high, images, "high")
    return jnp.minimum(lowest, images), jnp.maximum(highest, images)


def _end(bound: Bound, images: jax.Array, side: Literal["low", "high"]) -> jax.Array:
    value = inward(bound, images.dtype, side)
    if value.ndim and value.shape != images.shape[-1:]:
        raise BatchError(
            f"{side} has {value.size} numbers for images of shape {list(images.shape)}",
            expected="one number, or one for each entry of the last axis",
            do="give the range of each channel",
        )
    shape = (1,) * (images.ndim - value.ndim) + value.shape
    return jnp.broadcast_to(jnp.asarray(value).reshape(shape), images.shape)
