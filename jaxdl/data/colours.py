"""Random colours and blur, as contrastive learning uses them: pure functions of a key and an image.

Floats lie in 0 to 1, integers in 0 to 255; the dtype is kept.

Reads from: errors, data.augmenting. Used by: recipes, objectives of one's own.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.data.augmenting import check_image, like
from jaxdl.errors import BatchError, ConfigError

__all__ = ["color_jitter", "gaussian_blur", "random_grayscale"]

_GREY = np.array([0.299, 0.587, 0.114], np.float32)


def color_jitter(
    key: jax.Array,
    image: Any,
    *,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    hue: float = 0.0,
) -> jax.Array:
    """Random brightness, contrast, saturation and hue, in this order.

    Factors are uniform in ``1 - x .. 1 + x`` (from 0 at least), the hue's turn in ``-x .. x``.
    Source: Chen et al. 2020 (SimCLR), arXiv:2002.05709, appendix A, with 0.8, 0.8, 0.8 and 0.2
    times a strength; torchvision draws the order as well.

    Args:
        key: of this image.
        image: shape ``[H, W, 3]``.
        brightness: of the factor that all is multiplied by.
        contrast: of the factor of the distance from the mean grey.
        saturation: of the factor of the distance from the pixel's own grey.
        hue: of the turn of the colour circle; 0.5 is half of it.

    Raises:
        BatchError: the image has not 3 channels.
        ConfigError: a strength is negative, or ``hue`` is over 0.5.
    """
    image = _checked(image)
    if min(brightness, contrast, saturation, hue) < 0 or hue > 0.5:
        raise ConfigError(
            f"color_jitter got {brightness}, {contrast}, {saturation} and {hue}",
            expected="strengths from 0, hue to 0.5",
            do="correct them",
        )
    top = _top(image)
    x = image.astype(jnp.float32) / top
    keys = jax.random.split(key, 4)

    def factor(index: int, strength: float) -> jax.Array:
        low = max(0.0, 1 - strength)
        return jax.random.uniform(keys[index], (), jnp.float32, low, 1 + strength)

    if brightness:
        x = jnp.clip(x * factor(0, brightness), 0, 1)
    if contrast:
        mean = jnp.mean(x @ _GREY)
        x = jnp.clip(mean + factor(1, contrast) * (x - mean), 0, 1)
    if saturation:
        grey = (x @ _GREY)[..., None]
        x = jnp.clip(grey + factor(2, saturation) * (x - grey), 0, 1)
    if hue:
        x = _turned(x, jax.random.uniform(keys[3], (), jnp.float32, -hue, hue))
    return like(x * top, image)


def random_grayscale(key: jax.Array, image: Any, probability: float = 0.2) -> jax.Array:
    """The image, or its grey on all three channels.

    Args:
        key: of this image.
        image: shape ``[H, W, 3]``.
        probability: of the grey.
    """
    image = _checked(image)
    grey = jnp.broadcast_to((image.astype(jnp.float32) @ _GREY)[..., None], image.shape)
    return jnp.where(jax.random.bernoulli(key, probability), like(grey, image), image)


def gaussian_blur(
    key: jax.Array,
    image: Any,
    *,
    sigma: tuple[float, float] = (0.1, 2.0),
    probability: float = 0.5,
    taps: int | None = None,
) -> jax.Array:
    """The image, or the image blurred; edges are mirrored.

    Source: Chen et al. 2020 (SimCLR), arXiv:2002.05709, appendix A.

    Args:
        key: of this image.
        image: shape ``[H, W, C]``.
        sigma: least and largest deviation, in pixels.
        probability: of the blur.
        taps: of the kernel, an odd number; a tenth of the height when ``None``, at least 3.

    Raises:
        ConfigError: ``sigma`` is not an ordered pair of positive numbers, or ``taps`` even or
            wider than the image allows.
    """
    image = check_image(image)
    taps = taps or max(3, image.shape[0] // 10 | 1)
    reach = taps // 2
    if not (0 < sigma[0] <= sigma[1] and taps % 2 and reach < min(image.shape[:2])):
        raise ConfigError(
            f"sigma is {sigma} and taps is {taps} for an image of {image.shape[:2]}",
            expected="0 < least <= largest, and odd taps less than twice the image",
            do="correct them",
        )
    drawn, chosen = jax.random.split(key)
    deviation = jax.random.uniform(drawn, (), jnp.float32, *sigma)
    distance = jnp.arange(-reach, reach + 1, dtype=jnp.float32)
    kernel = jnp.exp(-0.5 * (distance / deviation) ** 2)
    kernel = kernel / jnp.sum(kernel)
    x = jnp.pad(image.astype(jnp.float32), ((reach, reach), (reach, reach), (0, 0)), "reflect")
    height, width, _ = image.shape
    x = sum((kernel[i] * x[i : i + height] for i in range(taps)), jnp.zeros(()))
    x = sum((kernel[i] * x[:, i : i + width] for i in range(taps)), jnp.zeros(()))
    return jnp.where(jax.random.bernoulli(chosen, probability), like(x, image), image)


def _turned(x: jax.Array, turn: jax.Array) -> jax.Array:
    """Colours with their hue turned, by way of hue, saturation and value."""
    value, least = jnp.max(x, axis=-1), jnp.min(x, axis=-1)
    spread = value - least
    safe = jnp.where(spread == 0, 1.0, spread)
    r, g, b = x[..., 0], x[..., 1], x[..., 2]
    hue = jnp.where(value == g, 2 + (b - r) / safe, 4 + (r - g) / safe)
    hue = jnp.where(value == r, (g - b) / safe, hue) / 6 + turn

    def channel(n: int) -> jax.Array:
        k = (n + 6 * hue) % 6
        return value - spread * jnp.clip(jnp.minimum(k, 4 - k), 0, 1)

    return jnp.stack([channel(5), channel(3), channel(1)], axis=-1)


def _top(image: jax.Array) -> float:
    return 255.0 if jnp.issubdtype(image.dtype, jnp.integer) else 1.0


def _checked(image: Any) -> jax.Array:
    image = check_image(image)
    if image.shape[-1] != 3:
        raise BatchError(
            f"the image has shape {list(image.shape)}",
            expected="[H, W, 3]: red, green and blue",
            do="repeat a grey channel three times",
        )
    return image
