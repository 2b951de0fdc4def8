"""Scaled dot-product attention: one function for every model, and the layer around it.

Reads from: errors, models.activations, models.decoding, models.kernels, models.masks,
models.rotary. Used by: the models beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdl.errors import ConfigError
from jaxdl.models.activations import constrain, parts, platform
from jaxdl.models.decoding import Reach
from jaxdl.models.kernels import flash, flash_lacks
from jaxdl.models.masks import Masks, check_heads, masks_of, segment_mask
from jaxdl.models.rotary import Rotary

__all__ = ["SelfAttention", "attention", "segment_mask"]

_IMPLEMENTATIONS = ("plain", "xla", "cudnn", "flash")
_LONG = 1024


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

    The softmax is taken in float32. A query that may see no key at all gets zeros. Source: Vaswani
    et al. 2017, arXiv:1706.03762, section 3.2.1. With fewer heads of keys than of queries, query
    head ``n`` looks at key head ``n // (N / K)``: Ainslie et al. 2023, arXiv:2305.13245.

    Args:
        query: floats, shape ``[B, T, N, H]``, with ``H`` the size of a head.
        key: shape ``[B, S, K, H]``, with ``K`` a divisor of ``N``.
        value: shape ``[B, S, K, H]``.
        causal: query ``t`` sees keys ``0 .. t`` only; needs ``S = T``.
        mask: shape ``[B, S]``, 0 on keys that nobody may see (padding), or ``[B, T, S]``, 0 where
            query ``t`` may not see key ``s``.
        segments: integers ``[B, T]``: the number of each token's segment of a packed row, 0 on
            padding. Tokens see those of their own segment, as by ``mask=segment_mask(segments)``,
            which the kernels cannot read; needs ``S = T``.
        implementation: ``"plain"`` (two einsums), ``"xla"`` or ``"cudnn"`` (those of
            ``jax.nn.dot_product_attention``), or ``"flash"`` (the TPU's kernel, see
            ``models.kernels``). ``None`` takes, where it can, cuDNN on a GPU (half precision, ``H``
            a multiple of 8 up to 128, no mask) and flash on a TPU (1,024 keys or more, lengths
            multiples of 128, ``H`` of 64, no mask of pairs, time not divided), else XLA's.
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
    check_heads(query, key, value, causal=causal)
    rows, queries = query.shape[:2]
    masks = masks_of(mask, segments, rows=rows, queries=queries, keys=key.shape[1])
    chosen = _chosen(implementation, query, key, masks, drops=dropout is not None)
    if chosen == "plain":
        out = _plain(query, key, value, _seen(masks, queries, causal=causal), dropout)
    elif chosen == "flash":
        out = flash(query, key, value, masks, causal=causal)
    else:
        out = jax.nn.dot_product_attention(
            query,
            key,
            value,
            mask=masks.over_heads(),
            is_causal=causal,
            implementation="cudnn" if chosen == "cudnn" else "xla",
        )
    some = masks.sees_something(queries, causal=causal)
    if some is None:
        return out
    # A softmax over nothing is uniform: it would show a padded query the future.
    return jnp.where(some[:, :, None, None], out, jnp.zeros_like(out))


def _chosen(
    implementation: str | None, query: jax.Array, key: jax.Array, masks: Masks, *, drops: bool
) -> str:
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
    lacks = flash_lacks(query, key, masks)
    if implementation == "flash" and lacks:
        raise ConfigError(
            f"implementation='flash': {lacks}",
            expected="what the kernel's blocks divide, masked by keys or segments",
            do="pad the rows, give segments in place of a mask, or leave implementation None",
        )
    if implementation or drops:
        return implementation or "plain"
    return _fastest(query, key, masks, lacks)


def _fastest(query: jax.Array, key: jax.Array, masks: Masks, lacks: str | None) -> str:
    target, size = platform(), query.shape[-1]
    half = query.dtype in (jnp.bfloat16, jnp.float16)
    if target == "gpu" and half and size % 8 == 0 and size <= 128 and masks == Masks():
        return "cudnn"
    # Within a map over devices the kernel would have to say over which axes its result differs.
    mapped = bool(jax.sharding.get_abstract_mesh().manual_axes)
    divided = mapped or parts(query.shape[1], "time") > 1
    if target == "tpu" and not lacks and not divided and key.shape[1] >= _LONG:
        return "flash"
    return "xla"


def _seen(masks: Masks, length: int, *, causal: bool) -> jax.Array | None:
    pairs = masks.over_heads()
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
    groups = query.shape[2] // key.shape[2]
    if groups > 1:
        key, value = (jnp.repeat(x, groups, axis=2) for x in (key, value))
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

    The three projections are three kernels, not one: each can be cut over a tensor axis by whole
    heads.

    Within a decoder that was called with ``decode=True`` (see ``models.decoding``) keys and values
    are kept in the collection ``"cache"``, as ``cached_key`` and ``cached_value [B, L, K, H]``.

    Attributes:
        num_heads: ``N``; must divide ``D``.
        num_kv_heads: ``K``, of keys and values; must divide ``N``, which it is when ``None``.
        causal: each token sees itself and those before it only.
        dropout_rate: of the attention weights.
        use_bias: whether the four projections have biases.
        rotary: turns queries and keys by their positions, if given.
        kernel_init: of query, key and value.
        out_init: of the projection back.
        dtype: of the computation; the parameters' and input's when ``None``.
        param_dtype: of the parameters.
        implementation: see ``attention``; with a cache its own choice.
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
    rotary: Rotary | None = None

    @nn.compact
    def __call__(self, x: jax.Array, mask: Any = None, *, train: bool = False) -> jax.Array:
        """Maps ``[B, T, D]`` to ``[B, T, D]``.

        Args:
            x: shape ``[B, T, D]``.
            mask: see ``attention``; or a ``Reach``, which says all that a decoder knows.
            train: whether dropout is on.

        Raises:
            ConfigError: the heads do not divide ``D``, or their groups the heads.
        """
        reach = mask if isinstance(mask, Reach) else Reach(mask)
        query, key, value = self._projected(x, reach.positions)
        causal, implementation = self.causal, self.implementation
        if reach.index is not None:
            made = self.has_variable("cache", "cached_key")
            key, value = self._cached("key", key, reach), self._cached("value", value, reach)
            causal, implementation = not made and causal, None
        drop = nn.Dropout(self.dropout_rate, deterministic=False)
        out = attention(
            query,
            key,
            value,
            causal=causal,
            mask=reach.mask,
            segments=reach.segments,
            implementation=implementation,
            dropout=drop if train and self.dropout_rate else None,
        )
        out = constrain(out, ("batch", "time", "heads", None))
        out = self._dense(x.shape[-1], "out", self.out_init)(out.reshape(x.shape))
        return constrain(out, ("batch", "time", "features"))

    def _projected(self, x: jax.Array, positions: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        width, groups = x.shape[-1], self.num_kv_heads or self.num_heads
        if self.num_heads < 1 or width % self.num_heads:
            raise ConfigError(
                f"{self.num_heads} heads do not divide {width} features",
                expected="hidden_dim a multiple of num_heads",
                do="change one of the two",
            )
        if groups < 1 or self.num_heads % groups:
            raise ConfigError(
                f"{groups} heads of keys and values do not divide {self.num_heads} heads",
                expected="num_heads a multiple of num_kv_heads",
                do="change one of the two",
            )

        def heads(name: str, count: int) -> jax.Array:
            size = width // self.num_heads
            made = self._dense(count * size, name, self.kernel_init)(x)
            made = made.reshape(*x.shape[:2], count, size)
            made = constrain(made, ("batch", "time", "heads", None))
            if self.rotary is not None and name != "value":
                made = self.rotary.turn(made, positions)
            # Of a row divided over devices, each query still looks at the whole.
            return made if name == "query" else constrain(made, ("batch", "keys", "heads", None))

        return heads("query", self.num_heads), heads("key", groups), heads("value", groups)

    def _dense(self, width: int, name: str, init: Any) -> nn.Dense:
        return nn.Dense(
            width,
            use_bias=self.use_bias,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            kernel_init=init,
            name=name,
        )

    def _cached(self, name: str, new: jax.Array, reach: Reach) -> jax.Array:
        """The cache with the new tokens in it; the new ones alone while it is made."""
        made = self.has_variable("cache", f"cached_{name}")
        cache = self.variable("cache", f"cached_{name}", jnp.zeros, new.shape, new.dtype)
        if not made:
            return new
        moved = jax.lax.dynamic_update_slice(cache.value, new, (0, reach.index, 0, 0))
        cache.value = constrain(moved, ("batch", "keys", "heads", None))
        return cache.value
