"""Random crops, flips and cutout: pure functions of a key and one image, and the way into a source.

They work under ``jit`` and ``vmap``, on uint8 and on floats, and keep the dtype.

Reads from: errors, data.batches. Used by: data.colours, data.randaugment, recipes,
by choice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.data.batches import Transform
from jaxdl.errors import BatchError, ConfigError, closest

__all__ = [
    "CIFAR10_MEAN",
    "CIFAR10_STD",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "augmented",
    "center_crop",
    "check_image",
    "cutout",
    "like",
    "normalized",
    "random_crop",
    "random_flip",
    "random_resized_crop",
]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Of red, green and blue, on a scale of 0 to 1: torchvision's."""
IMAGENET_STD = (0.229, 0.224, 0.225)
CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
"""Of the training images, on a scale of 0 to 1."""
CIFAR10_STD = (0.2470, 0.2435, 0.2616)

_TRIES = 10


def augmented(fn: Callable[[jax.Array, jax.Array], Any], *, field: str = "image") -> Transform:
    """A transform of ``Batches`` from a function of one image.

    The key of a row follows from the number of the batch and the row's place in it, so that batch
    ``k`` stays a function of ``(seed, k)``. It runs on the host's CPU, where JAX has that backend.

    Args:
        fn: ``(key, image [H, W, C]) -> image``, a JAX function; its results have one shape.
        field: of the batch, that holds the images.

    Raises:
        BatchError: when it is used, the batch has no such field.

    Examples:
        >>> from jaxdl import data
        >>> source = data.arrays({"image": np.arange(12, dtype=np.uint8).reshape(2, 2, 3, 1)})
        >>> batches = data.Batches(source, 2, transform=augmented(random_flip))
        >>> batches[0]["image"].shape
        (2, 2, 3, 1)
    """
    mapped = jax.jit(
        lambda seed, images: jax.vmap(fn)(
            jax.random.split(jax.random.wrap_key_data(seed, impl="threefry2x32"), len(images)),
            images,
        )
    )

    def transform(batch: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        if field not in batch:
            raise BatchError(
                f"the batch has no field {field!r}",
                expected=", ".join(batch),
                do=closest(field, batch),
            )
        seed = rng.integers(2**32, size=2, dtype=np.uint32)
        with jax.default_device(_cpu()):
            return {**batch, field: np.asarray(mapped(seed, batch[field]))}

    return transform


def _cpu() -> Any:
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        # JAX_PLATFORMS leaves the CPU out.
        return None


def random_crop(
    key: jax.Array, image: Any, *, padding: int = 4, size: tuple[int, int] | None = None
) -> jax.Array:
    """A crop at a random place of an image with zeros around it.

    Source: He et al. 2015, arXiv:1512.03385, section 4.2 (CIFAR: 4 pixels, then 32 x 32).

    Args:
        key: of this image.
        image: shape ``[H, W, C]``.
        padding: pixels of zeros on each side.
        size: (height, width) of the crop; the image's when ``None``.

    Returns:
        Shape ``[*size, C]``.

    Raises:
        BatchError: no ``[H, W, C]``.
        ConfigError: the crop is larger than the padded image.
    """
    image = check_image(image)
    height, width = size or image.shape[:2]
    around = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    _check_size((height, width), around)
    room = jnp.array([around.shape[0] - height, around.shape[1] - width])
    top, left = jax.random.randint(key, (2,), 0, room + 1)
    return jax.lax.dynamic_slice(around, (top, left, 0), (height, width, image.shape[2]))


def random_flip(key: jax.Array, image: Any, probability: float = 0.5) -> jax.Array:
    """The image, or its mirror image left to right.

    Args:
        key: of this image.
        image: shape ``[H, W, C]``.
        probability: of the mirror image.
    """
    image = check_image(image)
    return jnp.where(jax.random.bernoulli(key, probability), image[:, ::-1], image)


def center_crop(image: Any, size: tuple[int, int]) -> jax.Array:
    """The middle of an image.

    Args:
        image: shape ``[H, W, C]``.
        size: (height, width) in pixels.

    Raises:
        ConfigError: the image is smaller.
    """
    image = check_image(image)
    _check_size(size, image)
    top, left = (image.shape[0] - size[0]) // 2, (image.shape[1] - size[1]) // 2
    return image[top : top + size[0], left : left + size[1]]


def random_resized_crop(
    key: jax.Array,
    image: Any,
    size: tuple[int, int],
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> jax.Array:
    """A part of the image of random area and shape, resized bilinearly.

    Of ten draws the first that fits is taken; where none does, the largest part in the middle with
    a permitted shape. Pixels beyond the part's edge weigh in at the edge, as the resizing is
    antialiased.

    Source: Szegedy et al. 2014, arXiv:1409.4842, section 6; the ten draws: torchvision.

    Args:
        key: of this image.
        image: shape ``[H, W, C]``.
        size: (height, width) of the result.
        scale: least and largest share of the image's area.
        ratio: least and largest width by height.

    Returns:
        Shape ``[*size, C]``; integers are rounded.

    Raises:
        ConfigError: ``scale`` or ``ratio`` is not an ordered pair of positive numbers.
    """
    image = check_image(image)
    for name, pair in (("scale", scale), ("ratio", ratio)):
        if not 0 < pair[0] <= pair[1]:
            raise ConfigError(
                f"{name} is {pair}", expected="0 < least <= largest", do="correct the pair"
            )
    top, left, height, width = _part(key, image.shape[0], image.shape[1], scale, ratio)
    factor = jnp.array([size[0] / height, size[1] / width])
    resized = jax.image.scale_and_translate(
        image.astype(jnp.float32),
        (*size, image.shape[2]),
        (0, 1),
        factor,
        -jnp.array([top, left]) * factor,
        method="linear",
    )
    return like(resized, image)


def _part(
    key: jax.Array, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[jax.Array, ...]:
    """Top, left, height and width of the part, as floats of whole pixels."""
    areas, shapes, places = jax.random.split(key, 3)
    area = height * width * jax.random.uniform(areas, (_TRIES,), jnp.float32, *scale)
    bounds = np.log(np.array(ratio, np.float32))
    shape = jnp.exp(jax.random.uniform(shapes, (_TRIES,), jnp.float32, bounds[0], bounds[1]))
    w, h = jnp.round(jnp.sqrt(area * shape)), jnp.round(jnp.sqrt(area / shape))
    fits = (w >= 1) & (h >= 1) & (w <= width) & (h <= height)
    first = jnp.argmax(fits)
    middle_w = max(1.0, round(min(width, height * ratio[1])))
    middle_h = max(1.0, round(min(height, width / ratio[0])))
    found = fits[first]
    w, h = jnp.where(found, w[first], middle_w), jnp.where(found, h[first], middle_h)
    room = jnp.stack([height - h, width - w])
    drawn = jnp.minimum(jnp.floor(jax.random.uniform(places, (2,)) * (room + 1)), room)
    top, left = jnp.where(found, drawn, jnp.floor(room / 2))
    return top, left, h, w


def cutout(key: jax.Array, image: Any, *, size: int = 16) -> jax.Array:
    """The image with a square of zeros, whose centre is anywhere in it.

    Source: DeVries and Taylor 2017, arXiv:1708.04552. Normalise first: zeros are then the mean.

    Args:
        key: of this image.
        image: shape ``[H, W, C]``.
        size: pixels on a side of the square, which may reach over the edge.
    """
    image = check_image(image)
    height, width, _ = image.shape
    y, x = jax.random.randint(key, (2,), 0, jnp.array([height, width]))
    rows, columns = jnp.arange(height)[:, None], jnp.arange(width)[None]
    top, left = y - size // 2, x - size // 2
    inside = (rows >= top) & (rows < top + size) & (columns >= left) & (columns < left + size)
    return jnp.where(inside[..., None], jnp.zeros((), image.dtype), image)


def normalized(image: Any, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    """Floats around 0 with a deviation of about 1 from an image or a batch of them.

    Args:
        image: shape ``[..., C]``; integers are divided by 255 first, floats are 0 to 1 already.
        mean: of each channel, on a scale of 0 to 1.
        std: of each channel.

    Returns:
        float32, or wider where the image is.

    Raises:
        ConfigError: the constants are not one a channel.
    """
    image = jnp.asarray(image)
    if not len(mean) == len(std) == image.shape[-1]:
        raise ConfigError(
            f"{len(mean)} means and {len(std)} deviations for {image.shape[-1]} channels",
            expected="one of each a channel",
            do="give constants of this data set",
        )
    floats = jnp.promote_types(image.dtype, jnp.float32)
    if jnp.issubdtype(image.dtype, jnp.integer):
        image, floats = image.astype(jnp.float32) / 255, jnp.dtype(jnp.float32)
    shape = (1,) * (image.ndim - 1) + (-1,)
    means, stds = (jnp.asarray(values, floats).reshape(shape) for values in (mean, std))
    return (image - means) / stds


def like(values: jax.Array, image: jax.Array) -> jax.Array:
    """Computed pixels with the dtype of the image; integers are rounded and held to 0 .. 255.

    Args:
        values: floats.
        image: what they were computed from.
    """
    if jnp.issubdtype(image.dtype, jnp.integer):
        values = jnp.clip(jnp.round(values), 0, 255)
    return values.astype(image.dtype)


def check_image(image: Any) -> jax.Array:
    """Gives an image ``[H, W, C]`` as a JAX array.

    Args:
        image: to be checked.

    Raises:
        BatchError: it has another rank.
    """
    image = jnp.asarray(image)
    if image.ndim != 3:
        raise BatchError(
            f"the image has shape {list(image.shape)}",
            expected="one image, [H, W, C]",
            do="map over a batch: jax.vmap(fn)(keys, images), or data.augmented(fn)",
        )
    return image


def _check_size(size: tuple[int, int], image: jax.Array) -> None:
    if not (1 <= size[0] <= image.shape[0] and 1 <= size[1] <= image.shape[1]):
        raise ConfigError(
            f"a crop of {size} from an image of {image.shape[:2]}",
            expected="a crop of at least one pixel that lies inside",
            do="choose a smaller crop, or resize the image first",
        )
