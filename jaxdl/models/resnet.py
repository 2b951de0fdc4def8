"""ResNet: residual convolutional networks of 18 to 152 layers.

Reads from: errors, models.activations, models.images, models.layers, models.stack. Used by:
recipes, by choice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdl.errors import ConfigError
from jaxdl.models.activations import constrain
from jaxdl.models.images import check_choice, check_images
from jaxdl.models.layers import BatchNorm
from jaxdl.models.stack import REMAT_POLICIES

__all__ = [
    "ConvNorm",
    "ResNet",
    "ResidualBlock",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
]

_STEMS, _NORMS, _VERSIONS = ("imagenet", "cifar"), ("batch", "none"), ("1.5", "1")
# As He et al. 2015 (arXiv:1502.01852) for the backward pass, which is what torchvision draws.
_HE_NORMAL = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def _keep_convolutions(primitive: Any, *_: Any, **__: Any) -> bool:
    return primitive is jax.lax.conv_general_dilated_p


class ConvNorm(nn.Module):
    """A convolution, padded by half its taps on every side, and what normalises its result.

    Attributes:
        features: channels of the result.
        taps: width and height of the kernel.
        stride: along both axes.
        norm: ``"batch"``; with ``"none"`` the convolution has a bias.
        zero_init: whether what scales the result, the norm or else the kernel, starts at 0.
        train: whether BatchNorm uses the batch.
        dtype: of the convolution.
        param_dtype: of the parameters.
        axis_name: the mapped axis that BatchNorm sums over.
    """

    features: int
    taps: int
    stride: int = 1
    norm: str = "batch"
    zero_init: bool = False
    train: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, mask: Any = None) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, ceil(H / stride), ceil(W / stride), features]``.

        Args:
            x: shape ``[B, H, W, C]``.
            mask: shape ``[B]``; rows of 0 count in no statistic.
        """
        plain, zeros = self.norm == "none", nn.initializers.zeros
        x = nn.Conv(
            self.features,
            (self.taps, self.taps),
            strides=self.stride,
            padding=self.taps // 2,
            use_bias=plain,
            kernel_init=zeros if plain and self.zero_init else _HE_NORMAL,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name="conv",
        )(x)
        x = constrain(x, ("batch", None, None, "features"))
        if plain:
            return x
        norm = BatchNorm(
            axis_name=self.axis_name,
            scale_init=zeros if self.zero_init else nn.initializers.ones,
            param_dtype=self.param_dtype,
            name="norm",
        )
        return norm(x, train=self.train, mask=mask)


class ResidualBlock(nn.Module):
    """``relu(shortcut(x) + layers(x))``, of two convolutions or of three.

    The shortcut is ``x``, or where sizes differ a convolution of one tap (option B of the paper).

    Attributes:
        features: of the 3x3 convolutions; a bottleneck returns four times as many.
        stride: of the first 3x3 convolution and of the shortcut.
        bottleneck: 1x1, 3x3, 1x1 in place of 3x3, 3x3.
        early_stride: a bottleneck has its stride in the first 1x1 convolution instead.
        zero_init: whether the block starts as its shortcut alone.
        options: the attributes that all ``ConvNorm`` share.
    """

    features: int
    stride: int = 1
    bottleneck: bool = False
    early_stride: bool = False
    zero_init: bool = False
    options: Mapping[str, Any] | None = None

    @nn.compact
    def __call__(self, x: jax.Array, mask: Any = None) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, ceil(H / stride), ceil(W / stride), D]``.

        Args:
            x: shape ``[B, H, W, C]``.
            mask: shape ``[B]``; rows of 0 count in no statistic.
        """
        options = dict(self.options or {})
        inner: dict[str, Any] = {"features": self.features, "taps": 3, "stride": self.stride}
        layers = [inner, {"features": self.features, "taps": 3}]
        if self.bottleneck:
            before = {"features": self.features, "taps": 1}
            if self.early_stride:
                before["stride"], inner["stride"] = self.stride, 1
            layers = [before, inner, {"features": 4 * self.features, "taps": 1}]
        layers[-1]["zero_init"] = self.zero_init
        y = x
        for index, sizes in enumerate(layers):
            y = ConvNorm(**sizes, **options, name=f"layer_{index}")(y, mask)
            y = nn.relu(y) if index + 1 < len(layers) else y
        if self.stride != 1 or x.shape[-1] != y.shape[-1]:
            shortcut = ConvNorm(y.shape[-1], 1, self.stride, **options, name="shortcut")
            x = shortcut(x, mask)
        return nn.relu(x + y)


class ResNet(nn.Module):
    r"""The residual network of He et al. in its version 1.5.

    A stem, four stages of blocks (the first block of each but the first halves height and width
    and doubles the features), the mean over the image, a dense layer. The stem of ImageNet is a 7x7
    convolution of stride 2 padded by 3 and a 3x3 max-pool of stride 2 padded by 1; that of CIFAR,
    for images of about 32 pixels, a 3x3 convolution and no pool. All padding is symmetric, as in
    PyTorch: ``"SAME"`` would pad a convolution of stride 2 on one side. A bottleneck has its stride
    in the 3x3 convolution; version 1, the paper's and Keras's, has it in the first 1x1.

    Kernels start normal with deviation :math:`\sqrt{2 / n}`, :math:`n` being the outputs that an
    input reaches; the head's with 0.01, its bias at 0. BatchNorm has epsilon 1e-5, momentum 0.9 and
    statistics over the whole batch on all devices; see ``BatchNorm`` on how it stores the variance.

    Source: He et al. 2015, "Deep residual learning for image recognition", arXiv:1512.03385.
    Version 1.5: NVIDIA, github.com/NVIDIA/DeepLearningExamples, and torchvision, models/resnet.py.
    The head's start: Goyal et al. 2017, arXiv:1706.02677, section 5.1.

    Attributes:
        stage_sizes: blocks in each stage.
        bottleneck: blocks of three convolutions, which return four times the features.
        num_classes: the number of outputs.
        stem: ``"imagenet"`` or ``"cifar"``.
        width: features of the first stage's 3x3 convolutions.
        version: ``"1.5"`` or ``"1"``, which differ in bottlenecks only.
        norm: ``"batch"``; with ``"none"``, for objectives in which no example may touch another,
            each convolution has a bias.
        zero_init: whether the last BatchNorm scale of each block starts at 0 (with ``norm="none"``
            its last kernel), so that a block starts as its shortcut. Off in the paper and in
            torchvision; Goyal et al. train with it on, which helps with large batches.
        dtype: of the computation; the parameters' when ``None``. BatchNorm computes in float32
            or wider whatever it is.
        param_dtype: of the parameters.
        axis_name: the mapped axis that BatchNorm sums over (``"data"`` under ``jaxdl.pmap``).
        remat: what a block keeps for the backward pass: ``"full"`` its input; ``"dots_no_batch"``
            and ``"dots"``, which are one here, the results of convolutions too, so that only
            BatchNorm and ReLU are computed again; ``None`` everything.

    Examples:
        >>> model = resnet18(num_classes=10, stem="cifar", width=8)
        >>> logits, variables = model.init_with_output(jax.random.key(0), jnp.zeros((2, 32, 32, 3)))
        >>> logits.shape, sorted(variables)
        ((2, 10), ['batch_stats', 'params'])
    """

    stage_sizes: tuple[int, ...]
    bottleneck: bool
    num_classes: int = 1000
    stem: Literal["imagenet", "cifar"] = "imagenet"
    width: int = 64
    norm: Literal["batch", "none"] = "batch"
    zero_init: bool = False
    version: Literal["1.5", "1"] = "1.5"
    dtype: Any = None
    param_dtype: Any = jnp.float32
    axis_name: str | None = None
    remat: str | None = None

    @nn.compact
    def __call__(self, x: Any, *, train: bool = False, mask: Any = None) -> jax.Array:
        """Maps images ``[B, H, W, C]`` to logits ``[B, num_classes]``, float32 or wider.

        Args:
            x: floating-point images, channels last; each channel around mean 0 and deviation 1.
            train: whether BatchNorm uses the batch.
            mask: shape ``[B]``; rows of 0 count in no statistic.

        Raises:
            BatchError: the input is no floating-point ``[B, H, W, C]``.
            ConfigError: an attribute is out of range.
        """
        self._check()
        x = check_images(x, "ResNet")
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        shared: dict[str, Any] = {"norm": self.norm, "train": train, "axis_name": self.axis_name}
        options: dict[str, Any] = {**types, **shared}
        large = self.stem == "imagenet"
        stem = ConvNorm(self.width, 7 if large else 3, 2 if large else 1, **options, name="stem")
        x = nn.relu(stem(x, mask))
        if large:
            around: Any = ((1, 1), (1, 1))
            x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=around)
        block = ResidualBlock
        if self.remat is not None:
            policy = REMAT_POLICIES["full"] if self.remat == "full" else _keep_convolutions
            block = nn.remat(ResidualBlock, policy=policy)
        for stage, count in enumerate(self.stage_sizes):
            for index in range(count):
                x = block(
                    self.width * 2**stage,
                    stride=2 if stage > 0 and index == 0 else 1,
                    bottleneck=self.bottleneck,
                    early_stride=self.version == "1",
                    zero_init=self.zero_init,
                    options=options,
                    name=f"stage_{stage}_block_{index}",
                )(x, mask)
        x = jnp.mean(x, axis=(1, 2))
        head_init = nn.initializers.normal(0.01)
        x = nn.Dense(self.num_classes, kernel_init=head_init, name="head", **types)(x)
        x = constrain(x, ("batch", "features"))
        return x.astype(jnp.promote_types(x.dtype, jnp.float32))

    def _check(self) -> None:
        for name, value, known in (
            ("stem", self.stem, _STEMS),
            ("norm", self.norm, _NORMS),
            ("version", self.version, _VERSIONS),
            ("remat", self.remat, (None, *REMAT_POLICIES)),
        ):
            check_choice("ResNet", name, value, known)
        sizes = (*self.stage_sizes, self.width, self.num_classes)
        if not self.stage_sizes or min(sizes) < 1:
            raise ConfigError(
                f"ResNet has stage_sizes={self.stage_sizes}, width={self.width} and "
                f"num_classes={self.num_classes}",
                expected="at least one stage, and nothing below 1",
                do="start from resnet18() and change what you need",
            )


def _published(stage_sizes: tuple[int, ...], bottleneck: bool, options: dict[str, Any]) -> ResNet:
    sizes: dict[str, Any] = {"stage_sizes": stage_sizes, "bottleneck": bottleneck}
    return ResNet(**{**sizes, **options})


def resnet18(**options: Any) -> ResNet:
    """ResNet-18: 11,689,512 parameters at 1,000 classes.

    Args:
        **options: attributes of ``ResNet`` that are to be others.
    """
    return _published((2, 2, 2, 2), False, options)


def resnet34(**options: Any) -> ResNet:
    """ResNet-34: 21,797,672 parameters at 1,000 classes.

    Args:
        **options: attributes of ``ResNet`` that are to be others.
    """
    return _published((3, 4, 6, 3), False, options)


def resnet50(**options: Any) -> ResNet:
    """ResNet-50: 25,557,032 parameters at 1,000 classes.

    Args:
        **options: attributes of ``ResNet`` that are to be others.
    """
    return _published((3, 4, 6, 3), True, options)


def resnet101(**options: Any) -> ResNet:
    """ResNet-101: 44,549,160 parameters at 1,000 classes.

    Args:
        **options: attributes of ``ResNet`` that are to be others.
    """
    return _published((3, 4, 23, 3), True, options)


def resnet152(**options: Any) -> ResNet:
    """ResNet-152: 60,192,808 parameters at 1,000 classes.

    Args:
        **options: attributes of ``ResNet`` that are to be others.
    """
    return _published((3, 8, 36, 3), True, options)
