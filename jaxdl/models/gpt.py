"""GPT-2: a causal transformer decoder with learned positions and a tied head.

Reads from: errors, products, models.activations, models.attention, models.decoding, models.layers,
models.masks, models.stack. Used by: models.gpt_mixture, models.llama, recipes, by
choice.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from jaxdl.errors import BatchError
from jaxdl.models.activations import constrain
from jaxdl.models.attention import SelfAttention
from jaxdl.models.decoding import reach_in
from jaxdl.models.layers import check_rank
from jaxdl.models.masks import Reach, places
from jaxdl.models.stack import run_layers
from jaxdl.products import wide_logits

__all__ = [
    "GPT",
    "SCANNED_TENSOR_RULES",
    "TENSOR_RULES",
    "Block",
    "gpt2_1_5b",
    "gpt2_124m",
    "gpt2_350m",
    "gpt2_774m",
]

_RESIDUAL = ("batch", "time", "features")
_EMBEDDING_RULE = (r"token_embedding/embedding$", P("tensor", None))
_BLOCK_RULES = (
    (r"attention/(query|key|value)/kernel$", (None, "tensor")),
    (r"attention/(query|key|value)/bias$", ("tensor",)),
    (r"attention/out/kernel$", ("tensor", None)),
    (r"mlp_in/kernel$", (None, "tensor")),
    (r"mlp_in/bias$", ("tensor",)),
    (r"mlp_out/kernel$", ("tensor", None)),
)

TENSOR_RULES = (_EMBEDDING_RULE, *((rf"block_\d+/{path}", P(*s)) for path, s in _BLOCK_RULES))
"""Tensor parallelism of an unrolled ``GPT`` (Shoeybi et al. 2019, arXiv:1909.08053): columns of
query, key, value and the first dense layer, rows of the projections back, the embedding by its
words. ``vocab_size`` must be a multiple of the axis (50,304 is the usual one for GPT-2's 50,257
words), ``num_heads`` should be."""

SCANNED_TENSOR_RULES = (
    _EMBEDDING_RULE,
    *((rf"blocks/{path}", P(None, *s)) for path, s in _BLOCK_RULES),
)
"""``TENSOR_RULES`` for ``scan_layers=True``, where kernels have a first axis over layers."""


class Block(nn.Module):
    """One pre-norm layer: ``x + attention(norm(x))``, then ``x + mlp(norm(x))``.

    Attributes:
        num_heads: ``N``.
        mlp_dim: the width of the hidden dense layer.
        dropout_rate: of attention weights and of what either half adds.
        residual_scale: times the initial size of the two projections back.
        train: whether dropout is on.
        dtype: of the computation.
        param_dtype: of the parameters.
        implementation: see ``attention``.
    """

    num_heads: int
    mlp_dim: int
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
        inner, outer = _normal(1.0), _normal(self.residual_scale)
        drop = nn.Dropout(self.dropout_rate, deterministic=not self.train)
        y = nn.LayerNorm(epsilon=1e-5, name="attention_norm", **types)(x)
        attend = SelfAttention(
            self.num_heads,
            causal=True,
            dropout_rate=self.dropout_rate,
            kernel_init=inner,
            out_init=outer,
            implementation=self.implementation,
            name="attention",
            **types,
        )
        x = x + drop(attend(y, mask, train=self.train))
        y = nn.LayerNorm(epsilon=1e-5, name="mlp_norm", **types)(x)
        y = nn.Dense(self.mlp_dim, kernel_init=inner, name="mlp_in", **types)(y)
        y = nn.gelu(constrain(y, ("batch", "time", "hidden")), approximate=True)
        y = nn.Dense(x.shape[-1], kernel_init=outer, name="mlp_out", **types)(y)
        return x + drop(constrain(y, _RESIDUAL))


class GPT(nn.Module):
    r"""The decoder of GPT-2.

    Learned positions, pre-norm layers, a last LayerNorm, epsilon 1e-5, GELU by its tanh formula,
    biases everywhere, a head that is the word embedding. Kernels and the word embedding start
    normal with deviation 0.02, positions with 0.01, the projections back onto the residual path
    with :math:`0.02 / \sqrt{2 L}` for :math:`L` layers, biases at 0. Dropout is on the embeddings,
    the attention weights, and what each half of a layer adds.

    Source: Radford et al. 2019, "Language models are unsupervised multitask learners" (the residual
    path: section 2.3), and its code, github.com/openai/gpt-2, src/model.py (the rest
    but dropout, which is where GPT, Radford et al. 2018, had it).

    Attributes:
        vocab_size: ``V``.
        num_layers: how many blocks.
        num_heads: ``N``; must divide ``hidden_dim``.
        hidden_dim: ``D``.
        max_length: the longest ``T``.
        mlp_dim: width of the hidden dense layers; ``4 D`` when ``None``.
        dropout_rate: 0.1 in the first GPT; the code of GPT-2 names none.
        dtype: of the computation; the parameters' when ``None``.
        param_dtype: of the parameters.
        scan_layers: one scanned layer in place of a program that grows with ``num_layers``; the
            parameters are then stacked, see ``stack_layers``.
        remat: what a layer keeps for the backward pass, a name of ``REMAT_POLICIES``.
        implementation: see ``attention``.

    Examples:
        >>> model = GPT(vocab_size=11, num_layers=1, num_heads=2, hidden_dim=8, max_length=4)
        >>> logits, variables = model.init_with_output(jax.random.key(0), jnp.zeros((1, 3), int))
        >>> logits.shape
        (1, 3, 11)
    """

    vocab_size: int
    num_layers: int
    num_heads: int
    hidden_dim: int
    max_length: int
    mlp_dim: int | None = None
    dropout_rate: float = 0.0
    dtype: Any = None
    param_dtype: Any = jnp.float32
    scan_layers: bool = False
    remat: str | None = None
    implementation: str | None = None

    def __call__(
        self,
        tokens: Any,
        *,
        train: bool = False,
        mask: Any = None,
        segments: Any = None,
        positions: Any = None,
        decode: bool = False,
    ) -> jax.Array:
        """Maps tokens ``[B, T]`` to logits ``[B, T, V]``, float32 or wider.

        Args:
            tokens: integers from 0 to ``V - 1``, shape ``[B, T]``. A larger one makes its row NaN,
                a negative one counts from the end of the vocabulary, as an index does.
            train: whether dropout is on.
            mask: as ``hidden``.
            segments: as ``hidden``.
            positions: as ``hidden``.
            decode: as ``hidden``.

        Raises:
            BatchError: as ``hidden``.
            ConfigError: as ``hidden``.
        """
        x, embedding = self.hidden(
            tokens,
            train=train,
            mask=mask,
            segments=segments,
            positions=positions,
            decode=decode,
        )
        return constrain(wide_logits(x, embedding), ("batch", "time", None))

    @nn.compact
    def hidden(
        self,
        tokens: Any,
        *,
        train: bool = False,
        mask: Any = None,
        segments: Any = None,
        positions: Any = None,
        decode: bool = False,
    ) -> tuple[jax.Array, jax.Array]:
        """What the logits are the product of, for losses that never hold them.

        Args:
            tokens: integers, shape ``[B, T]``.
            train: whether dropout is on.
            mask: shape ``[B, T]``, 0 on padding, which no token then sees; or ``[B, T, T]``, 0
                where a token may not see another. A mask of rows, ``[B]``, changes nothing.
                Padding after the text needs none: the future is not seen anyway. With a cache of
                ``L`` tokens, ``[B, L]``.
            segments: of packed rows (``data.pack``), integers ``[B, T]``, 0 on padding: a token
                sees those of its own segment only.
            positions: which position embedding each token gets, integers ``[B, T]``; counted from
                the row's beginning when ``None``, on from the cache's end with ``decode``. A
                position of ``max_length`` or more makes its row NaN; none may be negative.
            decode: keep keys and values in the collection ``"cache"``: ``tokens`` follow those of
                the calls before. A call that finds no cache makes an empty one, with room for as
                many tokens (``generation.empty_cache``). A call that reads past its end gives NaN.

        Returns:
            ``(hidden [B, T, D], embedding [V, D])``; the second in ``param_dtype``.

        Raises:
            BatchError: ``tokens`` are no integers ``[B, T]``, or longer than ``max_length`` or than
                the cache; or segments, positions or mask do not fit them.
            ConfigError: segments together with ``decode``, or a cache that may not be written.
        """
        tokens = self._checked(tokens)
        reach = reach_in(
            self, tokens, mask=mask, segments=segments, positions=positions, decode=decode
        )

        words = self._embedding(self.vocab_size, 1.0, "token_embedding")
        x = constrain(self._placed(words(tokens), reach), _RESIDUAL)
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        block, options = self._layer(train=train)
        x = run_layers(
            block,
            options,
            x,
            reach,
            num_layers=self.num_layers,
            scan_layers=self.scan_layers,
            remat=self.remat,
        )
        x = constrain(self._last_norm()(x), _RESIDUAL)
        return x, self._head(words).embedding

    # What a decoder is made of; another one puts its own in their place. Not wrapped: the
    # operations keep the model's name, without a method's.
    @nn.nowrap
    def _placed(self, x: jax.Array, reach: Any) -> jax.Array:
        """Embedded tokens ``[B, T, D]`` that know their positions."""
        table = self._embedding(self.max_length, 0.5, "position_embedding").embedding
        return x + _ahead(table, reach, x)

    @nn.nowrap
    def _layer(self, *, train: bool) -> tuple[type[nn.Module], dict[str, Any]]:
        """The block and its options."""
        return Block, {
            "num_heads": self.num_heads,
            "mlp_dim": 4 * self.hidden_dim if self.mlp_dim is None else self.mlp_dim,
            "dropout_rate": self.dropout_rate,
            "residual_scale": (2 * max(self.num_layers, 1)) ** -0.5,
            "train": train,
            "dtype": self.dtype,
            "param_dtype": self.param_dtype,
            "implementation": self.implementation,
        }

    @nn.nowrap
    def _last_norm(self) -> nn.Module:
        return nn.LayerNorm(
            epsilon=1e-5, dtype=self.dtype, param_dtype=self.param_dtype, name="norm"
        )

    @nn.nowrap
    def _head(self, words: nn.Embed) -> nn.Embed:
        """The words as the logits are made by, given those of the tokens."""
        return words

    @nn.nowrap
    def _embedding(self, count: int, scale: float, name: str) -> nn.Embed:
        return nn.Embed(
            count,
            self.hidden_dim,
            embedding_init=_normal(scale),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name=name,
        )

    @nn.nowrap
    def _checked(self, tokens: Any) -> jax.Array:
        check_rank(tokens, 2, "[B, T]", type(self).__name__)
        tokens = jnp.asarray(tokens)
        whole = jnp.issubdtype(tokens.dtype, jnp.integer)
        if not whole or not 1 <= tokens.shape[1] <= self.max_length:
            raise BatchError(
                f"{type(self).__name__} got tokens of shape {list(tokens.shape)} and dtype "
                f"{tokens.dtype}",
                expected=f"integers, at least 1 and at most {self.max_length} in a row",
                do="cut the rows, raise max_length, or cast the tokens",
            )
        return tokens


def _ahead(table: Any, reach: Any, x: jax.Array) -> jax.Array:
    """Each token's position embedding, ``[B or 1, T, D]``, in the dtype of ``x [B, T, D]``."""
    table = jnp.asarray(table)
    rows, length, _ = x.shape
    if not isinstance(reach, Reach) or (reach.positions is None and reach.index is None):
        # Sliced, as a lookup in a table that is divided over devices is a sum over them. Its
        # gradient is whole, or the optimizer's state would be divided like the rows and gathered.
        return constrain(table[None, :length].astype(x.dtype), (None, "keys", "features"))
    whole = constrain(table.astype(x.dtype), ("keys", "features"))
    return jnp.take(whole, places(reach, rows, length), axis=0, mode="fill")


def _normal(scale: float) -> Any:
    return nn.initializers.normal(0.02 * scale)


def _published(num_layers: int, num_heads: int, hidden_dim: int, options: dict[str, Any]) -> GPT:
    sizes: dict[str, Any] = {
        "vocab_size": 50_257,
        "num_layers": num_layers,
        "num_heads": num_heads,
        "hidden_dim": hidden_dim,
        "max_length": 1024,
    }
    return GPT(**{**sizes, **options})


def gpt2_124m(**options: Any) -> GPT:
    """GPT-2 small: 12 layers x 768, 124,439,808 parameters.

    Args:
        **options: attributes of ``GPT`` that are to be others.
    """
    return _published(12, 12, 768, options)


def gpt2_350m(**options: Any) -> GPT:
    """GPT-2 medium: 24 layers x 1024, 354,823,168 parameters.

    Args:
        **options: attributes of ``GPT`` that are to be others.
    """
    return _published(24, 16, 1024, options)


def gpt2_774m(**options: Any) -> GPT:
    """GPT-2 large: 36 layers x 1280, 774,030,080 parameters.

    Args:
        **options: attributes of ``GPT`` that are to be others.
    """
    return _published(36, 20, 1280, options)


def gpt2_1_5b(**options: Any) -> GPT:
    """GPT-2 XL: 48 layers x 1600, 1,557,611,200 parameters.

    Args:
        **options: attributes of ``GPT`` that are to be others.
    """
    return _published(48, 25, 1600, options)
