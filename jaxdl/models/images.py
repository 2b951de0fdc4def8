"""What image models ask of their input, and what their attributes may be.

Reads from: errors, models.layers. Used by: the models beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxdl.errors import BatchError, ConfigError, closest
from jaxdl.models.layers import check_rank

__all__ = ["check_choice", "check_images"]


def check_images(x: Any, model: str, *, smallest: int = 1) -> jax.Array:
    """The input as an array, if it can be images ``[B, H, W, C]``.

    Args:
        x: the input.
        model: the model's name, for the message.
        smallest: the least height and width in pixels.

    Returns:
        ``x``, floating-point.

    Raises:
        BatchError: it has other than four axes, its channels come first, it holds no floats, or it
            is smaller than ``smallest``.
    """
    check_rank(x, 4, "[B, H, W, C]", model)
    x = jnp.asarray(x)
    _, height, width, channels = x.shape
    if height in (1, 3) and width == channels > 4:
        raise BatchError(
            f"{model} got an input of shape {list(x.shape)}",
            expected="[B, H, W, C], channels last",
            do="move the channels: jnp.moveaxis(images, 1, -1)",
        )
    if not jnp.issubdtype(x.dtype, jnp.floating) or 0 in (height, width, channels):
        raise BatchError(
            f"{model} got images of shape {list(x.shape)} and dtype {x.dtype}",
            expected="floats, of at least one pixel",
            do="cast and normalise them first (models.to_float scales integers to 0 .. 1)",
        )
    if min(height, width) < smallest:
        raise BatchError(
            f"{model} got images of {height} x {width} pixels",
            expected=f"at least {smallest} x {smallest}, or nothing is left before its last pool",
            do="draw them larger: jax.image.resize(images, ..., 'bilinear')",
        )
    return x


def check_choice(model: str, name: str, value: Any, known: Sequence[Any]) -> None:
    """An attribute has one of the values that it can have.

    Args:
        model: the model's name, for the message.
        name: of the attribute.
        value: its value.
        known: the values that it can have.

    Raises:
        ConfigError: it has another one.
    """
    if value not in known:
        words = [str(each) for each in known]
        raise ConfigError(
            f"{model} has {name}={value!r}",
            expected=f"one of {', '.join(words)}",
            do=closest(str(value), words),
        )
