"""Scaled dot-product attention: one function for every model, and the layer around it.

Reads from: errors, models.activations. Used by: the models beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdl.errors import BatchError, ConfigError
from jaxdl.models.activations import constrain

__all__ = ["SelfAttention", "attention", "segment_mask"]

_IMPLEMENTATIONS = ("plain", "xla", "cudnn")


def attention(
    query: Any,
    key: Any,
    value: Any,
    *,
    causal: bool,
    mask: Any = None,
    implementation: str | None = None,
    dropout: Callable[[jax.Array], jax.Array] | None = None,
) -> jax.Array:
    r"""Multi-head attention, :math:`softmax(Q K^T / \sqrt{H}) V`, for each head.

    The softmax is taken in float32. A query that may see no key at all gets zeros. Source: Vaswani
    et al. 2017, arXiv:1706.03762, section 3.2.1.

    Args:
        query: floats, shape ``[B, T, N, H]``, with ``H`` the size of a head.
        key: shape ``[B, S, N, H]``.
        value: shape ``[B, S, N, H]``.
        causal: query ``t`` sees keys ``0 .. t`` only; needs ``S = T``.
        mask: shape ``[B, S]``, 0 on keys that nobody may see (padding), or ``[B, T, S]``, 0 where
            query ``t`` may not see key ``s`` (see ``segment_mask``).
        implementation: ``"plain"`` (two einsums), ``"xla"`` or ``"cudnn"`` (those of
            ``jax.nn.dot_product_attention``). ``None`` takes cuDNN on a GPU where it can (half
            precision, ``H`` a multiple of 8 up to 128, no mask), else XLA's.
        dropout: applied to the attention weights ``[B, N, T, S]``; needs the plain one.

    Returns:
        Shape ``[B, T, N, H]``, the dtype of ``value``.

    Raises:
        BatchError: the shapes do not go together.
        ConfigError: no such implementation, or one that cannot drop weights.

    Examples:
        >>> x = jnp.arange(4.0).reshape(1, 2, 1, 2)
        >>> attention(x, x, x, causal=True)[0, 0, 0].tolist()
        [0.0, 1.0]
    """
    query, key, value = jnp.asarray(query), jnp.asarray(key), jnp.asarray(value)
    _check_shapes(query, key, value, causal=causal)
    pairs = _pairs(mask, query.shape[0], query.shape[1], key.shape[1])
    chosen = _chosen(implementation, query, masked=mask is not None, drops=dropout is not None)
    seen = _seen(pairs, query.shape[1], causal=causal)
    if chosen == "plain":
        out = _plain(query, key, value, seen, dropout)
    else:
        kind = "cudnn" if chosen == "cudnn" else "xla"
        out = jax.nn.dot_product_attention(
            query, key, value, mask=pairs, is_causal=causal, implementation=kind
        )
    if pairs is None or seen is None:
        return out
    # A softmax over nothing is uniform: it would show a padded query the future.
    return jnp.where(jnp.any(seen, axis=-1)[:, 0, :, None, None], out, jnp.zeros_like(out))


def segment_mask(segments: Any) -> jax.Array:
    """Which tokens of packed rows may see each other: those of one segment.

    Args:
        segments: integers, shape ``[B, T]``: the number of each token's segment, 0 on padding.

    Returns:
        Booleans, shape ``[B, T, T]``.

    Examples:
        >>> segment_mask(jnp.array([[1, 2, 0]])).astype(int).tolist()
        [[[1, 0, 0], [0, 1, 0], [0, 0, 0]]]
    """
    segments = jnp.asarray(segments)
    return (segments[:, :, None] == segments[:, None, :]) & (segments != 0)[:, None, :]


def _check_shapes(query: jax.Array, key: jax.Array, value: jax.Array, *, causal: bool) -> None:
    fits = (
        query.ndim == key.ndim == 4
        and key.shape == value.shape
        and (query.shape[0], *query.shape[2:]) == (key.shape[0], *key.shape[2:])
        and not (causal and query.shape[1] != key.shape[1])
    )
    if not fits:
        raise BatchError(
            f"attention got query {list(query.shape)}, key {list(key.shape)} and value "
            f"{list(value.shape)}",
            expected="[B, T, N, H], [B, S, N, H] and [B, S, N, H], with S = T when causal",
            do="reshape the projections to heads first",
        )


def _pairs(mask: Any, batch: int, queries: int, keys: int) -> jax.Array | None:
    """The mask as booleans that broadcast over ``[B, N, T, S]``."""
    if mask is None:
        return None
    mask = jnp.asarray(mask) != 0
    if mask.shape == (batch, keys):
        return mask[:, None, None, :]
    if mask.shape == (batch, queries, keys):
        return mask[:, None]
    raise BatchError(
        f"the attention mask has shape {list(mask.shape)}",
        expected=f"{[batch, keys]} (keys) or {[batch, queries, keys]} (pairs)",
        do="give one entry a key, or one a query and key",
    )


def _chosen(implementation: str | None, query: jax.Array, *, masked: bool, drops: bool) -> str:
    if implementation is not None and implementation not in _IMPLEMENTATIONS:
        raise ConfigError(
            f"attention's implementation is {implementation!r}",
            expected=f"one of {', '.join(_IMPLEMENTATIONS)}, or None",
            do="leave it None to have it chosen",
        )
    if drops and implementation not in (None, "plain"):
        raise ConfigError(
            f"implementation={implementation!r} cannot drop attention weights",
            expected="the plain one, where there is attention dropout",
            do="leave implementation None, or set the dropout rate to 0",
        )
    if implementation or drops:
        return implementation or "plain"
    half = query.dtype in (jnp.bfloat16, jnp.float16)
    size = query.shape[-1]
    fused = half and size % 8 == 0 and size <= 128 and not masked
    return "cudnn" if fused and jax.default_backend() == "gpu" else "xla"


def _seen(pairs: jax.Array | None, length: int, *, causal: bool) -> jax.Array | None:
    if not causal:
        return pairs
    triangle = jnp.tril(jnp.ones((1, 1, length, length), bool))
    return triangle if pairs is None else triangle & pairs


def _plain(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    seen: jax.Array | None,
    dropout: Callable[[jax.Array], jax.Array] | None,
) -> jax.Array:
    scores = jnp.einsum("btnh,bsnh->bnts", query, key, preferred_element_type=jnp.float32)
    scores = scores * query.shape[-1] ** -0.5
    if seen is not None:
        # Finite, so that a row with nothing to see has no NaN in its gradient.
        scores = jnp.where(seen, scores, 0.7 * jnp.finfo(scores.dtype).min)
    weights = jax.nn.softmax(scores, axis=-1)
    if dropout is not None:
        weights = dropout(weights)
    return jnp.einsum("bnts,bsnh->btnh", weights.astype(value.dtype), value)


class SelfAttention(nn.Module):
    """Query, key and value of one input, attention, and the projection back.

    The three projections are three kernels ``[D, D]``, not one ``[D, 3 D]``: each can be cut over
    a tensor axis by whole heads.

    Attributes:
        num_heads: ``N``; must divide ``D``.
        causal: each token sees itself and those before it only.
        dropout_rate: of the attention weights.
        kernel_init: of query, key and value.
        out_init: of the projection back.
        dtype: of the computation; the parameters' and input's when ``None``.
        param_dtype: of the parameters.
        implementation: see ``attention``.
    """

    num_heads: int
    causal: bool = False
    dropout_rate: float = 0.0
    kernel_init: Any = nn.initializers.normal(0.02)
    out_init: Any = nn.initializers.normal(0.02)
    dtype: Any = None
    param_dtype: Any = jnp.float32
    implementation: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, mask: Any = None, *, train: bool = False) -> jax.Array:
        """Maps ``[B, T, D]`` to ``[B, T, D]``.

        Args:
            x: shape ``[B, T, D]``.
            mask: see ``attention``.
            train: whether dropout is on.

        Raises:
            ConfigError: the heads do not divide ``D``.
        """
        width = x.shape[-1]
        if self.num_heads < 1 or width % self.num_heads:
            raise ConfigError(
                f"{self.num_heads} heads do not divide {width} features",
                expected="hidden_dim a multiple of num_heads",
                do="change one of the two",
            )

        def projected(name: str) -> jax.Array:
            dense = nn.Dense(
                width,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
                kernel_init=self.kernel_init,
                name=name,
            )
            heads = dense(x).reshape(*x.shape[:2], self.num_heads, width // self.num_heads)
            heads = constrain(heads, ("batch", "time", "heads", None))
            # Of a row divided over devices, each query still looks at the whole.
            return heads if name == "query" else constrain(heads, ("batch", "keys", "heads", None))

        drop = nn.Dropout(self.dropout_rate, deterministic=False)
        out = attention(
            *(projected(name) for name in ("query", "key", "value")),
            causal=self.causal,
            mask=mask,
            implementation=self.implementation,
            dropout=drop if train and self.dropout_rate else None,
        )
        out = constrain(out, ("batch", "time", "heads", None))
        out = nn.Dense(
            width,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            kernel_init=self.out_init,
            name="out",
        )(out.reshape(x.shape))
        return constrain(out, ("batch", "time", "features"))
