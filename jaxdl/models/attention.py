"""Scaled dot-product attention: one function for every model, and the layer around it.

Reads from: errors, models.activations, models.kernels, models.layers, models.masks. Used by: the
models beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdl.errors import BatchError, ConfigError
from jaxdl.models.activations import constrain
from jaxdl.models.kernels import choose, flash
from jaxdl.models.layers import check_rank
from jaxdl.models.masks import Reach, cache_mask, places, reach_of, segment_mask

__all__ = ["SelfAttention", "attention"]


def attention(
    query: Any,
    key: Any,
    value: Any,
    *,
    causal: bool,
    mask: Any = None,
    segments: Any = None,
    implementation: str | None = None,
    dropout: Callable[[jax.Array], jax.Array] | None = None,
) -> jax.Array:
    r"""Multi-head attention, :math:`softmax(Q K^T / \sqrt{H}) V`, for each head.

    The softmax is taken in float32; of float64 in float64, by the plain one. A query that may see
    no key at all gets zeros. With fewer heads of keys than of queries, each is shared by ``N / K``
    heads of queries that follow each other. What is computed is in the scope ``causal_attention``
    or ``attention``.

    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.2.1; shared keys: Ainslie et al. 2023,
    arXiv:2305.13245.

    Args:
        query: floats, shape ``[B, T, N, H]``, with ``H`` the size of a head.
        key: shape ``[B, S, K, H]``; ``K`` divides ``N``.
        value: shape ``[B, S, K, H]``.
        causal: query ``t`` sees keys ``0 .. t`` only; needs ``S = T``.
        mask: shape ``[B, S]``, 0 on keys that nobody may see (padding), or ``[B, T, S]``, 0 where
            query ``t`` may not see key ``s``.
        segments: integers ``[B, T]``, 0 on padding: a query sees the keys of its own segment only,
            as with ``segment_mask``. Needs ``S = T``.
        implementation: ``"plain"`` (two einsums), ``"xla"`` or ``"cudnn"`` (those of
            ``jax.nn.dot_product_attention``) or ``"flash"`` (JAX's Pallas kernel for TPU); ``None``
            has one chosen, see ``models.kernels.choose``.
        dropout: applied to the attention weights ``[B, N, T, S]``; needs the plain one.

    Returns:
        Shape ``[B, T, N, H]``, the dtype of ``value``.

    Raises:
        BatchError: the shapes do not go together.
        ConfigError: no such implementation, or one that cannot do this.

    Examples:
        >>> x = jnp.arange(4.0).reshape(1, 2, 1, 2)
        >>> attention(x, x, x, causal=True)[0, 0, 0].tolist()
        [0.0, 1.0]
    """
    query, key, value = jnp.asarray(query), jnp.asarray(key), jnp.asarray(value)
    _check_shapes(query, key, value, causal=causal)
    pairs = _pairs(mask, segments, query.shape[:2], key.shape[1])
    chosen = choose(implementation, query, key, mask=mask, segments=segments, drops=bool(dropout))
    seen = _seen(pairs, query.shape[1], causal=causal)
    # The planner counts half of what is in a scope of this name.
    with jax.named_scope("causal_attention" if causal else "attention"):
        if chosen == "plain":
            out = _plain(query, key, value, seen, dropout)
        elif chosen == "flash":
            out = flash(query, key, value, causal=causal, mask=mask, segments=segments)
        else:
            kind = "cudnn" if chosen == "cudnn" else "xla"
            out = jax.nn.dot_product_attention(
                query, key, value, mask=pairs, is_causal=causal, implementation=kind
            )
    if pairs is None or seen is None:
        return out
    # A softmax over nothing is uniform: it would show a padded query the future.
    return jnp.where(jnp.any(seen, axis=-1)[:, 0, :, None, None], out, jnp.zeros_like(out))


def _check_shapes(query: jax.Array, key: jax.Array, value: jax.Array, *, causal: bool) -> None:
    fits = (
        query.ndim == key.ndim == 4
        and key.shape == value.shape
        and (query.shape[0], query.shape[3]) == (key.shape[0], key.shape[3])
        and key.shape[2] > 0
        and query.shape[2] % key.shape[2] == 0
        and not (causal and query.shape[1] != key.shape[1])
    )
    if not fits:
        raise BatchError(
            f"attention got query {list(query.shape)}, key {list(key.shape)} and value "
            f"{list(value.shape)}",
            expected="[B, T, N, H], [B, S, K, H] and [B, S, K, H], with K a divisor of N, and "
            "S = T when causal",
            do="reshape the projections to heads first",
        )


def _pairs(mask: Any, segments: Any, queries: tuple[int, ...], keys: int) -> jax.Array | None:
    """Mask and segments as booleans that broadcast over ``[B, N, T, S]``."""
    pairs = None
    if segments is not None:
        if jnp.shape(segments) != queries or queries[1] != keys:
            raise BatchError(
                f"segments have shape {list(jnp.shape(segments))}, queries {list(queries)}, and "
                f"there are {keys} keys a row",
                expected="one number a token, of a row that looks at itself",
                do="give the segments that data.pack made, or a mask of pairs",
            )
        pairs = segment_mask(segments)[:, None]
    if mask is None:
        return pairs
    mask = jnp.asarray(mask) != 0
    if mask.shape == (queries[0], keys):
        given = mask[:, None, None, :]
    elif mask.shape == (*queries, keys):
        given = mask[:, None]
    else:
        raise BatchError(
            f"the attention mask has shape {list(mask.shape)}",
            expected=f"{[queries[0], keys]} (keys) or {[*queries, keys]} (pairs)",
            do="give one entry a key, or one a query and key",
        )
    return given if pairs is None else given & pairs


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
    if query.shape[2] != key.shape[2]:
        key, value = (jnp.repeat(x, query.shape[2] // x.shape[2], axis=2) for x in (key, value))
    wide = jnp.promote_types(query.dtype, jnp.float32)
    scores = jnp.einsum("btnh,bsnh->bnts", query, key, preferred_element_type=wide)
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

    The three projections are three kernels, not one ``[D, 3 D]``: each can be cut over a tensor
    axis by whole heads.

    With a cache keys and values are kept in the collection ``"cache"``, ``[B, L, K, H]``. A first
    call with no cache makes it, of zeros, one place for each token of ``x``. Later calls read the
    next few tokens, and see what is in the cache; a call that reads past its end gives NaN.

    Attributes:
        num_heads: ``N``; must divide ``D``.
        causal: each token sees itself and those before it only.
        dropout_rate: of the attention weights.
        kernel_init: of query, key and value.
        out_init: of the projection back.
        dtype: of the computation; the parameters' and input's when ``None``.
        param_dtype: of the parameters.
        implementation: see ``attention``; over a cache a kernel gives way to XLA's.
        num_kv_heads: ``K``, heads of keys and values; ``N`` when ``None``, else a divisor of it.
        use_bias: whether the projections have biases.
        rotary: what turns queries and keys by their positions, such as ``rotary.Rotary``; keys are
            kept in the cache turned.
    """

    num_heads: int
    causal: bool = False
    dropout_rate: float = 0.0
    kernel_init: Any = nn.initializers.normal(0.02)
    out_init: Any = nn.initializers.normal(0.02)
    dtype: Any = None
    param_dtype: Any = jnp.float32
    implementation: str | None = None
    num_kv_heads: int | None = None
    use_bias: bool = True
    rotary: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, mask: Any = None, *, train: bool = False) -> jax.Array:
        """Maps ``[B, T, D]`` to ``[B, T, D]``.

        Args:
            x: shape ``[B, T, D]``.
            mask: see ``attention``; or a ``Reach``, with segments and positions, and with an index
                where there is a cache.
            train: whether dropout is on. Over a cache there is none.

        Raises:
            ConfigError: the heads do not divide ``D`` or each other, or there is a cache and
                attention is not causal.
            BatchError: ``x`` has other axes, or there are more tokens than the cache has room for,
                or other rows.
        """
        check_rank(x, 3, "[B, T, D]", "SelfAttention")
        reach = reach_of(mask)
        self._check(x.shape[-1], reach)
        query, key, value = (self._heads(x, name) for name in ("query", "key", "value"))
        if self.rotary is not None:
            stands = places(reach, x.shape[0], x.shape[1])
            query, key = (self.rotary.turn(heads, stands) for heads in (query, key))
        if reach.index is not None and self.has_variable("cache", "cached_key"):
            out = self._over_cache(query, key, value, reach)
        else:
            if reach.index is not None:
                self.variable("cache", "cached_key", jnp.zeros_like, key)
                self.variable("cache", "cached_value", jnp.zeros_like, value)
            drop = nn.Dropout(self.dropout_rate, deterministic=False)
            out = attention(
                query,
                key,
                value,
                causal=self.causal,
                mask=reach.mask,
                segments=reach.segments,
                implementation=self.implementation,
                dropout=drop if train and self.dropout_rate else None,
            )
        out = constrain(out, ("batch", "time", "heads", None)).reshape(x.shape)
        return constrain(self._dense(out, x.shape[-1], "out"), ("batch", "time", "features"))

    # Not wrapped: the operations keep the layer's name, without a method's.
    @nn.nowrap
    def _dense(self, x: jax.Array, width: int, name: str) -> jax.Array:
        layer = nn.Dense(
            width,
            use_bias=self.use_bias,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            kernel_init=self.out_init if name == "out" else self.kernel_init,
            name=name,
        )
        return layer(x)

    @nn.nowrap
    def _heads(self, x: jax.Array, name: str) -> jax.Array:
        size = x.shape[-1] // self.num_heads
        count = self.num_heads if name == "query" else self.num_kv_heads or self.num_heads
        heads = self._dense(x, count * size, name).reshape(*x.shape[:2], count, size)
        heads = constrain(heads, ("batch", "time", "heads", None))
        # Of a row divided over devices, each query still looks at the whole.
        return heads if name == "query" else constrain(heads, ("batch", "keys", "heads", None))

    @nn.nowrap
    def _over_cache(
        self, query: jax.Array, key: jax.Array, value: jax.Array, reach: Reach
    ) -> jax.Array:
        """Attention over all that was read so far, the new keys and values put into the cache."""
        rows, length = query.shape[:2]
        kept: list[jax.Array] = []
        for name, new in (("cached_key", key), ("cached_value", value)):
            cached = self.variable("cache", name, jnp.zeros_like, new)
            _check_room(cached.value.shape, new.shape)
            whole = jax.lax.dynamic_update_slice_in_dim(
                cached.value, new.astype(cached.value.dtype), reach.index, axis=1
            )
            cached.value = constrain(whole, ("batch", "keys", "heads", None))
            kept.append(cached.value)
        room = kept[0].shape[1]
        seen = cache_mask(reach, rows, length, room)
        # Kernels take no mask of pairs, and a few queries need none: XLA's is chosen, where it can.
        chosen = "plain" if self.implementation == "plain" else None
        out = attention(query, *kept, causal=False, mask=seen, implementation=chosen)
        # Past its end the cache was written over: better no number than a wrong one.
        return jnp.where(reach.index + length <= room, out, jnp.full_like(out, jnp.nan))

    @nn.nowrap
    def _check(self, width: int, reach: Reach) -> None:
        if self.num_heads < 1 or width % self.num_heads:
            raise ConfigError(
                f"{self.num_heads} heads do not divide {width} features",
                expected="hidden_dim a multiple of num_heads",
                do="change one of the two",
            )
        shared = self.num_kv_heads
        if shared is not None and (shared < 1 or self.num_heads % shared):
            raise ConfigError(
                f"{shared} heads of keys do not divide {self.num_heads} heads of queries",
                expected="num_heads a multiple of num_kv_heads",
                do="change one of the two, or leave num_kv_heads out",
            )
        if reach.index is not None and not self.causal:
            raise ConfigError(
                "a cache was asked of attention that looks both ways",
                expected="causal=True where a Reach has an index",
                do="set causal, or read the whole text at once",
            )


def _check_room(cached: tuple[int, ...], new: tuple[int, ...]) -> None:
    if cached[0] != new[0] or cached[1] < new[1] or cached[2:] != new[2:]:
        raise BatchError(
            f"the cache has room for {cached[1]} tokens in {cached[0]} rows, and {new[1]} tokens "
            f"came in {new[0]} rows",
            expected="as many rows, and no more tokens than there is room for",
            do="make a longer cache, or cut the prompt: generation.empty_cache(model, params, "
            "rows, length)",
        )
