"""GPT with a mixture of experts in place of each feed-forward layer.

Reads from: models.activations, models.attention, models.gpt, models.masks, models.mixture. Used by:
recipes, by choice.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdl.models.activations import constrain
from jaxdl.models.attention import SelfAttention
from jaxdl.models.gpt import GPT
from jaxdl.models.masks import real_tokens
from jaxdl.models.mixture import MixtureFeedForward

__all__ = ["MixtureBlock", "MixtureGPT"]

_RESIDUAL = ("batch", "time", "features")


class MixtureBlock(nn.Module):
    """One pre-norm layer: ``x + attention(norm(x))``, then ``x + mixture(norm(x))``.

    Attributes:
        num_heads: ``N``.
        num_experts: ``E``.
        mlp_dim: the width of an expert's hidden layer.
        top_k: experts of a token.
        capacity_factor: see ``MixtureFeedForward``, as the two weights.
        balance_weight: of the balance.
        z_weight: of the router's z.
        dropout_rate: of attention weights and of what either half adds.
        residual_scale: times the initial size of the projections back.
        train: whether dropout is on.
        dtype: of the computation.
        param_dtype: of the parameters.
        implementation: see ``attention``.
    """

    num_heads: int
    num_experts: int
    mlp_dim: int
    top_k: int = 2
    capacity_factor: float | None = 1.25
    balance_weight: float = 0.01
    z_weight: float = 0.001
    dropout_rate: float = 0.0
    residual_scale: float = 1.0
    train: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32
    implementation: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, mask: Any = None) -> jax.Array:
        """Maps ``[B, T, D]`` to ``[B, T, D]``.

        Args:
            x: shape ``[B, T, D]``.
            mask: see ``attention``; or a ``Reach``.
        """
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        back = nn.initializers.normal(0.02 * self.residual_scale)
        drop = nn.Dropout(self.dropout_rate, deterministic=not self.train)
        attend = SelfAttention(
            self.num_heads,
            causal=True,
            dropout_rate=self.dropout_rate,
            out_init=back,
            implementation=self.implementation,
            name="attention",
            **types,
        )
        y = nn.LayerNorm(epsilon=1e-5, name="attention_norm", **types)(x)
        x = x + drop(attend(y, mask, train=self.train))
        mixture = MixtureFeedForward(
            self.num_experts,
            self.mlp_dim,
            top_k=self.top_k,
            capacity_factor=self.capacity_factor,
            balance_weight=self.balance_weight,
            z_weight=self.z_weight,
            out_init=back,
            name="mixture",
            **types,
        )
        y = nn.LayerNorm(epsilon=1e-5, name="mlp_norm", **types)(x)
        return x + drop(constrain(mixture(y, real_tokens(mask, x.shape[1])), _RESIDUAL))


class MixtureGPT(GPT):
    """``GPT`` whose every block has ``MixtureFeedForward`` in place of its two dense layers.

    The rest is as in ``GPT``; ``mlp_dim`` is the width of one expert. For the layouts over experts
    see ``models.mixture.EXPERT_RULES``.

    An expert's places are counted within the tokens of one call. With ``decode`` these are a few at
    a time, so that with a ``capacity_factor`` other tokens may be left out than of the whole text
    at once: generate with ``capacity_factor=None``, which leaves out none.

    Attributes:
        num_experts: ``E``.
        top_k: experts of a token.
        capacity_factor: see ``MixtureFeedForward``, as the two weights.
        balance_weight: of the balance.
        z_weight: of the router's z.

    Examples:
        >>> model = MixtureGPT(vocab_size=11, num_layers=1, num_heads=2, hidden_dim=8, max_length=4)
        >>> model.init_with_output(jax.random.key(0), jnp.zeros((1, 3), int))[0].shape
        (1, 3, 11)
    """

    num_experts: int = 8
    top_k: int = 2
    capacity_factor: float | None = 1.25
    balance_weight: float = 0.01
    z_weight: float = 0.001

    @nn.nowrap
    def _layer(self, *, train: bool) -> tuple[type[nn.Module], dict[str, Any]]:
        same = ("num_heads", "num_experts", "top_k", "capacity_factor", "balance_weight")
        same = (*same, "z_weight", "dropout_rate", "dtype", "param_dtype", "implementation")
        return MixtureBlock, {
            **{name: getattr(self, name) for name in same},
            "mlp_dim": 4 * self.hidden_dim if self.mlp_dim is None else self.mlp_dim,
            "residual_scale": (2 * max(self.num_layers, 1)) ** -0.5,
            "train": train,
        }
