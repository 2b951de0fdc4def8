"""Attention of one text over another, or over itself, with a cache for one token at a time.

Reads from: errors, models.activations, models.attention. Used by: models.transformer.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdl.errors import ConfigError
from jaxdl.models.activations import constrain
from jaxdl.models.attention import attention

__all__ = ["MultiHeadAttention"]


class MultiHeadAttention(nn.Module):
    """Queries of one input, keys and values of another, and the projection back.

    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.2.2, whose projections have no biases.

    With ``decode=True`` keys and values are kept in the collection ``"cache"``. A first call, with
    no cache, makes it: for attention over the input itself of zeros, one for each token of ``x``;
    for attention over ``memory`` of its keys and values, which are then computed once. Later calls
    take the next few tokens.

    Attributes:
        num_heads: ``N``; must divide ``D``.
        causal: each token sees itself and those before it only.
        use_bias: whether the projections have biases.
        kernel_init: of the four kernels.
        dtype: of the computation; the parameters' and input's when ``None``.
        param_dtype: of the parameters.
        implementation: see ``attention``.
    """

    num_heads: int
    causal: bool = False
    use_bias: bool = False
    kernel_init: Any = nn.initializers.xavier_uniform()
    dtype: Any = None
    param_dtype: Any = jnp.float32
    implementation: str | None = None

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        memory: jax.Array | None = None,
        mask: Any = None,
        *,
        over_memory: bool = False,
        decode: bool = False,
        index: Any = None,
    ) -> jax.Array:
        """Maps ``[B, T, D]`` to ``[B, T, D]``.

        Args:
            x: what asks, shape ``[B, T, D]``.
            memory: what is looked at, shape ``[B, S, D]``; may be left out where the cache has it.
            mask: see ``attention``; with a cache of ``L`` tokens, of shape ``[B, L]``.
            over_memory: keys and values are those of ``memory``, else of ``x``.
            decode: whether there is a cache.
            index: how many tokens the cache holds already, an integer scalar.

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
        query = constrain(self._heads(x, "query"), ("batch", "time", "heads", None))
        causal = self.causal
        if over_memory:
            key, value = self._of_memory(memory, decode=decode)
        elif decode and self.has_variable("cache", "cached_key"):
            key, value, mask = self._extended(x, mask, index)
            causal = False
        else:
            key, value = self._pair(x)
            if decode:
                self.variable("cache", "cached_key", jnp.zeros_like, key)
                self.variable("cache", "cached_value", jnp.zeros_like, value)
        out = attention(
            query, key, value, causal=causal, mask=mask, implementation=self.implementation
        )
        out = constrain(out, ("batch", "time", "heads", None)).reshape(x.shape)
        return constrain(self._dense(out, "out"), ("batch", "time", "features"))

    def _dense(self, x: jax.Array, name: str) -> jax.Array:
        layer = nn.Dense(
            x.shape[-1],
            use_bias=self.use_bias,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            kernel_init=self.kernel_init,
            name=name,
        )
        return layer(x)

    def _heads(self, x: jax.Array, name: str) -> jax.Array:
        size = x.shape[-1] // self.num_heads
        return self._dense(x, name).reshape(*x.shape[:2], self.num_heads, size)

    def _pair(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Keys and values: of a row divided over devices, each query still looks at the whole."""
        names = ("batch", "keys", "heads", None)
        return constrain(self._heads(x, "key"), names), constrain(self._heads(x, "value"), names)

    def _of_memory(self, memory: Any, *, decode: bool) -> tuple[jax.Array, jax.Array]:
        if decode and self.has_variable("cache", "cached_key"):
            return self.get_variable("cache", "cached_key"), self.get_variable(
                "cache", "cached_value"
            )
        key, value = self._pair(memory)
        if decode:
            self.variable("cache", "cached_key", lambda: key)
            self.variable("cache", "cached_value", lambda: value)
        return key, value

    def _extended(self, x: jax.Array, mask: Any, index: Any) -> tuple[jax.Array, ...]:
        """The cache with the new tokens in it, and which of its tokens each of them sees."""
        kept = []
        for name, new in zip(("cached_key", "cached_value"), self._pair(x), strict=True):
            cached = self.variable("cache", name, jnp.zeros_like, new)
            cached.value = jax.lax.dynamic_update_slice(cached.value, new, (0, index, 0, 0))
            kept.append(cached.value)
        length = kept[0].shape[1]
        seen = jnp.arange(length)[None] <= index + jnp.arange(x.shape[1])[:, None]
        seen = jnp.broadcast_to(seen[None], (x.shape[0], x.shape[1], length))
        return kept[0], kept[1], seen if mask is None else seen & (mask[:, None] != 0)
