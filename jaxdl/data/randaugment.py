"""RandAugment: some of fourteen operations on an 8-bit image, each as strong as the others.

Every operation is Pillow's, as a JAX function. Under ``vmap`` all fourteen are computed for each
image and one is kept.

Source: Cubuk et al. 2019, arXiv:1909.13719; the ranges: Cubuk et al. 2018 (AutoAugment),
arXiv:1805.09501, table 6.

Reads from: errors, data.augmenting. Used by: recipes, by choice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.data.augmenting import check_image
from jaxdl.errors import BatchError, ConfigError

__all__ = ["OPERATIONS", "rand_augment"]

_FILL = 128.0


def rand_augment(
    key: jax.Array, image: Any, *, num_ops: int = 2, magnitude: float = 9.0
) -> jax.Array:
    """``num_ops`` random operations, one after the other, of one magnitude.

    Turns, shears, shifts and the four enhancements have a random sign. What comes into the image
    from outside is grey, 128.

    Args:
        key: of this image.
        image: uint8, shape ``[H, W, 1]`` or ``[H, W, 3]``.
        num_ops: ``N`` of the paper.
        magnitude: ``M`` of the paper, from 0 to 10.

    Returns:
        uint8 of its shape.

    Raises:
        BatchError: no such image.
        ConfigError: ``num_ops`` is negative or ``magnitude`` out of range.
    """
    image = check_image(image)
    if image.dtype != jnp.uint8 or image.shape[-1] not in (1, 3):
        raise BatchError(
            f"rand_augment got {image.dtype}{list(image.shape)}",
            expected="uint8, [H, W, 1] or [H, W, 3]",
            do="augment before normalising",
        )
    if num_ops < 0 or not 0 <= magnitude <= 10:
        raise ConfigError(
            f"num_ops is {num_ops} and magnitude is {magnitude}",
            expected="num_ops from 0, magnitude from 0 to 10",
            do="start from 2 and 9",
        )
    operations = list(OPERATIONS.values())
    x = image.astype(jnp.float32)
    for each in jax.random.split(key, num_ops) if num_ops else ():
        which, side = jax.random.split(each)
        sign = jnp.where(jax.random.bernoulli(side), 1.0, -1.0)
        strength = sign * (magnitude / 10)
        x = jax.lax.switch(
            jax.random.randint(which, (), 0, len(operations)), operations, x, strength
        )
    return x.astype(jnp.uint8)


def _identity(x: jax.Array, strength: Any) -> jax.Array:
    del strength
    return x


def _auto_contrast(x: jax.Array, strength: Any) -> jax.Array:
    del strength
    low, high = (f(x, axis=(0, 1), keepdims=True) for f in (jnp.min, jnp.max))
    scale = 255 / jnp.where(high > low, high - low, 1.0)
    return jnp.where(high > low, jnp.clip(jnp.floor((x - low) * scale + 1e-3), 0, 255), x)


def _equalize(x: jax.Array, strength: Any) -> jax.Array:
    del strength
    return jax.vmap(_equalized, in_axes=-1, out_axes=-1)(x.astype(jnp.int32)).astype(jnp.float32)


def _equalized(channel: jax.Array) -> jax.Array:
    counts = jnp.zeros(256, jnp.int32).at[channel.ravel()].add(1)
    last = counts[255 - jnp.argmax(counts[::-1] > 0)]
    step = (channel.size - last) // 255
    before = jnp.cumsum(counts) - counts
    table = jnp.clip((before + step // 2) // jnp.maximum(step, 1), 0, 255)
    return jnp.where(step == 0, channel, table[channel])


def _solarize(x: jax.Array, strength: Any) -> jax.Array:
    return jnp.where(x < 256 * (1 - jnp.abs(strength)), x, 255 - x)


def _posterize(x: jax.Array, strength: Any) -> jax.Array:
    # Eight bits down to four.
    step = 2.0 ** jnp.round(4 * jnp.abs(strength))
    return jnp.floor(x / step) * step


def _grey(x: jax.Array) -> jax.Array:
    if x.shape[-1] == 1:
        return x
    weights = np.array([19595, 38470, 7471], np.int32)
    return ((x.astype(jnp.int32) @ weights + 0x8000) >> 16).astype(jnp.float32)[..., None]


def _blend(away: jax.Array, x: jax.Array, strength: Any) -> jax.Array:
    return jnp.clip(jnp.floor(away + (1 + 0.9 * strength) * (x - away)), 0, 255)


def _color(x: jax.Array, strength: Any) -> jax.Array:
    return _blend(_grey(x), x, strength)


def _contrast(x: jax.Array, strength: Any) -> jax.Array:
    return _blend(jnp.floor(jnp.mean(_grey(x)) + 0.5), x, strength)


def _brightness(x: jax.Array, strength: Any) -> jax.Array:
    return _blend(jnp.zeros(()), x, strength)


def _sharpness(x: jax.Array, strength: Any) -> jax.Array:
    height, width, _ = x.shape
    if min(height, width) < 3:
        return x
    near = [x[i : i + height - 2, j : j + width - 2] for i in range(3) for j in range(3)]
    smooth = jnp.floor((sum(near, jnp.zeros(())) + 4 * x[1:-1, 1:-1]) / 13 + 0.5)
    return _blend(x.at[1:-1, 1:-1].set(smooth), x, strength)


def _moved(x: jax.Array, matrix: Any, offset: Any) -> jax.Array:
    """Pixel ``(y, x)`` of the result is the nearest one to ``matrix @ (y, x) + offset``."""
    height, width, _ = x.shape
    rows, columns = jnp.meshgrid(jnp.arange(height) + 0.5, jnp.arange(width) + 0.5, indexing="ij")
    y = jnp.floor(matrix[0][0] * rows + matrix[0][1] * columns + offset[0]).astype(jnp.int32)
    z = jnp.floor(matrix[1][0] * rows + matrix[1][1] * columns + offset[1]).astype(jnp.int32)
    inside = (y >= 0) & (y < height) & (z >= 0) & (z < width)
    found = x[jnp.clip(y, 0, height - 1), jnp.clip(z, 0, width - 1)]
    return jnp.where(inside[..., None], found, _FILL)


def _rotate(x: jax.Array, strength: Any) -> jax.Array:
    angle = jnp.deg2rad(30.0 * strength)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    cy, cx = x.shape[0] / 2, x.shape[1] / 2
    offset = (cy - cos * cy - sin * cx, cx + sin * cy - cos * cx)
    return _moved(x, ((cos, sin), (-sin, cos)), offset)


def _shear_x(x: jax.Array, strength: Any) -> jax.Array:
    return _moved(x, ((1.0, 0.0), (0.3 * strength, 1.0)), (0.0, 0.0))


def _shear_y(x: jax.Array, strength: Any) -> jax.Array:
    return _moved(x, ((1.0, 0.3 * strength), (0.0, 1.0)), (0.0, 0.0))


def _translate_x(x: jax.Array, strength: Any) -> jax.Array:
    return _moved(x, ((1.0, 0.0), (0.0, 1.0)), (0.0, 150 / 331 * x.shape[1] * strength))


def _translate_y(x: jax.Array, strength: Any) -> jax.Array:
    return _moved(x, ((1.0, 0.0), (0.0, 1.0)), (150 / 331 * x.shape[0] * strength, 0.0))


OPERATIONS: Mapping[str, Callable[[jax.Array, Any], jax.Array]] = {
    "identity": _identity,
    "auto_contrast": _auto_contrast,
    "equalize": _equalize,
    "rotate": _rotate,
    "solarize": _solarize,
    "color": _color,
    "posterize": _posterize,
    "contrast": _contrast,
    "brightness": _brightness,
    "sharpness": _sharpness,
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "translate_x": _translate_x,
    "translate_y": _translate_y,
}
"""``(image of floats 0 .. 255, strength -1 .. 1) -> image``: 30 degrees of turn, a shear of 0.3, a
shift of 150/331 of the side, factors of 0.1 to 1.9, thresholds of 256 to 0, 8 bits to 4."""
