"""Images as the world spoils them: noise, blur, contrast, shift and cut, at five severities.

Pure functions of an image, a severity from 1 to 5, and a key. Noise, blur and contrast are those of
Hendrycks and Dietterich 2019, "Benchmarking neural network robustness to common corruptions and
perturbations", arXiv:1903.12261, with the constants of their code (github.com/hendrycks/robustness:
make_cifar_c.py for images of under 64 pixels on a side, make_imagenet_c.py for others). ``shift``
and ``cut`` are not among theirs; their constants are jaxdl's.

Reads from: errors, robustness.attacks, robustness.ball. Used by: cli, and by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdl.errors import BatchError, ConfigError, closest
from jaxdl.robustness.attacks import LossOfImages
from jaxdl.robustness.ball import wide

__all__ = ["CORRUPTIONS", "SEVERITIES", "Corruption", "corrupt", "corrupt_image"]

SEVERITIES = (1, 2, 3, 4, 5)
_SMALL_SIDE = 64
_TRUNCATE = 4.0
"""Beyond so many deviations scikit-image's Gaussian filter, which the authors use, is 0."""


class _Kind(NamedTuple):
    """One corruption: ``(key, image, constant, largest constant) -> image``, and its constants."""

    apply: Callable[[Any, jax.Array, jax.Array, float], jax.Array]
    small: tuple[float, ...]
    large: tuple[float, ...]


def corrupt(images: Any, name: str, severity: int | jax.Array, key: Any) -> jax.Array:
    """Corrupts a batch, each row by draws of its own.

    Args:
        images: shape ``[B, H, W, C]``: floats from 0 to 1, or uint8.
        name: one of ``CORRUPTIONS``.
        severity: from 1 to 5; a traced one is held to that.
        key: a typed key, of which row ``i`` takes ``fold_in(key, i)``; or keys of the rows ``[B]``.

    Returns:
        Images of the shape and dtype they had, floats within 0 to 1.

    Raises:
        BatchError: the images are of another shape or dtype.
        ConfigError: there is no such corruption or severity.

    Examples:
        >>> images = jnp.ones((2, 8, 8, 1)).at[:, :4].set(0.0)
        >>> corrupt(images, "contrast", 5, jax.random.key(0))[0, :, 0, 0].tolist()[0]
        0.42500001192092896
    """
    images = jnp.asarray(images)
    if images.ndim != 4:
        raise BatchError(
            f"images to be corrupted have shape {list(images.shape)}",
            expected="[B, H, W, C]",
            do="give one image to corrupt_image",
        )
    if jnp.ndim(key) == 0:
        key = jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.arange(len(images)))
    return jax.vmap(lambda k, x: corrupt_image(k, x, name=name, severity=severity))(key, images)


def corrupt_image(key: Any, image: Any, *, name: str, severity: int | jax.Array = 3) -> jax.Array:
    """Corrupts one image; what ``data.augmented`` takes, with ``functools.partial``.

    Args:
        key: of this image.
        image: shape ``[H, W, C]``: floats from 0 to 1, or uint8.
        name: one of ``CORRUPTIONS``.
        severity: from 1 to 5.

    Returns:
        An image of the shape and dtype it had.

    Raises:
        BatchError: the image is of another shape or dtype.
        ConfigError: there is no such corruption or severity.
    """
    kind = _kind(name)
    if isinstance(severity, int) and severity not in SEVERITIES:
        raise ConfigError(
            f"the severity of {name} is {severity}",
            expected="from 1 to 5",
            do="leave the images as they are for 0",
        )
    image = _checked(image)
    x = image.astype(jnp.float32) / 255 if image.dtype == jnp.uint8 else image
    x = x.astype(wide(x.dtype))
    table = kind.small if min(image.shape[:2]) < _SMALL_SIDE else kind.large
    constant = jnp.asarray(table, x.dtype)[jnp.clip(jnp.asarray(severity) - 1, 0, 4)]
    spoiled = jnp.clip(kind.apply(key, x, constant, max(table)), 0.0, 1.0)
    if image.dtype == jnp.uint8:
        spoiled = jnp.round(spoiled * 255)
    return spoiled.astype(image.dtype)


@dataclass(frozen=True)
class Corruption:
    """A corruption as ``objectives.with_adversary`` takes it; it asks for no gradient.

    Attributes:
        name: one of ``CORRUPTIONS``.
        severity: from 1 to 5.

    Raises:
        ConfigError: there is no such corruption or severity.
    """

    name: str
    severity: int = 3

    def __post_init__(self) -> None:
        """A name or severity that there is not is told at once."""
        _kind(self.name)
        if self.severity not in SEVERITIES:
            raise ConfigError(
                f"the severity of {self.name} is {self.severity}",
                expected="from 1 to 5",
                do="change the setting",
            )

    def __call__(
        self, loss: LossOfImages | None, images: Any, keys: Any = None, row_losses: Any = None
    ) -> jax.Array:
        """Corrupts images.

        Args:
            loss: is not asked.
            images: as ``corrupt``.
            keys: typed keys of the rows, shape ``[B]``.
            row_losses: is not asked.

        Raises:
            BatchError: as ``corrupt``.
        """
        del loss, row_losses
        return corrupt(images, self.name, self.severity, keys)


def _gaussian_noise(key: Any, x: jax.Array, c: jax.Array, _: float) -> jax.Array:
    return x + c * jax.random.normal(key, x.shape, x.dtype)


def _impulse_noise(key: Any, x: jax.Array, c: jax.Array, _: float) -> jax.Array:
    """Salt and pepper in equal shares, on entries, as ``skimage.util.random_noise``."""
    where, which = jax.random.split(key)
    hit = jax.random.uniform(where, x.shape, x.dtype) < c
    white = jax.random.bernoulli(which, 0.5, x.shape)
    return jnp.where(hit, white.astype(x.dtype), x)


def _gaussian_blur(key: Any, x: jax.Array, c: jax.Array, most: float) -> jax.Array:
    del key
    reach = int(_TRUNCATE * most + 0.5)
    places = jnp.arange(-reach, reach + 1)
    weights = jnp.exp(-0.5 * (places / c) ** 2)
    weights = jnp.where(jnp.abs(places) <= jnp.floor(_TRUNCATE * c + 0.5), weights, 0.0)
    weights = (weights / jnp.sum(weights)).astype(x.dtype)
    for axis in (0, 1):
        pads = [(reach, reach) if a == axis else (0, 0) for a in range(3)]
        around = jnp.pad(x, pads, mode="edge")
        x = jax.vmap(lambda i, a=axis, p=around, n=x.shape[axis]: _window(p, i, n, a))(
            jnp.arange(2 * reach + 1)
        )
        x = jnp.tensordot(weights, x, axes=1)
    return x


def _window(x: jax.Array, start: Any, length: int, axis: int) -> jax.Array:
    return jax.lax.dynamic_slice_in_dim(x, start, length, axis)


def _contrast(key: Any, x: jax.Array, c: jax.Array, _: float) -> jax.Array:
    del key
    mean = jnp.mean(x, axis=(0, 1), keepdims=True)
    return (x - mean) * c + mean


def _shift(key: Any, x: jax.Array, c: jax.Array, _: float) -> jax.Array:
    """By a share of the shorter side, to one of the eight neighbours' directions; 0 comes in."""
    height, width, _channels = x.shape
    far = jnp.maximum(1, jnp.round(c * min(height, width))).astype(jnp.int32)
    ways = jnp.array([(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)])
    down, right = ways[jax.random.randint(key, (), 0, 8)] * far
    moved = jnp.roll(x, (down, right), axis=(0, 1))
    y, z = jnp.arange(height)[:, None] - down, jnp.arange(width)[None] - right
    inside = (y >= 0) & (y < height) & (z >= 0) & (z < width)
    return jnp.where(inside[..., None], moved, jnp.zeros_like(moved))


def _cut(key: Any, x: jax.Array, c: jax.Array, _: float) -> jax.Array:
    """A rectangle of 0 of a share of each side, anywhere in the image (DeVries and Taylor 2017)."""
    sides = jnp.array(x.shape[:2])
    size = jnp.maximum(1, jnp.round(c * sides)).astype(jnp.int32)
    top, left = jnp.floor(jax.random.uniform(key, (2,)) * (sides - size + 1)).astype(jnp.int32)
    y, z = jnp.arange(x.shape[0])[:, None], jnp.arange(x.shape[1])[None]
    inside = (y >= top) & (y < top + size[0]) & (z >= left) & (z < left + size[1])
    return jnp.where(inside[..., None], jnp.zeros_like(x), x)


_SHIFTS, _CUTS = (0.05, 0.1, 0.15, 0.2, 0.25), (0.2, 0.3, 0.4, 0.5, 0.6)
_KINDS = {
    "gaussian_noise": _Kind(
        _gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10), (0.08, 0.12, 0.18, 0.26, 0.38)
    ),
    "impulse_noise": _Kind(
        _impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07), (0.03, 0.06, 0.09, 0.17, 0.27)
    ),
    "gaussian_blur": _Kind(_gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1.0), (1.0, 2.0, 3.0, 4.0, 6.0)),
    "contrast": _Kind(_contrast, (0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05)),
    "shift": _Kind(_shift, _SHIFTS, _SHIFTS),
    "cut": _Kind(_cut, _CUTS, _CUTS),
}

CORRUPTIONS = tuple(_KINDS)
"""The names of all corruptions."""


def _kind(name: str) -> _Kind:
    if name not in _KINDS:
        raise ConfigError(
            f"there is no corruption {name!r}",
            expected=f"one of {', '.join(CORRUPTIONS)}",
            do=closest(name, CORRUPTIONS),
        )
    return _KINDS[name]


def _checked(image: Any) -> jax.Array:
    image = jnp.asarray(image)
    known = image.dtype == jnp.uint8 or jnp.issubdtype(image.dtype, jnp.floating)
    if image.ndim != 3 or not known:
        raise BatchError(
            f"an image to be corrupted is {image.dtype}{list(image.shape)}",
            expected="[H, W, C], floats from 0 to 1 or uint8",
            do="corrupt images before they are normalised",
        )
    return image
