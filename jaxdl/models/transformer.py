"""The Transformer of machine translation: an encoder, and a decoder that looks at what it made.

Reads from: errors, products, models.activations, models.cross_attention, models.layers,
models.transformer_stacks. Used by: recipes, by choice.
"""

from __future__ import annotations

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from jaxdl.errors import BatchError, ConfigError, closest
from jaxdl.models.activations import constrain
from jaxdl.models.layers import check_rank
from jaxdl.models.transformer_stacks import Decoder, Encoder
from jaxdl.products import wide_logits

__all__ = [
    "SCANNED_TENSOR_RULES",
    "TENSOR_RULES",
    "Transformer",
    "transformer_base",
    "transformer_big",
]

_EMBEDDING_RULE = (r"(token|source)_embedding/embedding$", P("tensor", None))
_HEAD_RULE = (r"head/kernel$", P(None, "tensor"))
_ATTENTION = r"(attention|cross_attention)"
_BLOCK_RULES = (
    (rf"{_ATTENTION}/(query|key|value)/kernel$", (None, "tensor")),
    (rf"{_ATTENTION}/(query|key|value)/bias$", ("tensor",)),
    (rf"{_ATTENTION}/out/kernel$", ("tensor", None)),
    (r"mlp_in/kernel$", (None, "tensor")),
    (r"mlp_in/bias$", ("tensor",)),
    (r"mlp_out/kernel$", ("tensor", None)),
)

TENSOR_RULES = (
    _EMBEDDING_RULE,
    _HEAD_RULE,
    *((rf"(encoder|decoder)/block_\d+/{path}", P(*spec)) for path, spec in _BLOCK_RULES),
)
"""Tensor parallelism of an unrolled ``Transformer``, as of ``GPT`` (Shoeybi et al. 2019,
arXiv:1909.08053). The vocabularies must be multiples of the axis, ``num_heads`` should be."""

SCANNED_TENSOR_RULES = (
    _EMBEDDING_RULE,
    _HEAD_RULE,
    *((rf"(encoder|decoder)/blocks/{path}", P(None, *spec)) for path, spec in _BLOCK_RULES),
)
"""``TENSOR_RULES`` for ``scan_layers=True``, where kernels have a first axis over layers."""

_TIES = ("all", "target", "none")


class Transformer(nn.Module):
    r"""Encoder and decoder, for one text that is read and another that is written.

    As published: post-norm layers (each half is ``norm(x + dropout(half(x)))``) with no norm after
    the last, ReLU, sinusoidal positions, word embeddings times :math:`\sqrt{D}`, one embedding for
    both texts and the head, attention without biases. Dropout is on the sums of embeddings and
    positions and on what each half of a layer adds, nowhere else. The paper does not give the rest:
    kernels start as Glorot and Bengio 2010 (uniform), embeddings normal with deviation
    :math:`D^{-1/2}`, and the norms add 1e-6, as in the authors' code, tensor2tensor.

    Source: Vaswani et al. 2017, arXiv:1706.03762. Pre-norm: Xiong et al. 2020, arXiv:2002.04745.

    Attributes:
        vocab_size: ``V``, of the target, and of the source where they share one.
        num_layers: of the encoder, and of the decoder.
        num_heads: ``N``; must divide ``hidden_dim``.
        hidden_dim: ``D``.
        mlp_dim: width of the hidden dense layers; ``4 D`` when ``None``.
        source_vocab_size: of a source with a vocabulary of its own; needs ``tie`` other than
            ``"all"``.
        tie: ``"all"``: source, target and head are one embedding; ``"target"``: the source has its
            own; ``"none"``: the head has its own kernel too.
        dropout_rate: 0.1 in the base model, 0.3 in the big one.
        pre_norm: each half is ``x + dropout(half(norm(x)))``, with a norm after the last layer.
        attention_bias: whether the projections of attention have biases.
        dtype: of the computation; the parameters' when ``None``.
        param_dtype: of the parameters.
        scan_layers: one scanned layer in place of a program that grows with ``num_layers``; the
            parameters of encoder and decoder are then stacked, see ``stack_layers``.
        remat: what a layer keeps for the backward pass, a name of ``REMAT_POLICIES``.
        implementation: see ``attention``.

    Examples:
        >>> model = Transformer(vocab_size=11, num_layers=1, num_heads=2, hidden_dim=8)
        >>> source, target = jnp.zeros((1, 5), int), jnp.zeros((1, 3), int)
        >>> logits, _ = model.init_with_output(jax.random.key(0), source, target=target)
        >>> logits.shape
        (1, 3, 11)
    """

    vocab_size: int
    num_layers: int
    num_heads: int
    hidden_dim: int
    mlp_dim: int | None = None
    source_vocab_size: int | None = None
    tie: Literal["all", "target", "none"] = "all"
    dropout_rate: float = 0.1
    pre_norm: bool = False
    attention_bias: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32
    scan_layers: bool = False
    remat: str | None = None
    implementation: str | None = None

    def setup(self) -> None:
        """Embeddings, the two stacks, and the head where it has a kernel of its own."""
        self._check()
        self.token_embedding = self._embed(self.vocab_size)
        if self.tie != "all":
            self.source_embedding = self._embed(self.source_vocab_size or self.vocab_size)
        if self.tie == "none":
            self.head = nn.Dense(
                self.vocab_size,
                use_bias=False,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
                kernel_init=nn.initializers.xavier_uniform(),
            )
        sizes: dict[str, Any] = {
            "num_layers": self.num_layers,
            "num_heads": self.num_heads,
            "mlp_dim": self.mlp_dim or 4 * self.hidden_dim,
            "dropout_rate": self.dropout_rate,
            "pre_norm": self.pre_norm,
            "attention_bias": self.attention_bias,
            "dtype": self.dtype,
            "param_dtype": self.param_dtype,
            "scan_layers": self.scan_layers,
            "remat": self.remat,
            "implementation": self.implementation,
        }
        self.encoder = Encoder(**sizes)
        self.decoder = Decoder(**sizes)

    def __call__(
        self,
        source: Any,
        *,
        target: Any,
        source_mask: Any = None,
        target_mask: Any = None,
        train: bool = False,
    ) -> jax.Array:
        """Logits of the token that follows each token of the target, float32 ``[B, T, V]``.

        Args:
            source: tokens that are read, integers ``[B, S]``.
            target: tokens written so far, integers ``[B, T]``, a start token first.
            source_mask: shape ``[B, S]``, 0 on padding, which nothing then sees.
            target_mask: shape ``[B, T]``, 0 on padding. After the text it changes no real logit:
                the future is not seen anyway.
            train: whether dropout is on.

        Raises:
            BatchError: the tokens are no integers of two axes, or a mask does not fit them.
        """
        memory = self.encode(source, source_mask=source_mask, train=train)
        x = self._words(target, "target", self.token_embedding)
        if len(x) != len(memory):
            raise BatchError(
                f"the source has {len(memory)} rows, the target has {len(x)} rows",
                expected="one target a source",
                do="check how the batch was made",
            )
        _check_mask(target_mask, x.shape[:2], "target_mask")
        x = self.decoder(x, memory, memory_mask=source_mask, target_mask=target_mask, train=train)
        return self._logits(x)

    def encode(self, source: Any, *, source_mask: Any = None, train: bool = False) -> jax.Array:
        """What the decoder looks at, ``[B, S, D]``.

        Args:
            source: integers, shape ``[B, S]``.
            source_mask: shape ``[B, S]``, 0 on padding.
            train: whether dropout is on.

        Raises:
            BatchError: as the call.
        """
        own = self.token_embedding if self.tie == "all" else self.source_embedding
        x = self._words(source, "source", own)
        _check_mask(source_mask, x.shape[:2], "source_mask")
        return self.encoder(x, source_mask, train=train)

    def begin(self, source: Any, length: int, *, source_mask: Any = None) -> None:
        """Makes the cache of ``extend``: reads the source, and keeps what the decoder looks at.

        Call it with ``method="begin", mutable=["cache"]`` and no cache among the variables.

        Args:
            source: integers, shape ``[B, S]``.
            length: how many tokens of the target the cache has room for.
            source_mask: shape ``[B, S]``, 0 on padding.

        Raises:
            BatchError: as the call.
            ConfigError: the length is no positive number.
        """
        if length < 1:
            raise ConfigError(
                f"the cache's length is {length}", expected="at least 1", do="give it room"
            )
        memory = self.encode(source, source_mask=source_mask)
        room = jnp.zeros((memory.shape[0], length, self.hidden_dim), memory.dtype)
        self.decoder(room, memory, memory_mask=source_mask, decode=True)

    def extend(self, target: Any) -> jax.Array:
        """Logits ``[B, T, V]`` of the next ``T`` target tokens, those before them in the cache.

        Call it with ``method="extend", mutable=["cache"]`` and the cache among the variables.
        Logits of tokens past the end of the cache are NaN.

        Args:
            target: integers, shape ``[B, T]``; at first the start token.

        Raises:
            BatchError: as the call, or the cache has other rows or too little room.
            ConfigError: there is no cache.
        """
        x = self._words(target, "target", self.token_embedding)
        return self._logits(self.decoder(x, None, decode=True))

    def _embed(self, count: int) -> nn.Embed:
        return nn.Embed(
            count,
            self.hidden_dim,
            embedding_init=nn.initializers.normal(self.hidden_dim**-0.5),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
        )

    def _words(self, tokens: Any, name: str, embedding: nn.Embed) -> jax.Array:
        check_rank(tokens, 2, f"{name} tokens [B, T]", "Transformer")
        tokens = jnp.asarray(tokens)
        if not jnp.issubdtype(tokens.dtype, jnp.integer):
            raise BatchError(
                f"Transformer got {name} tokens of dtype {tokens.dtype}",
                expected="integers",
                do="cast the tokens, or check which field is which",
            )
        words = embedding(tokens)
        return words * jnp.asarray(self.hidden_dim**0.5, words.dtype)

    def _logits(self, x: jax.Array) -> jax.Array:
        if self.tie == "none":
            logits = self.head(x).astype(jnp.float32)
        else:
            logits = wide_logits(x, self.token_embedding.embedding)
        return constrain(logits, ("batch", "time", None))

    def _check(self) -> None:
        if self.tie not in _TIES:
            raise ConfigError(
                f"tie is {self.tie!r}",
                expected=f"one of {', '.join(_TIES)}",
                do=closest(str(self.tie), _TIES),
            )
        own = self.source_vocab_size
        if self.tie == "all" and own is not None and own != self.vocab_size:
            raise ConfigError(
                f"tie='all', with {own} source words and {self.vocab_size} target words",
                expected="one vocabulary for both texts",
                do="set tie='target', or leave source_vocab_size out",
            )


def _check_mask(mask: Any, shape: tuple[int, ...], name: str) -> None:
    if mask is not None and jnp.shape(mask) != shape:
        raise BatchError(
            f"{name} has shape {list(jnp.shape(mask))}",
            expected=f"{list(shape)}: one entry a token",
            do="give 1 for real tokens and 0 for padding",
        )


def transformer_base(**options: Any) -> Transformer:
    """The base model: 6 + 6 layers x 512; 63,045,632 parameters with its 37,000 words.

    The paper says 65 million.

    Args:
        **options: attributes of ``Transformer`` that are to be others.
    """
    sizes: dict[str, Any] = {
        "vocab_size": 37_000,
        "num_layers": 6,
        "num_heads": 8,
        "hidden_dim": 512,
    }
    return Transformer(**{**sizes, **options})


def transformer_big(**options: Any) -> Transformer:
    """The big model: 6 + 6 layers x 1024, dropout 0.3; 214,171,648 parameters with 37,000 words.

    The paper says 213 million.

    Args:
        **options: attributes of ``Transformer`` that are to be others.
    """
    sizes: dict[str, Any] = {
        "vocab_size": 37_000,
        "num_layers": 6,
        "num_heads": 16,
        "hidden_dim": 1024,
        "dropout_rate": 0.3,
    }
    return Transformer(**{**sizes, **options})
