"""Llama: GPT's decoder with RMSNorm, rotary positions, gated feed-forward layers, grouped queries.

Reads from: models.activations, models.attention, models.gpt, models.rotary. Used by: recipes, by
choice.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from jaxdl.models.activations import constrain
from jaxdl.models.attention import SelfAttention
from jaxdl.models.gpt import GPT
from jaxdl.models.rotary import Rotary, RotaryScaling

__all__ = [
    "LLAMA_SCANNED_TENSOR_RULES",
    "LLAMA_TENSOR_RULES",
    "Llama",
    "LlamaBlock",
    "llama2_7b",
    "llama3_2_1b",
    "llama3_8b",
    "rms_norm",
]

_NORMAL = nn.initializers.normal(0.02)
_RESIDUAL = ("batch", "time", "features")
_EMBEDDING_RULE = (r"(token_embedding|head)/embedding$", P("tensor", None))
_BLOCK_RULES = (
    (r"attention/(query|key|value)/kernel$", (None, "tensor")),
    (r"attention/out/kernel$", ("tensor", None)),
    (r"mlp_(gate|in)/kernel$", (None, "tensor")),
    (r"mlp_out/kernel$", ("tensor", None)),
)

LLAMA_TENSOR_RULES = (
    _EMBEDDING_RULE,
    *((rf"block_\d+/{path}", P(*s)) for path, s in _BLOCK_RULES),
)
"""Tensor parallelism of an unrolled ``Llama``, as ``models.gpt.TENSOR_RULES``: columns of query,
key, value and of the two layers into the hidden width, rows of the layers back, embedding and head
by their words. ``vocab_size`` and ``num_kv_heads`` must be multiples of the axis."""

LLAMA_SCANNED_TENSOR_RULES = (
    _EMBEDDING_RULE,
    *((rf"blocks/{path}", P(None, *s)) for path, s in _BLOCK_RULES),
)
"""``LLAMA_TENSOR_RULES`` for ``scan_layers=True``, where kernels have a first axis over layers."""


def rms_norm(epsilon: float, dtype: Any, param_dtype: Any, name: str) -> nn.RMSNorm:
    r"""A scaled vector of mean square 1: :math:`x / \sqrt{mean(x^2) + \epsilon}` times a scale.

    Computed in float32, whatever its dtype. Source: Zhang and Sennrich 2019, arXiv:1910.07467.

    Args:
        epsilon: added to the mean square.
        dtype: of the result; the input's and the scale's when ``None``.
        param_dtype: of the scale.
        name: of the submodule.
    """
    return nn.RMSNorm(epsilon=epsilon, dtype=dtype, param_dtype=param_dtype, name=name)


class LlamaBlock(nn.Module):
    """One pre-norm layer: ``x + attention(norm(x))``, then ``x + mlp(norm(x))``, without biases.

    ``mlp`` is SwiGLU, ``out(silu(gate(x)) * in(x))``, Shazeer 2020, arXiv:2002.05202.

    Attributes:
        num_heads: ``N``.
        num_kv_heads: ``K``; must divide ``N``. ``N / K`` heads in a row look at one head of keys
            and values (Ainslie et al. 2023, arXiv:2305.13245).
        mlp_dim: the hidden width.
        rotary: the positions.
        norm_epsilon: see ``rms_norm``.
        dropout_rate: of attention weights and of what either half adds.
        train: whether dropout is on.
        dtype: of the computation.
        param_dtype: of the parameters.
        implementation: see ``attention``.
    """

    num_heads: int
    num_kv_heads: int
    mlp_dim: int
    rotary: Rotary = Rotary()
    norm_epsilon: float = 1e-5
    dropout_rate: float = 0.0
    train: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32
    implementation: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, mask: Any = None) -> jax.Array:
        """Maps ``[B, T, D]`` to ``[B, T, D]``.

        Args:
            x: shape ``[B, T, D]``.
            mask: see ``SelfAttention``.
        """
        drop = nn.Dropout(self.dropout_rate, deterministic=not self.train)
        y = rms_norm(self.norm_epsilon, self.dtype, self.param_dtype, "attention_norm")(x)
        attend = SelfAttention(
            self.num_heads,
            causal=True,
            dropout_rate=self.dropout_rate,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            implementation=self.implementation,
            num_kv_heads=self.num_kv_heads,
            use_bias=False,
            rotary=self.rotary,
            name="attention",
        )
        x = x + drop(attend(y, mask, train=self.train))
        y = rms_norm(self.norm_epsilon, self.dtype, self.param_dtype, "mlp_norm")(x)

        def hidden(name: str) -> jax.Array:
            return constrain(self._dense(self.mlp_dim, name)(y), ("batch", "time", "hidden"))

        y = nn.silu(hidden("mlp_gate")) * hidden("mlp_in")
        y = self._dense(x.shape[-1], "mlp_out")(y)
        return x + drop(constrain(y, _RESIDUAL))

    def _dense(self, width: int, name: str) -> nn.Dense:
        return nn.Dense(
            width,
            use_bias=False,
            kernel_init=_NORMAL,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name=name,
        )


class Llama(GPT):
    """The decoder of Llama, 1 to 3, with the call, the losses and the cache of ``GPT``.

    RMSNorm in place of LayerNorm, rotary positions in place of learned ones, SwiGLU in place of
    GELU, no biases, fewer heads of keys and values than of queries, and a head of its own. Kernels
    and embeddings start normal with deviation 0.02, scales at 1. Of given positions only distances
    within a row count, and none is too large.

    Source: Touvron et al. 2023, arXiv:2302.13971; grouped queries as in its successor, Touvron et
    al. 2023, arXiv:2307.09288. Rotary positions: Su et al. 2021, arXiv:2104.09864.

    Attributes:
        num_kv_heads: ``K``; must divide ``num_heads``, which it is when ``None``.
        rope_theta: see ``models.rotary.Rotary``.
        scaling: ``models.rotary.RotaryScaling`` from Llama 3.1 on.
        norm_epsilon: of RMSNorm.
        tied_head: the head is the word embedding, as in the small models of Llama 3.2.

    Examples:
        >>> model = Llama(vocab_size=11, num_layers=1, num_heads=4, num_kv_heads=2, hidden_dim=8,
        ...               mlp_dim=24, max_length=4)
        >>> model.init_with_output(jax.random.key(0), jnp.zeros((1, 3), int))[0].shape
        (1, 3, 11)
    """

    num_kv_heads: int | None = None
    rope_theta: float = 10_000.0
    scaling: RotaryScaling | None = None
    norm_epsilon: float = 1e-5
    tied_head: bool = False

    @nn.nowrap
    def _placed(self, x: jax.Array, reach: Any) -> jax.Array:
        return x

    @nn.nowrap
    def _layer(self, *, train: bool) -> tuple[type[nn.Module], dict[str, Any]]:
        same = ("num_heads", "norm_epsilon", "dropout_rate", "dtype", "param_dtype")
        return LlamaBlock, {
            **{name: getattr(self, name) for name in (*same, "implementation")},
            "num_kv_heads": self.num_heads if self.num_kv_heads is None else self.num_kv_heads,
            "mlp_dim": 4 * self.hidden_dim if self.mlp_dim is None else self.mlp_dim,
            "rotary": Rotary(self.rope_theta, self.scaling),
            "train": train,
        }

    @nn.nowrap
    def _last_norm(self) -> nn.Module:
        return rms_norm(self.norm_epsilon, self.dtype, self.param_dtype, "norm")

    @nn.nowrap
    def _head(self, words: nn.Embed) -> nn.Embed:
        return words if self.tied_head else self._embedding(self.vocab_size, 1.0, "head")


def _published(options: dict[str, Any], **sizes: Any) -> Llama:
    return Llama(**{**sizes, **options})


def llama2_7b(**options: Any) -> Llama:
    """Llama 2 7B: 32 layers x 4096, 6,738,415,616 parameters.

    Args:
        **options: attributes of ``Llama`` that are to be others.
    """
    return _published(
        options,
        vocab_size=32_000,
        num_layers=32,
        num_heads=32,
        hidden_dim=4096,
        mlp_dim=11_008,
        max_length=4096,
    )


def llama3_8b(**options: Any) -> Llama:
    """Llama 3 8B: 32 layers x 4096, 8 heads of keys and values, 8,030,261,248 parameters.

    Llama 3.1 8B is ``llama3_8b(max_length=131_072, scaling=RotaryScaling())``.

    Args:
        **options: attributes of ``Llama`` that are to be others.
    """
    return _published(
        options,
        vocab_size=128_256,
        num_layers=32,
        num_heads=32,
        num_kv_heads=8,
        hidden_dim=4096,
        mlp_dim=14_336,
        max_length=8192,
        rope_theta=500_000.0,
    )


def llama3_2_1b(**options: Any) -> Llama:
    """Llama 3.2 1B: 16 layers x 2048, a tied head, 1,235,814,400 parameters.

    Args:
        **options: attributes of ``Llama`` that are to be others.
    """
    return _published(
        options,
        vocab_size=128_256,
        num_layers=16,
        num_heads=32,
        num_kv_heads=8,
        hidden_dim=2048,
        mlp_dim=8192,
        max_length=131_072,
        rope_theta=500_000.0,
        scaling=RotaryScaling(factor=32.0),
        tied_head=True,
    )
