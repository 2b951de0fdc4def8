"""The two stacks of the Transformer: layers that read, and layers that write.

Reads from: errors, models.activations, models.cross_attention, models.stack.
Used by: models.transformer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.errors import BatchError, ConfigError
from jaxdl.models.activations import constrain
from jaxdl.models.cross_attention import MultiHeadAttention
from jaxdl.models.stack import run_layers

__all__ = ["Decoder", "DecoderBlock", "Encoder", "EncoderBlock", "sinusoids"]

_RESIDUAL = ("batch", "time", "features")


def sinusoids(length: int, dim: int) -> jax.Array:
    r"""Positions as waves: :math:`\sin(t / 10000^{2 i / D})` at ``2 i``, its cosine after it.

    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.5.

    Args:
        length: ``T``.
        dim: ``D``.

    Returns:
        Float32, shape ``[T, D]``.

    Examples:
        >>> sinusoids(2, 4)[0].tolist()
        [0.0, 1.0, 0.0, 1.0]
    """
    # Made in float64: an angle of many turns has few digits left in float32.
    rates = 10_000.0 ** -(np.arange(0, dim, 2) / dim)
    angles = np.arange(length)[:, None] * rates[None]
    waves = np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(length, -1)
    return jnp.asarray(waves[:, :dim], jnp.float32)


class _Seen(NamedTuple):
    """What a layer of the decoder sees beside its input; the same for all layers."""

    memory: Any
    memory_mask: Any
    target_mask: Any
    index: Any


class _Layer(nn.Module):
    """What both kinds of layer share.

    Attributes:
        num_heads: ``N``.
        mlp_dim: the width of the hidden dense layer.
        dropout_rate: of what each part adds.
        pre_norm: the norm is before each part, else after the sum.
        attention_bias: whether the projections of attention have biases.
        train: whether dropout is on.
        dtype: of the computation.
        param_dtype: of the parameters.
        implementation: see ``attention``.
    """

    num_heads: int
    mlp_dim: int
    dropout_rate: float = 0.1
    pre_norm: bool = False
    attention_bias: bool = False
    train: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32
    implementation: str | None = None

    def _added(self, x: jax.Array, part: Callable[[jax.Array], jax.Array], name: str) -> jax.Array:
        norm = _norm(self, f"{name}_norm")
        drop = nn.Dropout(self.dropout_rate, deterministic=not self.train)
        return x + drop(part(norm(x))) if self.pre_norm else norm(x + drop(part(x)))

    def _attention(self, name: str, *, causal: bool = False) -> MultiHeadAttention:
        return MultiHeadAttention(
            self.num_heads,
            causal=causal,
            use_bias=self.attention_bias,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            implementation=self.implementation,
            name=name,
        )

    def _mlp(self, x: jax.Array) -> jax.Array:
        options: dict[str, Any] = {
            "dtype": self.dtype,
            "param_dtype": self.param_dtype,
            "kernel_init": nn.initializers.xavier_uniform(),
        }
        y = nn.relu(nn.Dense(self.mlp_dim, name="mlp_in", **options)(x))
        y = nn.Dense(x.shape[-1], name="mlp_out", **options)(
            constrain(y, ("batch", "time", "hidden"))
        )
        return constrain(y, _RESIDUAL)


class EncoderBlock(_Layer):
    """Attention over the input itself, then two dense layers."""

    @nn.compact
    def __call__(self, x: jax.Array, mask: Any = None) -> jax.Array:
        """Maps ``[B, S, D]`` to ``[B, S, D]``.

        Args:
            x: shape ``[B, S, D]``.
            mask: see ``attention``.
        """
        attend = self._attention("attention")
        x = self._added(x, lambda y: attend(y, mask=mask), "attention")
        return self._added(x, self._mlp, "mlp")


class DecoderBlock(_Layer):
    """Attention over the target so far, attention over the source, then two dense layers.

    Attributes:
        decode: whether there is a cache.
    """

    decode: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, seen: _Seen) -> jax.Array:
        """Maps ``[B, T, D]`` to ``[B, T, D]``.

        Args:
            x: shape ``[B, T, D]``.
            seen: the memory, both masks, and how many tokens the cache holds.
        """
        own = self._attention("attention", causal=True)
        cross = self._attention("cross_attention")

        def before(y: jax.Array) -> jax.Array:
            return own(y, mask=seen.target_mask, decode=self.decode, index=seen.index)

        def source(y: jax.Array) -> jax.Array:
            given: dict[str, Any] = {
                "mask": seen.memory_mask,
                "over_memory": True,
                "decode": self.decode,
            }
            return cross(y, seen.memory, **given)

        x = self._added(x, before, "attention")
        x = self._added(x, source, "cross_attention")
        return self._added(x, self._mlp, "mlp")


class _Stack(nn.Module):
    """The settings of a stack: those of its layers, and how many.

    Attributes:
        num_layers: how many.
        num_heads: ``N``.
        mlp_dim: the width of the hidden dense layers.
        dropout_rate: of the input and of what each part of a layer adds.
        pre_norm: see ``Transformer``.
        attention_bias: see ``Transformer``.
        dtype: of the computation.
        param_dtype: of the parameters.
        scan_layers: see ``run_layers``.
        remat: see ``run_layers``.
        implementation: see ``attention``.
    """

    num_layers: int
    num_heads: int
    mlp_dim: int
    dropout_rate: float = 0.1
    pre_norm: bool = False
    attention_bias: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32
    scan_layers: bool = False
    remat: str | None = None
    implementation: str | None = None

    def _placed(self, x: jax.Array, places: jax.Array, *, train: bool) -> jax.Array:
        """Words with their positions, ``[T, D]``."""
        x = constrain(x + places[None].astype(x.dtype), _RESIDUAL)
        return nn.Dropout(self.dropout_rate, deterministic=not train)(x)

    def _run(self, block: type[nn.Module], x: jax.Array, seen: Any, **more: Any) -> jax.Array:
        options = {
            "num_heads": self.num_heads,
            "mlp_dim": self.mlp_dim,
            "dropout_rate": self.dropout_rate,
            "pre_norm": self.pre_norm,
            "attention_bias": self.attention_bias,
            "dtype": self.dtype,
            "param_dtype": self.param_dtype,
            "implementation": self.implementation,
            **more,
        }
        x = run_layers(
            block,
            options,
            x,
            seen,
            num_layers=self.num_layers,
            scan_layers=self.scan_layers,
            remat=self.remat,
        )
        return constrain(_norm(self, "norm")(x) if self.pre_norm else x, _RESIDUAL)


class Encoder(_Stack):
    """Positions, and layers that see the whole row."""

    @nn.compact
    def __call__(self, x: jax.Array, mask: Any = None, *, train: bool = False) -> jax.Array:
        """Maps embedded words ``[B, S, D]`` to ``[B, S, D]``.

        Args:
            x: shape ``[B, S, D]``.
            mask: shape ``[B, S]``, 0 on padding.
            train: whether dropout is on.
        """
        x = self._placed(x, sinusoids(*x.shape[1:]), train=train)
        return self._run(EncoderBlock, x, mask, train=train)


class Decoder(_Stack):
    """Positions, and layers that see the row so far and the memory."""

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        memory: jax.Array | None,
        *,
        memory_mask: Any = None,
        target_mask: Any = None,
        train: bool = False,
        decode: bool = False,
    ) -> jax.Array:
        """Maps embedded words ``[B, T, D]`` to ``[B, T, D]``.

        Args:
            x: shape ``[B, T, D]``; with ``decode`` and no cache, zeros of the cache's length.
            memory: what the encoder made, shape ``[B, S, D]``; ``None`` where the cache has it.
            memory_mask: shape ``[B, S]``, 0 on padding.
            target_mask: shape ``[B, T]``, 0 on padding.
            train: whether dropout is on.
            decode: whether there is a cache.

        Raises:
            ConfigError: neither a memory nor a cache is there.
            BatchError: the cache has other rows, or too little room.
        """
        places, index = sinusoids(*x.shape[1:]), None
        if decode:
            places, index, memory_mask = self._cached(x, memory, memory_mask)
        x = self._placed(x, places, train=train)
        seen = _Seen(memory, memory_mask, target_mask, index)
        x = self._run(DecoderBlock, x, seen, train=train, decode=decode)
        if index is not None:
            # Under jit the number of tokens so far is not known while tracing: no error is raised.
            fits = index + x.shape[1] <= self.get_variable("cache", "room").shape[1]
            x = jnp.where(fits, x, jnp.full_like(x, jnp.nan))
        return x

    def _cached(self, x: jax.Array, memory: Any, memory_mask: Any) -> tuple[Any, Any, Any]:
        """The positions of the next tokens, how many came before, and the mask of the memory."""
        filled = self.has_variable("cache", "index")
        if not filled and memory is None:
            raise ConfigError(
                "the decoder has no cache to extend",
                expected="the collection 'cache' among the variables",
                do="make it with model.apply(..., method='begin', mutable=['cache'])",
            )
        index = self.variable("cache", "index", jnp.zeros, (), jnp.int32)
        # It says how long the cache is. Every leaf but the index has rows first, for a search
        # that moves rows about.
        room = self.variable("cache", "room", jnp.zeros, x.shape[:2], bool)
        mask = self.variable("cache", "memory_mask", lambda: _whole(memory, memory_mask))
        before = index.value
        _check_room(room.value.shape, x.shape[:2])
        table = sinusoids(room.value.shape[1], x.shape[2])
        places = jax.lax.dynamic_slice_in_dim(table, before, x.shape[1])
        if filled:
            index.value = before + x.shape[1]
        return places, before, mask.value


def _check_room(room: tuple[int, ...], new: tuple[int, ...]) -> None:
    if new[0] != room[0] or new[1] > room[1]:
        raise BatchError(
            f"tokens of shape {list(new)} for a cache of {room[0]} rows x {room[1]} tokens",
            expected=f"{room[0]} rows, at most {room[1]} tokens",
            do="begin with as many rows and tokens as there will be",
        )


def _whole(memory: jax.Array, mask: Any) -> jax.Array:
    return jnp.ones(memory.shape[:2], bool) if mask is None else jnp.asarray(mask) != 0


def _norm(module: Any, name: str) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=1e-6, dtype=module.dtype, param_dtype=module.param_dtype, name=name)
