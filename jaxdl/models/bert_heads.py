"""The heads of BERT: masked words, the next sentence, a class a row, a class a token.

Each is a module around a ``BERT``, whose parameters are those under ``bert``.

Reads from: errors, products, models.activations, models.bert. Used by: recipes, by choice.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdl.errors import ConfigError
from jaxdl.models.activations import constrain
from jaxdl.models.bert import BERT, BERT_INIT, Encoded
from jaxdl.products import wide_logits

__all__ = ["BERTClassifier", "BERTMaskedLM", "BERTPretraining", "BERTTagger", "WordHead"]


class WordHead(nn.Module):
    """A dense layer, GELU and LayerNorm, then the product with the word embedding, and a bias.

    Attributes:
        epsilon: of the norm.
        dtype: of the computation.
        param_dtype: of the parameters.
    """

    epsilon: float = 1e-12
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, embedding: jax.Array) -> jax.Array:
        """Maps ``[B, T, D]`` to logits, ``[B, T, V]``.

        Args:
            x: shape ``[B, T, D]``.
            embedding: shape ``[V, D]``.
        """
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = nn.Dense(x.shape[-1], kernel_init=BERT_INIT, name="transform", **types)(x)
        x = nn.gelu(x, approximate=False)
        x = nn.LayerNorm(epsilon=self.epsilon, use_fast_variance=False, name="norm", **types)(x)
        bias = self.param("bias", nn.initializers.zeros, embedding.shape[:1], self.param_dtype)
        logits = wide_logits(x, embedding)
        return constrain(logits + bias.astype(logits.dtype)[None, None], ("batch", "time", None))


class BERTMaskedLM(nn.Module):
    """BERT with its head of masked words: which word stands at each place.

    The head's product is with the word embedding, which is one tensor with the input's.

    Attributes:
        bert: the encoder; its pooler is not used, so ``pooler=False`` saves it.

    Examples:
        >>> bert = BERT(vocab_size=11, num_layers=1, num_heads=2, hidden_dim=8, pooler=False)
        >>> model = BERTMaskedLM(bert)
        >>> logits, _ = model.init_with_output(jax.random.key(0), jnp.zeros((1, 3), int))
        >>> logits.shape
        (1, 3, 11)
    """

    bert: BERT

    @nn.compact
    def __call__(
        self,
        tokens: Any,
        *,
        token_types: Any = None,
        positions: Any = None,
        train: bool = False,
        mask: Any = None,
    ) -> jax.Array:
        """Maps tokens ``[B, T]`` to logits, float32 or wider, ``[B, T, V]``.

        Args:
            tokens: see ``BERT.encode``.
            token_types: see ``BERT.encode``.
            positions: integers, shape ``[B, S]``: the places to compute logits of, ``[B, S, V]``;
                all when ``None``.
            train: whether dropout is on.
            mask: see ``BERT.encode``.
        """
        encoded = self.bert.encode(tokens, token_types=token_types, train=train, mask=mask)
        return _word_logits(self.bert, encoded, positions)


class BERTPretraining(nn.Module):
    """BERT with both heads of its pretraining: masked words, and whether two texts follow.

    Attributes:
        bert: the encoder.
    """

    bert: BERT

    @nn.compact
    def __call__(
        self,
        tokens: Any,
        *,
        token_types: Any = None,
        positions: Any = None,
        train: bool = False,
        mask: Any = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Maps tokens ``[B, T]`` to ``(word logits [B, T, V], sentence logits [B, 2])``.

        In the original, sentence class 0 says that the second text follows the first.

        Args:
            tokens: see ``BERT.encode``.
            token_types: see ``BERT.encode``.
            positions: as in ``BERTMaskedLM``.
            train: whether dropout is on.
            mask: see ``BERT.encode``.

        Raises:
            ConfigError: the encoder has no pooler.
        """
        encoded = self.bert.encode(tokens, token_types=token_types, train=train, mask=mask)
        follows = _classes(self.bert, 2, "next_sentence")(_pooled(encoded))
        return _word_logits(self.bert, encoded, positions), _widened(follows)


class BERTClassifier(nn.Module):
    """BERT with a dense layer on what it pools of a row: a class a row.

    Attributes:
        bert: the encoder.
        num_classes: ``K``; 1 for a number in place of classes.
        dropout_rate: of what the layer reads; the encoder's when ``None``.
    """

    bert: BERT
    num_classes: int
    dropout_rate: float | None = None

    @nn.compact
    def __call__(
        self, tokens: Any, *, token_types: Any = None, train: bool = False, mask: Any = None
    ) -> jax.Array:
        """Maps tokens ``[B, T]`` to logits ``[B, K]``, float32 or wider.

        Args:
            tokens: see ``BERT.encode``. The first of a row must be real: it is what is pooled.
            token_types: see ``BERT.encode``.
            train: whether dropout is on.
            mask: see ``BERT.encode``.

        Raises:
            ConfigError: the encoder has no pooler.
        """
        encoded = self.bert.encode(tokens, token_types=token_types, train=train, mask=mask)
        rate = self.bert.dropout_rate if self.dropout_rate is None else self.dropout_rate
        x = nn.Dropout(rate, deterministic=not train)(_pooled(encoded))
        return _widened(_classes(self.bert, self.num_classes, "classifier")(x))


class BERTTagger(nn.Module):
    """BERT with a dense layer on each token: a class a token.

    Attributes:
        bert: the encoder; its pooler is not used, so ``pooler=False`` saves it.
        num_classes: ``K``.
        dropout_rate: of what the layer reads; the encoder's when ``None``.
    """

    bert: BERT
    num_classes: int
    dropout_rate: float | None = None

    @nn.compact
    def __call__(
        self, tokens: Any, *, token_types: Any = None, train: bool = False, mask: Any = None
    ) -> jax.Array:
        """Maps tokens ``[B, T]`` to logits ``[B, T, K]``, float32 or wider.

        Args:
            tokens: see ``BERT.encode``.
            token_types: see ``BERT.encode``.
            train: whether dropout is on.
            mask: see ``BERT.encode``.
        """
        encoded = self.bert.encode(tokens, token_types=token_types, train=train, mask=mask)
        rate = self.bert.dropout_rate if self.dropout_rate is None else self.dropout_rate
        x = nn.Dropout(rate, deterministic=not train)(encoded.hidden)
        return _widened(_classes(self.bert, self.num_classes, "classifier")(x))


def _word_logits(bert: BERT, encoded: Encoded, positions: Any) -> jax.Array:
    x = encoded.hidden
    if positions is not None:
        x = jnp.take_along_axis(x, jnp.asarray(positions)[:, :, None], axis=1)
    head = WordHead(bert.epsilon, bert.dtype, bert.param_dtype, name="head")
    return head(x, encoded.embedding)


def _classes(bert: BERT, count: int, name: str) -> nn.Dense:
    if count < 1:
        raise ConfigError(f"num_classes is {count}", expected="at least 1", do="count the classes")
    return nn.Dense(
        count, kernel_init=BERT_INIT, dtype=bert.dtype, param_dtype=bert.param_dtype, name=name
    )


def _pooled(encoded: Encoded) -> jax.Array:
    if encoded.pooled is None:
        raise ConfigError(
            "this head reads what BERT pools of a row, but the encoder has pooler=False",
            expected="an encoder with a pooler",
            do="leave pooler out when you make the BERT",
        )
    return encoded.pooled


def _widened(logits: jax.Array) -> jax.Array:
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
