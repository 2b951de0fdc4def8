"""LeNet-5 as LeCun et al. drew it, and as it is taught.

Reads from: models.images, models.layers. Used by: recipes, by choice.
"""

from __future__ import annotations

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.dtypes import promote_dtype

from jaxdl.models.activations import constrain
from jaxdl.models.images import check_choice, check_images
from jaxdl.models.layers import to_float

__all__ = ["LeNet5"]

_SIDE = 32
# Table I of the paper: the channels that each of the 16 channels of the second convolution reads.
_READ = (
    *((0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5)),
    *((0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5)),
    *((0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5), (0, 1, 2, 3, 4, 5)),
)
_PAIRS = np.array([(read, made) for made, reads in enumerate(_READ) for read in reads]).T


class LeNet5(nn.Module):
    r"""Two convolutions of 5x5 taps with pooling, then layers of 120, 84 and ``num_classes``.

    ``"original"`` is the paper's: squashing by :math:`1.7159 \tanh(2 x / 3)`, pooling layers that
    multiply the sum of four pixels by a trained coefficient and add a trained bias, and a second
    convolution whose channels read only some of the first's (table I). Up to the last layer it has
    the paper's 60,000 parameters. The last layer is dense with a softmax to follow, in place of
    distances to drawn characters. Kernels start uniform within 2.4 over the number of inputs
    (appendix A).

    ``"modern"`` is what is taught under the name: tanh, plain average pooling, all channels read.
    On one channel it has 61,706 parameters; its kernels start as Glorot and Bengio say. ``CNN`` is
    this shape with ReLU, for images of any size.

    Source: LeCun, Bottou, Bengio and Haffner 1998, "Gradient-based learning applied to document
    recognition", Proceedings of the IEEE 86(11), section II.B and appendix A.

    Attributes:
        num_classes: the number of outputs.
        variant: ``"modern"`` or ``"original"``.
        dtype: of the computation; the parameters' when ``None``.
        param_dtype: of the parameters.

    Examples:
        >>> model = LeNet5(variant="original")
        >>> model.init_with_output(jax.random.key(0), jnp.zeros((2, 28, 28, 1)))[0].shape
        (2, 10)
    """

    num_classes: int = 10
    variant: Literal["modern", "original"] = "modern"
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Any, *, train: bool = False) -> jax.Array:
        """Maps images ``[B, H, W, C]`` to logits ``[B, num_classes]``, float32 or wider.

        Args:
            x: images; those of under 32 pixels on a side are padded to it with 0 on all sides, as
                the paper pads digits of 28. Integers are scaled to 0 .. 1.
            train: changes nothing here.

        Raises:
            BatchError: the input has other than four axes, or no pixel.
            ConfigError: there is no such variant.
        """
        del train
        check_choice("LeNet5", "variant", self.variant, ("modern", "original"))
        x = check_images(to_float(x), "LeNet5")
        x = jnp.pad(x, ((0, 0), *(_around(side) for side in x.shape[1:3]), (0, 0)))
        original = self.variant == "original"
        for index, features in enumerate((6, 16)):
            partial = original and index == 1
            x = self._activated(self._partial(x) if partial else self._conv(x, features, index))
            x = self._pooled(x, index)
        x = constrain(x, ("batch", None, None, "features"))
        x = x.reshape(x.shape[0], -1)
        for index, width in enumerate((120, 84)):
            x = self._activated(self._dense(x, width, f"dense_{index}"))
        x = self._dense(x, self.num_classes, "head")
        return x.astype(jnp.promote_types(x.dtype, jnp.float32))

    def _activated(self, x: jax.Array) -> jax.Array:
        return 1.7159 * jnp.tanh(x * (2 / 3)) if self.variant == "original" else jnp.tanh(x)

    def _start(self) -> Any:
        return _uniform if self.variant == "original" else nn.initializers.xavier_uniform()

    def _conv(self, x: jax.Array, features: int, index: int) -> jax.Array:
        return nn.Conv(
            features,
            (5, 5),
            padding="VALID",
            kernel_init=self._start(),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name=f"conv_{index}",
        )(x)

    def _dense(self, x: jax.Array, features: int, name: str) -> jax.Array:
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        return nn.Dense(features, kernel_init=self._start(), name=name, **types)(x)

    def _partial(self, x: jax.Array) -> jax.Array:
        read, made = _PAIRS
        taps = self.param("conv_1_kernel", _partial_uniform, (5, 5, len(read)), self.param_dtype)
        bias = self.param("conv_1_bias", nn.initializers.zeros, (16,), self.param_dtype)
        x, taps, bias = promote_dtype(x, taps, bias, dtype=self.dtype)
        kernel = jnp.zeros((5, 5, 6, 16), taps.dtype).at[:, :, read, made].set(taps)
        numbers = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=numbers)
        return x + bias.reshape(1, 1, 1, -1)

    def _pooled(self, x: jax.Array, index: int) -> jax.Array:
        mean = nn.avg_pool(x, (2, 2), strides=(2, 2))
        if self.variant == "modern":
            return mean
        shape = (x.shape[-1],)
        start = nn.initializers.constant(0.25)
        factor = self.param(f"pool_{index}_scale", start, shape, self.param_dtype)
        bias = self.param(f"pool_{index}_bias", nn.initializers.zeros, shape, self.param_dtype)
        mean, factor, bias = promote_dtype(mean, factor, bias, dtype=self.dtype)
        over_rows = (1, 1, 1, -1)
        return self._activated(4 * mean * factor.reshape(over_rows) + bias.reshape(over_rows))


def _around(side: int) -> tuple[int, int]:
    missing = max(0, _SIDE - side)
    return missing // 2, missing - missing // 2


def _uniform(key: Any, shape: Any, dtype: Any = jnp.float32) -> jax.Array:
    limit = 2.4 / int(np.prod(shape[:-1]))
    return jax.random.uniform(key, shape, dtype, -limit, limit)


def _partial_uniform(key: Any, shape: Any, dtype: Any = jnp.float32) -> jax.Array:
    reads = np.array([len(_READ[made]) for made in _PAIRS[1]])
    limit = jnp.asarray(2.4 / (25 * reads), dtype).reshape(1, 1, -1)
    return limit * jax.random.uniform(key, shape, dtype, -1.0, 1.0)
