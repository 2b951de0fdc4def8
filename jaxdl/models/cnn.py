"""A small convolutional network of LeNet-5's shape.

Reads from: models.layers. Used by: recipes, by choice.
"""

from __future__ import annotations

from typing import Any, Literal

import flax.linen as nn
import jax

from jaxdl.models.layers import BatchNorm, check_rank, to_float

__all__ = ["CNN"]


class CNN(nn.Module):
    """Two convolutions with pooling, then dense layers of 120 and 84.

    The shape is LeNet-5's (LeCun et al. 1998, "Gradient-based learning applied to document
    recognition"): conv 6 @ 5x5, pool, conv 16 @ 5x5, pool, 120, 84, outputs; the first convolution
    is padded, as LeNet's 32 x 32 frame pads 28 x 28 digits. It differs in ReLU for tanh, plain
    average pooling, full connection of the second convolution, and softmax for the RBF outputs. On
    28 x 28 x 1 with 10 classes it has 61,706 parameters. An image of under 12 pixels on a side, for
    which the second convolution has no room, is padded there too.

    Attributes:
        num_classes: the number of outputs.
        norm: ``"batch"`` normalises after each convolution, which then has no bias.
        dropout_rate: after each dense layer's activation.
        axis_name: the mapped axis that BatchNorm sums over.
    """

    num_classes: int = 10
    norm: Literal["none", "batch"] = "none"
    dropout_rate: float = 0.0
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Any, *, train: bool = False, mask: Any = None) -> jax.Array:
        """Maps images ``[B, H, W, C]`` to logits ``[B, num_classes]``.

        Args:
            x: images; integers are scaled to 0 .. 1.
            train: whether dropout is on and BatchNorm uses the batch.
            mask: shape ``[B]``; rows of 0 count in no statistic.

        Raises:
            BatchError: the input has other than four axes.
        """
        check_rank(x, 4, "[B, H, W, C]", "CNN")
        x = to_float(x)
        for index, features in enumerate((6, 16)):
            roomy = index > 0 and min(x.shape[1:3]) >= 6
            x = nn.Conv(
                features,
                (5, 5),
                padding="VALID" if roomy else "SAME",
                use_bias=self.norm == "none",
                name=f"conv_{index}",
            )(x)
            if self.norm == "batch":
                norm = BatchNorm(axis_name=self.axis_name, name=f"norm_{index}")
                x = norm(x, train=train, mask=mask)
            x = nn.avg_pool(nn.relu(x), (2, 2), strides=(2, 2))
        x = x.reshape(x.shape[0], -1)
        for index, width in enumerate((120, 84)):
            x = nn.relu(nn.Dense(width, name=f"dense_{index}")(x))
            x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        return nn.Dense(self.num_classes, name="head")(x)
