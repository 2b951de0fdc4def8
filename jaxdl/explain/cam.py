"""Grad-CAM: where in a convolutional layer's maps the evidence for a class lies.

Reads from: errors, explain.layers, explain.targets. Used by: cli, and by hand.
"""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.errors import BatchError, ConfigError, closest
from jaxdl.explain.layers import Layer
from jaxdl.explain.targets import Targets, at_mask, chosen, wide

__all__ = ["grad_cam", "resized"]

_METHODS = ("nearest", "bilinear")


def grad_cam(
    layer: Layer,
    inputs: Any,
    targets: Targets = None,
    *,
    relu: bool = True,
    size: tuple[int, ...] | None = None,
    method: Literal["nearest", "bilinear"] = "nearest",
    mask: Any = None,
) -> jax.Array:
    r"""The layer's maps, each weighed by the mean of the score's gradient over it.

    :math:`relu(\sum_c a_c A_c)`, where :math:`a_c` is the mean over places of :math:`\partial s /
    \partial A_c`.

    Source: Selvaraju et al. 2016, "Grad-CAM: visual explanations from deep networks via
    gradient-based localization", arXiv:1610.02391.

    Args:
        layer: whose activation is ``[B, ..., C]``, such as ``[B, h, w, C]``.
        inputs: whatever the layer's functions take; integers too.
        targets: see ``Targets``.
        relu: keep what speaks for the target only, as the paper does. Captum's ``LayerGradCam``
            does so with ``relu_attributions=True``.
        size: stretch the map to this height and width; before it the ReLU is taken.
        method: ``"nearest"`` (Captum's default) or ``"bilinear"``, both as PyTorch's
            ``interpolate``.
        mask: 0 on padding, shape ``[B]``; attributions of those rows are 0.

    Returns:
        Shape ``[B, h, w]`` of the layer (all its axes but the last), or ``[B, *size]``.

    Raises:
        JaxdlError: as ``saliency``, and as the layer's functions.
        BatchError: the activation has less than two axes.
        ConfigError: ``size`` or ``method`` does not fit.

    Examples:
        >>> from jaxdl.explain.layers import split_layer
        >>> layer = split_layer(lambda x: x, lambda a: jnp.sum(a**2, axis=(1, 2, 3)))
        >>> grad_cam(layer, jnp.ones((1, 2, 2, 3))).tolist()
        [[[6.0, 6.0], [6.0, 6.0]]]
    """
    activation = layer.read(inputs)
    if activation.ndim < 2 or not jnp.issubdtype(activation.dtype, jnp.floating):
        raise BatchError(
            f"the layer's activation is {activation.dtype}{list(activation.shape)}",
            expected="floats [B, h, w, C], channels last",
            do="name another layer",
        )

    def total(activation: jax.Array) -> jax.Array:
        return jnp.sum(chosen(layer.resume(inputs, activation), targets))

    dtype = wide(activation.dtype)
    gradient = jax.grad(total)(activation).astype(dtype)
    places = tuple(range(1, activation.ndim - 1))
    weights = jnp.mean(gradient, axis=places, keepdims=True)
    maps = jnp.sum(weights * activation.astype(dtype), axis=-1)
    maps = jax.nn.relu(maps) if relu else maps
    return at_mask(maps if size is None else resized(maps, size, method), mask)


def resized(
    maps: Any, size: tuple[int, ...], method: Literal["nearest", "bilinear"] = "nearest"
) -> jax.Array:
    """Maps stretched (or shrunk) to another size, as PyTorch's ``interpolate`` does it.

    Args:
        maps: shape ``[B, h, w]``, or with fewer or more axes after the first.
        size: of the axes after the first.
        method: ``"nearest"``, the value at or before the place, or ``"bilinear"``: linear between
            the centres of the maps' places, along each axis.

    Returns:
        Shape ``[B, *size]``.

    Raises:
        ConfigError: the size has other axes or is empty, or there is no such method.

    Examples:
        >>> resized(jnp.array([[1.0, 2.0]]), (5,)).tolist()
        [[1.0, 1.0, 1.0, 2.0, 2.0]]
    """
    stretched: jax.Array = jnp.asarray(maps)
    if method not in _METHODS:
        raise ConfigError(
            f"method is {method!r}",
            expected=f"one of {', '.join(_METHODS)}",
            do=closest(str(method), _METHODS),
        )
    if len(size) != stretched.ndim - 1 or min(size, default=0) < 1:
        raise ConfigError(
            f"size is {tuple(size)} for maps {list(stretched.shape)}",
            expected=f"{stretched.ndim - 1} lengths of at least 1",
            do="give the height and width of the inputs",
        )
    for axis, (old, new) in enumerate(zip(stretched.shape[1:], size, strict=True), 1):
        stretched = _stretched(stretched, axis, old, new, method)
    return stretched


def _stretched(maps: jax.Array, axis: int, old: int, new: int, method: str) -> jax.Array:
    # In float32, whose rounding decides which of two neighbours PyTorch takes.
    ratio = np.float32(old) / np.float32(new)
    at = np.arange(new, dtype=np.float32)
    if method == "nearest":
        places = np.minimum(np.floor(at * ratio).astype(int), old - 1)
        return jnp.take(maps, places, axis=axis)
    middle = np.maximum((at + np.float32(0.5)) * ratio - np.float32(0.5), np.float32(0))
    low = np.minimum(middle.astype(int), old - 1)
    high = np.minimum(low + 1, old - 1)
    share = jnp.asarray(middle - low, maps.dtype).reshape((-1,) + (1,) * (maps.ndim - 1 - axis))
    share = share[(None,) * axis]
    return (1 - share) * jnp.take(maps, low, axis=axis) + share * jnp.take(maps, high, axis=axis)
