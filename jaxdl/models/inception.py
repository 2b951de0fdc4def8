"""Inception v3: blocks of parallel convolutions, and a second head half way for training.

Reads from: errors, models.activations, models.images, models.layers. Used by: recipes, by choice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdl.errors import ConfigError
from jaxdl.models.activations import constrain
from jaxdl.models.images import check_images
from jaxdl.models.layers import BatchNorm

__all__ = ["AuxiliaryLogits", "InceptionBlock", "InceptionConv", "InceptionV3", "inception_v3"]

_SMALLEST = 75

# In a convolution's description: stride 2 and no padding.
_DOWN = "/2"


class AuxiliaryLogits(NamedTuple):
    """What a model with an auxiliary head returns in training.

    Attributes:
        logits: of the model, shape ``[B, K]``.
        auxiliary: of the auxiliary head, shape ``[B, K]``.
    """

    logits: Any
    auxiliary: Any


class InceptionConv(nn.Module):
    """A convolution without bias, BatchNorm with epsilon 1e-3, ReLU.

    Attributes:
        features: channels of the result.
        taps: height and width of the kernel.
        stride: along both axes.
        padding: ``"SAME"``, or ``"VALID"`` for none.
        deviation: of the kernel's start.
        train: whether BatchNorm uses the batch.
        momentum: of BatchNorm.
        dtype: of the convolution.
        param_dtype: of the parameters.
        axis_name: the mapped axis that BatchNorm sums over.
    """

    features: int
    taps: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: str = "SAME"
    deviation: float = 0.1
    train: bool = False
    momentum: float = 0.9
    dtype: Any = None
    param_dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, mask: Any = None) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H', W', features]``.

        Args:
            x: shape ``[B, H, W, C]``.
            mask: shape ``[B]``; rows of 0 count in no statistic.
        """
        x = nn.Conv(
            self.features,
            self.taps,
            strides=self.stride,
            padding=self.padding,
            use_bias=False,
            kernel_init=nn.initializers.truncated_normal(self.deviation),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name="conv",
        )(x)
        x = constrain(x, ("batch", None, None, "features"))
        norm = BatchNorm(
            momentum=self.momentum,
            epsilon=1e-3,
            axis_name=self.axis_name,
            param_dtype=self.param_dtype,
            name="norm",
        )
        return nn.relu(norm(x, train=self.train, mask=mask))


class InceptionBlock(nn.Module):
    """Branches over the same input, concatenated along the channels.

    Attributes:
        kind: ``"a"`` to ``"e"``, as in figures 5, 10, 6, 10 and 7 of the paper: ``"b"`` and
            ``"d"`` halve the image.
        features: what differs between blocks of a kind: of the pooled branch in ``"a"``, of the
            inner 7-tap convolutions in ``"c"``.
        count_padding: see ``InceptionV3``.
        options: the attributes that all ``InceptionConv`` share.
    """

    kind: str
    features: int = 192
    count_padding: bool = False
    options: Mapping[str, Any] | None = None

    @nn.compact
    def __call__(self, x: jax.Array, mask: Any = None) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H', W', D]``.

        Args:
            x: shape ``[B, H, W, C]``.
            mask: shape ``[B]``; rows of 0 count in no statistic.
        """
        ends: list[jax.Array] = []
        for name, layers in _branches(self.kind, self.features).items():
            y = x
            for index, layer in enumerate(layers):
                y = self._layer(y, f"{name}_{index}", layer, mask)
            ends.append(y)
        down = self.kind in "bd"
        if down:
            pooled = nn.max_pool(x, (3, 3), strides=(2, 2))
        else:
            padded = self.count_padding
            pooled = nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=padded)
            features = self.features if self.kind == "a" else 192
            pooled = self._conv(pooled, "pool", (features, (1, 1)), mask)
        return jnp.concatenate([*ends, pooled], axis=-1)

    def _layer(self, x: jax.Array, name: str, layer: Any, mask: Any) -> jax.Array:
        if isinstance(layer, list):
            fork: list[Any] = layer
            parts = zip(("a", "b"), fork, strict=True)
            return jnp.concatenate([self._conv(x, name + k, e, mask) for k, e in parts], axis=-1)
        return self._conv(x, name, layer, mask)

    def _conv(self, x: jax.Array, name: str, layer: Any, mask: Any) -> jax.Array:
        features, taps, *down = layer
        sizes: dict[str, Any] = {"stride": 2, "padding": "VALID"} if down else {}
        return InceptionConv(features, taps, **sizes, **(self.options or {}), name=name)(x, mask)


def _branches(kind: str, n: int) -> dict[str, list[Any]]:
    """The convolutions of each branch but the pooled one, as ``(features, taps)``."""
    one, row, column, three = (1, 1), (1, 7), (7, 1), (3, 3)
    if kind == "a":
        return {
            "one": [(64, one)],
            "five": [(48, one), (64, (5, 5))],
            "double": [(64, one), (96, three), (96, three)],
        }
    if kind == "b":
        return {
            "three": [(384, three, _DOWN)],
            "double": [(64, one), (96, three), (96, three, _DOWN)],
        }
    if kind == "c":
        return {
            "one": [(192, one)],
            "seven": [(n, one), (n, row), (192, column)],
            "double": [(n, one), (n, column), (n, row), (n, column), (192, row)],
        }
    if kind == "d":
        return {
            "three": [(192, one), (320, three, _DOWN)],
            "seven": [(192, one), (192, row), (192, column), (192, three, _DOWN)],
        }
    fork = [(384, (1, 3)), (384, (3, 1))]
    return {
        "one": [(320, one)],
        "three": [(384, one), fork],
        "double": [(448, one), (384, three), fork],
    }


class InceptionV3(nn.Module):
    """The third version of the Inception network of Szegedy et al.

    A stem of five convolutions, three blocks at an eighth of the image's side, four at a sixteenth,
    two at a 32nd, each group but the first behind a block that halves, then the mean over the
    image, dropout and a dense layer. Images have 299 pixels on a side, or any size from 75. Under
    299 the auxiliary head pads its 5x5 convolution, and under 107 it pools over what is there.

    In training the model returns ``AuxiliaryLogits``; ``objectives.with_auxiliary`` adds the second
    loss. Kernels start normal, cut at two deviations of 0.1 (of the auxiliary head's last two
    layers, 0.01 and 0.001), as in TF-slim. BatchNorm has epsilon 1e-3; its momentum is 0.9997 in
    TF-slim, 0.99 in Keras, 0.9 in torchvision.

    Source: Szegedy et al. 2015, "Rethinking the Inception architecture for computer vision",
    arXiv:1512.00567; what the paper leaves open, the authors' code: github.com/tensorflow/models,
    research/slim/nets/inception_v3.py.

    Attributes:
        num_classes: the number of outputs.
        auxiliary: whether there is an auxiliary head.
        dropout_rate: before the last dense layer.
        momentum: of BatchNorm.
        count_padding: whether the mean over 3 x 3 pixels at a border divides by nine. The authors'
            code divides by the pixels that are there, torchvision by nine.
        dtype: of the computation; the parameters' when ``None``. BatchNorm computes in float32
            or wider whatever it is.
        param_dtype: of the parameters.
        axis_name: the mapped axis that BatchNorm sums over (``"data"`` under ``jaxdl.pmap``).
    """

    num_classes: int = 1000
    auxiliary: bool = True
    dropout_rate: float = 0.5
    momentum: float = 0.9
    count_padding: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Any, *, train: bool = False, mask: Any = None) -> Any:
        """Maps images ``[B, H, W, C]`` to logits ``[B, num_classes]``, float32 or wider.

        Args:
            x: floating-point images, channels last, from -1 to 1.
            train: whether dropout is on, BatchNorm uses the batch, and the auxiliary head's logits
                are returned too.
            mask: shape ``[B]``; rows of 0 count in no statistic.

        Returns:
            The logits; ``AuxiliaryLogits`` in training when there is an auxiliary head.

        Raises:
            BatchError: the input is no floating-point ``[B, H, W, C]`` of at least 75 x 75.
            ConfigError: an attribute is out of range.
        """
        if self.num_classes < 1 or not 0 <= self.dropout_rate < 1:
            raise ConfigError(
                f"InceptionV3 has num_classes={self.num_classes} and "
                f"dropout_rate={self.dropout_rate}",
                expected="at least one class, and a rate in [0, 1)",
                do="correct them",
            )
        x = check_images(x, "InceptionV3", smallest=_SMALLEST)
        options: dict[str, Any] = {
            "train": train,
            "momentum": self.momentum,
            "dtype": self.dtype,
            "param_dtype": self.param_dtype,
            "axis_name": self.axis_name,
        }
        x = self._stem(x, options, mask)
        second = None
        for name, kind, features in _BLOCKS:
            if kind == "d" and self.auxiliary and (train or self.is_initializing()):
                second = self._second(x, options, mask)
            block = InceptionBlock(kind, features, self.count_padding, options, name=name)
            x = block(x, mask)
        x = jnp.mean(x, axis=(1, 2))
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        logits = self._head(x, "head", 0.1)
        return AuxiliaryLogits(logits, second) if train and second is not None else logits

    def _stem(self, x: jax.Array, options: dict[str, Any], mask: Any) -> jax.Array:
        for index, (features, taps, stride, padding) in enumerate(_STEM):
            sizes: dict[str, Any] = {"stride": stride, "padding": padding}
            layer = InceptionConv(features, (taps, taps), **sizes, **options, name=f"stem_{index}")
            x = layer(x, mask)
            if index in (2, 4):
                x = nn.max_pool(x, (3, 3), strides=(2, 2))
        return x

    def _second(self, x: jax.Array, options: dict[str, Any], mask: Any) -> jax.Array:
        x = nn.avg_pool(x, (min(5, x.shape[1]), min(5, x.shape[2])), strides=(3, 3))
        x = InceptionConv(128, **options, name="auxiliary_0")(x, mask)
        padding = "VALID" if min(x.shape[1:3]) >= 5 else "SAME"
        sizes: dict[str, Any] = {"taps": (5, 5), "padding": padding, "deviation": 0.01}
        x = InceptionConv(768, **sizes, **options, name="auxiliary_1")(x, mask)
        return self._head(jnp.mean(x, axis=(1, 2)), "auxiliary_head", 0.001)

    def _head(self, x: jax.Array, name: str, deviation: float) -> jax.Array:
        x = nn.Dense(
            self.num_classes,
            kernel_init=nn.initializers.truncated_normal(deviation),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name=name,
        )(x)
        x = constrain(x, ("batch", "features"))
        return x.astype(jnp.promote_types(x.dtype, jnp.float32))


# Features, taps, stride and padding.
_STEM = (
    (32, 3, 2, "VALID"),
    (32, 3, 1, "VALID"),
    (64, 3, 1, "SAME"),
    (80, 1, 1, "VALID"),
    (192, 3, 1, "VALID"),
)
# Names are those of TF-slim and of torchvision, in small letters.
_BLOCKS = (
    ("mixed_5b", "a", 32),
    ("mixed_5c", "a", 64),
    ("mixed_5d", "a", 64),
    ("mixed_6a", "b", 0),
    ("mixed_6b", "c", 128),
    ("mixed_6c", "c", 160),
    ("mixed_6d", "c", 160),
    ("mixed_6e", "c", 192),
    ("mixed_7a", "d", 0),
    ("mixed_7b", "e", 0),
    ("mixed_7c", "e", 0),
)


def inception_v3(**options: Any) -> InceptionV3:
    """Inception v3: 27,161,264 parameters at 1,000 classes, 23,834,568 without auxiliary head.

    Args:
        **options: attributes of ``InceptionV3`` that are to be others.
    """
    return InceptionV3(**options)
