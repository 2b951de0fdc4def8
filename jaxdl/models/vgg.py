"""VGG: 3x3 convolutions in five stages, with 11 to 19 layers.

Reads from: errors, models.activations, models.images, models.layers. Used by: recipes, by choice.
"""

from __future__ import annotations

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.sharding import PartitionSpec as P

from jaxdl.errors import ConfigError
from jaxdl.models.activations import constrain
from jaxdl.models.images import check_choice, check_images
from jaxdl.models.layers import BatchNorm

__all__ = [
    "TENSOR_RULES",
    "VGG",
    "adaptive_average_pool",
    "vgg11",
    "vgg11_bn",
    "vgg13",
    "vgg13_bn",
    "vgg16",
    "vgg16_bn",
    "vgg19",
    "vgg19_bn",
]

_STEMS, _NORMS, _GRID = ("imagenet", "cifar"), ("none", "batch"), 7
# As torchvision draws them; the paper began with shallow networks that were trained before.
_HE_NORMAL = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
_DENSE = nn.initializers.normal(0.01)

TENSOR_RULES = (
    (r"dense_0/kernel$", P(None, "tensor")),
    (r"dense_0/bias$", P("tensor")),
    (r"dense_1/kernel$", P("tensor", None)),
)
"""Tensor parallelism of the two large dense layers, which hold nine tenths of the parameters:
columns of the first, rows of the second (Shoeybi et al. 2019, arXiv:1909.08053)."""


class VGG(nn.Module):
    """The network of Simonyan and Zisserman.

    Five stages of 3x3 convolutions, padded by 1, with a ReLU after each; each stage ends in a 2x2
    max-pool and all but the last double the channels. The head of ImageNet averages what is left to
    7 x 7 (which changes nothing for images of 224) and has two dense layers of ``hidden_dim``, each
    with ReLU and dropout, before the last; that of CIFAR is the mean over the image and one dense
    layer. A side of one pixel is not pooled, so that images may have any size.

    Convolutions have a bias with BatchNorm too, as in torchvision, whose starting values these are:
    kernels normal with the deviation of He et al. for the backward pass, those of dense layers with
    0.01, biases 0. BatchNorm has epsilon 1e-5 and momentum 0.9.

    Source: Simonyan and Zisserman 2014, "Very deep convolutional networks for large-scale image
    recognition", arXiv:1409.1556, table 1 (A, B, D and E). The average, BatchNorm and the starting
    values: torchvision, models/vgg.py. The head of CIFAR: github.com/kuangliu/pytorch-cifar.

    Attributes:
        stage_sizes: convolutions in each stage.
        num_classes: the number of outputs.
        stem: ``"imagenet"`` or ``"cifar"``: which of the two heads (the convolutions are the same).
        width: channels of the first stage; no stage has more than eight times as many.
        hidden_dim: of the dense layers of the head of ImageNet.
        norm: ``"batch"`` normalises after each convolution.
        dropout_rate: after each hidden dense layer.
        dtype: of the computation; the parameters' when ``None``. BatchNorm computes in float32
            or wider whatever it is.
        param_dtype: of the parameters.
        axis_name: the mapped axis that BatchNorm sums over (``"data"`` under ``jaxdl.pmap``).

    Examples:
        >>> model = vgg11(num_classes=10, stem="cifar", width=4)
        >>> model.init_with_output(jax.random.key(0), jnp.zeros((2, 32, 32, 3)))[0].shape
        (2, 10)
    """

    stage_sizes: tuple[int, ...]
    num_classes: int = 1000
    stem: Literal["imagenet", "cifar"] = "imagenet"
    width: int = 64
    hidden_dim: int = 4096
    norm: Literal["none", "batch"] = "none"
    dropout_rate: float = 0.5
    dtype: Any = None
    param_dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Any, *, train: bool = False, mask: Any = None) -> jax.Array:
        """Maps images ``[B, H, W, C]`` to logits ``[B, num_classes]``, float32 or wider.

        Args:
            x: floating-point images, channels last; each channel around mean 0 and deviation 1.
            train: whether dropout is on and BatchNorm uses the batch.
            mask: shape ``[B]``; rows of 0 count in no statistic.

        Raises:
            BatchError: the input is no floating-point ``[B, H, W, C]``.
            ConfigError: an attribute is out of range.
        """
        self._check()
        x = check_images(x, "VGG")
        index = 0
        for stage, count in enumerate(self.stage_sizes):
            for _ in range(count):
                x = self._convolved(x, min(2**stage, 8) * self.width, index, train, mask)
                index += 1
            window = (min(2, x.shape[1]), min(2, x.shape[2]))
            x = nn.max_pool(x, window, strides=window)
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        small = self.stem == "cifar"
        x = jnp.mean(x, axis=(1, 2)) if small else self._hidden(x, types, train)
        x = nn.Dense(self.num_classes, kernel_init=_DENSE, name="head", **types)(x)
        x = constrain(x, ("batch", "features"))
        return x.astype(jnp.promote_types(x.dtype, jnp.float32))

    def _convolved(
        self, x: jax.Array, features: int, index: int, train: bool, mask: Any
    ) -> jax.Array:
        x = nn.Conv(
            features,
            (3, 3),
            padding=1,
            kernel_init=_HE_NORMAL,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name=f"conv_{index}",
        )(x)
        x = constrain(x, ("batch", None, None, "features"))
        if self.norm == "batch":
            options: dict[str, Any] = {
                "axis_name": self.axis_name,
                "param_dtype": self.param_dtype,
            }
            x = BatchNorm(**options, name=f"norm_{index}")(x, train=train, mask=mask)
        return nn.relu(x)

    def _hidden(self, x: jax.Array, types: dict[str, Any], train: bool) -> jax.Array:
        x = adaptive_average_pool(x, (_GRID, _GRID))
        x = x.reshape(x.shape[0], -1)
        for index, name in enumerate(("hidden", "features")):
            dense = nn.Dense(self.hidden_dim, kernel_init=_DENSE, name=f"dense_{index}", **types)
            x = constrain(nn.relu(dense(x)), ("batch", name))
            x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        return x

    def _check(self) -> None:
        check_choice("VGG", "stem", self.stem, _STEMS)
        check_choice("VGG", "norm", self.norm, _NORMS)
        sizes = (*self.stage_sizes, self.width, self.num_classes, self.hidden_dim)
        if not self.stage_sizes or min(sizes) < 1 or not 0 <= self.dropout_rate < 1:
            raise ConfigError(
                f"VGG has stage_sizes={self.stage_sizes}, width={self.width}, "
                f"num_classes={self.num_classes}, hidden_dim={self.hidden_dim} and "
                f"dropout_rate={self.dropout_rate}",
                expected="at least one stage, nothing below 1, and a rate in [0, 1)",
                do="start from vgg16() and change what you need",
            )


def adaptive_average_pool(x: Any, size: tuple[int, int]) -> jax.Array:
    """The mean over a grid of windows, whatever the size of the image.

    Window ``i`` of ``n`` over ``H`` pixels reaches from ``floor(i H / n)`` to ``ceil((i + 1) H /
    n)``, as in PyTorch's ``AdaptiveAvgPool2d``; windows overlap where ``n`` does not divide ``H``.

    Args:
        x: shape ``[B, H, W, C]``.
        size: height and width of the grid.

    Returns:
        Shape ``[B, *size, C]``.

    Examples:
        >>> adaptive_average_pool(jnp.arange(4.0).reshape(1, 4, 1, 1), (2, 1)).ravel().tolist()
        [0.5, 2.5]
    """
    x = jnp.asarray(x)
    for axis, count in zip((1, 2), size, strict=True):
        if x.shape[axis] != count:
            means = jnp.asarray(_windows(x.shape[axis], count), x.dtype)
            x = jnp.moveaxis(jnp.tensordot(x, means, axes=(axis, 1)), -1, axis)
    return x


def _windows(side: int, count: int) -> npt.NDArray[Any]:
    """Each window's share of each pixel, ``[count, side]``."""
    pixel = np.arange(side)
    start = np.floor(np.arange(count) * side / count)[:, None]
    stop = np.ceil(np.arange(1, count + 1) * side / count)[:, None]
    return ((pixel >= start) & (pixel < stop)) / (stop - start)


def _published(stage_sizes: tuple[int, ...], norm: str, options: dict[str, Any]) -> VGG:
    sizes: dict[str, Any] = {"stage_sizes": stage_sizes, "norm": norm}
    return VGG(**{**sizes, **options})


def vgg11(**options: Any) -> VGG:
    """VGG-11: 132,863,336 parameters at 1,000 classes and 3 channels.

    Args:
        **options: attributes of ``VGG`` that are to be others.
    """
    return _published((1, 1, 2, 2, 2), "none", options)


def vgg11_bn(**options: Any) -> VGG:
    """VGG-11 with BatchNorm: 132,868,840 parameters at 1,000 classes and 3 channels.

    Args:
        **options: attributes of ``VGG`` that are to be others.
    """
    return _published((1, 1, 2, 2, 2), "batch", options)


def vgg13(**options: Any) -> VGG:
    """VGG-13: 133,047,848 parameters at 1,000 classes and 3 channels.

    Args:
        **options: attributes of ``VGG`` that are to be others.
    """
    return _published((2, 2, 2, 2, 2), "none", options)


def vgg13_bn(**options: Any) -> VGG:
    """VGG-13 with BatchNorm: 133,053,736 parameters at 1,000 classes and 3 channels.

    Args:
        **options: attributes of ``VGG`` that are to be others.
    """
    return _published((2, 2, 2, 2, 2), "batch", options)


def vgg16(**options: Any) -> VGG:
    """VGG-16: 138,357,544 parameters at 1,000 classes and 3 channels.

    Args:
        **options: attributes of ``VGG`` that are to be others.
    """
    return _published((2, 2, 3, 3, 3), "none", options)


def vgg16_bn(**options: Any) -> VGG:
    """VGG-16 with BatchNorm: 138,365,992 parameters at 1,000 classes and 3 channels.

    Args:
        **options: attributes of ``VGG`` that are to be others.
    """
    return _published((2, 2, 3, 3, 3), "batch", options)


def vgg19(**options: Any) -> VGG:
    """VGG-19: 143,667,240 parameters at 1,000 classes and 3 channels.

    Args:
        **options: attributes of ``VGG`` that are to be others.
    """
    return _published((2, 2, 4, 4, 4), "none", options)


def vgg19_bn(**options: Any) -> VGG:
    """VGG-19 with BatchNorm: 143,678,248 parameters at 1,000 classes and 3 channels.

    Args:
        **options: attributes of ``VGG`` that are to be others.
    """
    return _published((2, 2, 4, 4, 4), "batch", options)
