"""An encoder with the projection head that contrastive learning trains it through.

Reads from: nothing of jaxdl. Used by: recipes, by choice.
"""

from __future__ import annotations

import inspect
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

__all__ = ["SimCLR"]


class SimCLR(nn.Module):
    """``W2 relu(W1 encoder(x))``; what is kept afterwards is the encoder.

    Source: Chen et al. 2020, arXiv:2002.05709, section 2.1; the head is 2048-2048-128 there for a
    ResNet-50.

    Attributes:
        encoder: a module, images to features ``[B, D]``.
        hidden_dim: between the head's layers.
        projection_dim: of the embeddings.
        dtype: of the head's computation; the parameters' when ``None``.
        param_dtype: of the head's parameters.
    """

    encoder: nn.Module
    hidden_dim: int = 2048
    projection_dim: int = 128
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def setup(self) -> None:
        """Makes the head."""
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        self.hidden = nn.Dense(self.hidden_dim, **types)
        self.projection = nn.Dense(self.projection_dim, **types)

    def __call__(self, x: Any, *, train: bool = False, mask: Any = None) -> jax.Array:
        """Maps images to embeddings ``[B, projection_dim]``.

        Args:
            x: what the encoder reads.
            train: handed to the encoder where it takes it.
            mask: handed to the encoder where it takes it.
        """
        return self.projection(nn.relu(self.hidden(self.features(x, train=train, mask=mask))))

    def features(self, x: Any, *, train: bool = False, mask: Any = None) -> jax.Array:
        """The encoder's output, which is what a classifier is then trained on.

        Args:
            x: what the encoder reads.
            train: as the call.
            mask: as the call.
        """
        takes = inspect.signature(type(self.encoder).__call__).parameters
        given = {"train": train, "mask": mask}
        return self.encoder(x, **{name: value for name, value in given.items() if name in takes})
