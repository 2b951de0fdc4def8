"""BERT: a bidirectional transformer encoder. Its heads are in ``bert_heads``.

Reads from: errors, models.activations, models.attention, models.layers, models.stack. Used by:
models.bert_heads, recipes, by choice.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from jaxdl.errors import BatchError
from jaxdl.models.activations import constrain
from jaxdl.models.attention import SelfAttention
from jaxdl.models.layers import check_rank
from jaxdl.models.stack import run_layers

__all__ = [
    "BERT",
    "BERT_INIT",
    "SCANNED_TENSOR_RULES",
    "TENSOR_RULES",
    "BERTBlock",
    "Encoded",
    "bert_base",
    "bert_large",
    "bert_tiny",
]

BERT_INIT = nn.initializers.truncated_normal(0.02)
"""Of every kernel and embedding: normal of deviation 0.02, cut at two deviations."""

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
"""Tensor parallelism of an unrolled ``BERT`` with or without a head (Shoeybi et al. 2019,
arXiv:1909.08053). ``vocab_size`` must be a multiple of the axis (30,528 is one of 32 that holds
the published 30,522 words), ``num_heads`` should be."""

SCANNED_TENSOR_RULES = (
    _EMBEDDING_RULE,
    *((rf"blocks/{path}", P(None, *s)) for path, s in _BLOCK_RULES),
)
"""``TENSOR_RULES`` for ``scan_layers=True``, where kernels have a first axis over layers."""


class Encoded(NamedTuple):
    """What ``BERT.encode`` returns.

    Attributes:
        hidden: of each token, shape ``[B, T, D]``.
        pooled: of each row, shape ``[B, D]``; ``None`` without a pooler.
        embedding: the words', shape ``[V, D]``, which the head of masked words is tied to.
    """

    hidden: jax.Array
    pooled: jax.Array | None
    embedding: jax.Array


class BERTBlock(nn.Module):
    """One post-norm layer: ``x = norm(x + attention(x))``, then ``norm(x + mlp(x))``.

    Attributes:
        num_heads: ``N``.
        mlp_dim: the width of the hidden dense layer.
        dropout_rate: of what either half adds.
        attention_dropout_rate: of the attention weights.
        epsilon: of the norms.
        train: whether dropout is on.
        dtype: of the computation.
        param_dtype: of the parameters.
        implementation: see ``attention``.
    """

    num_heads: int
    mlp_dim: int
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    epsilon: float = 1e-12
    train: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32
    implementation: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, mask: Any = None) -> jax.Array:
        """Maps ``[B, T, D]`` to ``[B, T, D]``.

        Args:
            x: shape ``[B, T, D]``.
            mask: see ``attention``.
        """
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        drop = nn.Dropout(self.dropout_rate, deterministic=not self.train)
        attend = SelfAttention(
            self.num_heads,
            dropout_rate=self.attention_dropout_rate,
            kernel_init=BERT_INIT,
            out_init=BERT_INIT,
            implementation=self.implementation,
            name="attention",
            **types,
        )

        def norm(name: str) -> nn.LayerNorm:
            # With so small an epsilon the variance as a difference of two means is too rough.
            return nn.LayerNorm(epsilon=self.epsilon, use_fast_variance=False, name=name, **types)

        x = norm("attention_norm")(x + drop(attend(x, mask, train=self.train)))
        x = constrain(x, _RESIDUAL)
        y = nn.Dense(self.mlp_dim, kernel_init=BERT_INIT, name="mlp_in", **types)(x)
        y = nn.gelu(constrain(y, ("batch", "time", "hidden")), approximate=False)
        y = nn.Dense(x.shape[-1], kernel_init=BERT_INIT, name="mlp_out", **types)(y)
        return constrain(norm("mlp_norm")(x + drop(y)), _RESIDUAL)


class BERT(nn.Module):
    r"""The encoder of BERT.

    Embeddings of words, places and token types, added and normalised; post-norm layers; GELU by
    its exact formula; LayerNorm with epsilon 1e-12; a pooler, which is a dense layer and a tanh
    of the first token. Kernels and embeddings start normal with deviation 0.02, cut at two
    deviations, biases at 0. Dropout is on the embeddings, the attention weights, and what each
    half of a layer adds.

    Source: Devlin et al. 2018, "BERT: Pre-training of deep bidirectional transformers for language
    understanding", arXiv:1810.04805, and its code, github.com/google-research/bert, modeling.py.

    Attributes:
        vocab_size: ``V``.
        num_layers: how many blocks.
        num_heads: ``N``; must divide ``hidden_dim``.
        hidden_dim: ``D``.
        max_length: the longest ``T``.
        type_vocab_size: how many token types.
        mlp_dim: width of the hidden dense layers; ``4 D`` when ``None``.
        dropout_rate: of the embeddings and of what each half of a layer adds.
        attention_dropout_rate: of the attention weights; ``dropout_rate`` when ``None``.
        pooler: whether there is one.
        epsilon: of the norms.
        dtype: of the computation; the parameters' when ``None``.
        param_dtype: of the parameters.
        scan_layers: one scanned layer in place of a program that grows with ``num_layers``; the
            parameters are then stacked, see ``stack_layers``.
        remat: what a layer keeps for the backward pass, a name of ``REMAT_POLICIES``.
        implementation: see ``attention``; dropout of the attention weights needs the plain one.

    Examples:
        >>> model = BERT(vocab_size=11, num_layers=1, num_heads=2, hidden_dim=8, max_length=4)
        >>> tokens = jnp.zeros((1, 3), int)
        >>> (hidden, pooled), variables = model.init_with_output(jax.random.key(0), tokens)
        >>> hidden.shape, pooled.shape
        ((1, 3, 8), (1, 8))
    """

    vocab_size: int
    num_layers: int
    num_heads: int
    hidden_dim: int
    max_length: int = 512
    type_vocab_size: int = 2
    mlp_dim: int | None = None
    dropout_rate: float = 0.1
    attention_dropout_rate: float | None = None
    pooler: bool = True
    epsilon: float = 1e-12
    dtype: Any = None
    param_dtype: Any = jnp.float32
    scan_layers: bool = False
    remat: str | None = None
    implementation: str | None = None

    def __call__(
        self, tokens: Any, *, token_types: Any = None, train: bool = False, mask: Any = None
    ) -> tuple[jax.Array, jax.Array | None]:
        """Maps tokens ``[B, T]`` to ``(hidden [B, T, D], pooled [B, D])``.

        Args:
            tokens: integers from 0 to ``V - 1``, shape ``[B, T]``.
            token_types: as ``encode``.
            train: whether dropout is on.
            mask: as ``encode``.

        Raises:
            BatchError: as ``encode``.
        """
        encoded = self.encode(tokens, token_types=token_types, train=train, mask=mask)
        return encoded.hidden, encoded.pooled

    @nn.compact
    def encode(
        self, tokens: Any, *, token_types: Any = None, train: bool = False, mask: Any = None
    ) -> Encoded:
        """What the heads are computed from.

        Args:
            tokens: integers from 0 to ``V - 1``, shape ``[B, T]``.
            token_types: integers, shape ``[B, T]``: 0 for the first text of a row, 1 for the
                second; all 0 when ``None``.
            train: whether dropout is on.
            mask: shape ``[B, T]``, 0 on padding, which no token then sees; or ``[B, T, T]``, 0
                where a token may not see another (``segment_mask``). A mask of rows, ``[B]``,
                changes nothing. What is returned for padding means nothing.

        Raises:
            BatchError: ``tokens`` are no integers ``[B, T]``, or longer than ``max_length``, or
                ``token_types`` are no integers of their shape.
        """
        tokens, token_types = self._checked(tokens, token_types)
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}

        def embedding(count: int, name: str) -> nn.Embed:
            return nn.Embed(count, self.hidden_dim, embedding_init=BERT_INIT, name=name, **types)

        words = embedding(self.vocab_size, "token_embedding")
        places = embedding(self.max_length, "position_embedding")
        kinds = embedding(self.type_vocab_size, "type_embedding")
        x = constrain(words(tokens), _RESIDUAL) + kinds(token_types)
        # Sliced, as a lookup in a table that is divided over devices is a sum over them.
        ahead = places.embedding[None, : tokens.shape[1]].astype(x.dtype)
        x = x + constrain(ahead, (None, "keys", "features"))
        norm = nn.LayerNorm(
            epsilon=self.epsilon, use_fast_variance=False, name="embedding_norm", **types
        )
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(constrain(norm(x), _RESIDUAL))
        x = run_layers(
            BERTBlock,
            self._block_options(train),
            x,
            None if mask is None or jnp.ndim(mask) == 1 else mask,
            num_layers=self.num_layers,
            scan_layers=self.scan_layers,
            remat=self.remat,
        )
        pooled = None
        if self.pooler:
            dense = nn.Dense(self.hidden_dim, kernel_init=BERT_INIT, name="pooler", **types)
            pooled = constrain(jnp.tanh(dense(x[:, 0])), ("batch", "features"))
        return Encoded(x, pooled, jnp.asarray(words.embedding))

    def _block_options(self, train: bool) -> dict[str, Any]:
        weights_rate = self.attention_dropout_rate
        return {
            "num_heads": self.num_heads,
            "mlp_dim": self.mlp_dim or 4 * self.hidden_dim,
            "dropout_rate": self.dropout_rate,
            "attention_dropout_rate": self.dropout_rate if weights_rate is None else weights_rate,
            "epsilon": self.epsilon,
            "train": train,
            "dtype": self.dtype,
            "param_dtype": self.param_dtype,
            "implementation": self.implementation,
        }

    def _checked(self, tokens: Any, token_types: Any) -> tuple[jax.Array, jax.Array]:
        check_rank(tokens, 2, "[B, T]", "BERT")
        tokens = jnp.asarray(tokens)
        if not jnp.issubdtype(tokens.dtype, jnp.integer) or tokens.shape[1] > self.max_length:
            raise BatchError(
                f"BERT got tokens of shape {list(tokens.shape)} and dtype {tokens.dtype}",
                expected=f"integers, at most {self.max_length} in a row",
                do="cut the rows, raise max_length, or cast the tokens",
            )
        if token_types is None:
            return tokens, jnp.zeros_like(tokens)
        token_types = jnp.asarray(token_types)
        if token_types.shape != tokens.shape or not jnp.issubdtype(token_types.dtype, jnp.integer):
            raise BatchError(
                f"BERT got token types of shape {list(token_types.shape)} and dtype "
                f"{token_types.dtype}",
                expected=f"integers of the tokens' shape, {list(tokens.shape)}",
                do="give one type a token, or none",
            )
        return tokens, token_types


def _published(num_layers: int, num_heads: int, hidden_dim: int, options: dict[str, Any]) -> BERT:
    sizes: dict[str, Any] = {
        "vocab_size": 30_522,
        "num_layers": num_layers,
        "num_heads": num_heads,
        "hidden_dim": hidden_dim,
    }
    return BERT(**{**sizes, **options})


def bert_tiny(**options: Any) -> BERT:
    """BERT tiny of Turc et al. 2019, arXiv:1908.08962: 2 layers x 128, 4,385,920 parameters.

    Args:
        **options: attributes of ``BERT`` that are to be others.
    """
    return _published(2, 2, 128, options)


def bert_base(**options: Any) -> BERT:
    """BERT base: 12 layers x 768, 109,482,240 parameters with the pooler.

    Args:
        **options: attributes of ``BERT`` that are to be others.
    """
    return _published(12, 12, 768, options)


def bert_large(**options: Any) -> BERT:
    """BERT large: 24 layers x 1024, 335,141,888 parameters with the pooler.

    Args:
        **options: attributes of ``BERT`` that are to be others.
    """
    return _published(24, 16, 1024, options)
