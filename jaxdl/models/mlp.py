"""The multilayer perceptron: dense layers on a flattened input.

Reads from: errors, models.layers. Used by: recipes, by choice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdl.errors import BatchError
from jaxdl.models.layers import to_float

__all__ = ["MLP"]


class MLP(nn.Module):
    """Dense layers with an activation between them; the last gives the logits.

    ``MLP((128, 64, 10))`` on 28 x 28 images is the network 784-128-64-10 with 109,386 parameters.
    Weights start as Flax's default, LeCun normal (LeCun et al. 1998, "Efficient BackProp"),
    biases at 0.

    Attributes:
        features: the width of each layer, the last being the number of outputs.
        activation: between layers.
        dropout_rate: after each activation.
        dtype: of the computation; the parameters' when ``None``.
        param_dtype: of the parameters.
    """

    features: Sequence[int]
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    dropout_rate: float = 0.0
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Any, *, train: bool = False, mask: Any = None) -> jax.Array:
        """Maps ``[B, ...]`` to ``[B, features[-1]]``; integer images are scaled to 0 .. 1.

        Args:
            x: shape ``[B, ...]``, flattened to ``[B, D]``.
            train: whether dropout is on.
            mask: not used; every row is computed on its own.

        Raises:
            BatchError: the input has no feature axis.
        """
        del mask
        x = to_float(x)
        if x.ndim < 2:
            raise BatchError(
                f"MLP got an input of shape {list(x.shape)}",
                expected="[B, D], or [B, ...] to be flattened",
                do="give every example at least one feature: x[:, None]",
            )
        x = x.reshape(x.shape[0], -1)
        for index, width in enumerate(self.features):
            dense = nn.Dense(
                width, dtype=self.dtype, param_dtype=self.param_dtype, name=f"dense_{index}"
            )
            x = dense(x)
            if index + 1 < len(self.features):
                x = self.activation(x)
                x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        return x
