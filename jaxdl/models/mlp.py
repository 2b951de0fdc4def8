"""The multilayer perceptron: dense layers on a flattened input.

Reads from: errors, models.activations, models.layers. Used by: recipes, by choice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxdl.errors import BatchError
from jaxdl.models.activations import constrain
from jaxdl.models.layers import to_float

__all__ = ["MLP", "tensor_rules"]


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
            # As in ``tensor_rules``: only within a pair are features divided over devices.
            within = index % 2 == 0 and index + 1 < len(self.features)
            x = constrain(dense(x), ("batch", "hidden" if within else "features"))
            if index + 1 < len(self.features):
                x = self.activation(x)
                x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        return x


def tensor_rules(features: Sequence[int]) -> tuple[tuple[str, PartitionSpec], ...]:
    """Rules for ``jaxdl.tensor_parallel``: dense layers in pairs, one sum over devices a pair.

    The first layer of a pair is divided by its outputs, the second by its inputs, so that what
    lies between them never leaves its device (Shoeybi et al. 2019, arXiv:1909.08053). A last layer
    without a partner is replicated. The width inside each pair must divide over the axis.

    Args:
        features: those of the ``MLP``.

    Examples:
        >>> for pattern, spec in tensor_rules((128, 64, 10)):
        ...     print(pattern, *spec)
        ^dense_0/kernel$ None tensor
        ^dense_0/bias$ tensor
        ^dense_1/kernel$ tensor None
    """
    by_output, by_input = PartitionSpec(None, "tensor"), PartitionSpec("tensor", None)
    rules: list[tuple[str, PartitionSpec]] = []
    for first in range(0, len(features) - 1, 2):
        rules += [
            (f"^dense_{first}/kernel$", by_output),
            (f"^dense_{first}/bias$", PartitionSpec("tensor")),
            (f"^dense_{first + 1}/kernel$", by_input),
        ]
    return tuple(rules)
