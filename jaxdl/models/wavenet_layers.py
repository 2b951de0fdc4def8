"""The layers of a WaveNet: causal convolutions with a queue, gated layers, cycles of them.

Reads from: models.activations. Used by: models.wavenet.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from jaxdl.models.activations import constrain

__all__ = ["CausalConv", "Cycle", "GatedLayer", "upsampled"]


class CausalConv(nn.Module):
    """A dilated convolution along time that sees the present and the past.

    As a product with its taps side by side, which is quick at any dilation on any device.

    Attributes:
        features: channels of the result.
        kernel_size: taps.
        dilation: samples from tap to tap.
        decode: keep the last ``(kernel_size - 1) * dilation`` inputs in the collection ``"cache"``.
        dtype: of the computation; the parameters' when ``None``.
        param_dtype: of the parameters.
    """

    features: int
    kernel_size: int = 2
    dilation: int = 1
    decode: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, mask: Any = None) -> jax.Array:
        """Maps ``[B, T, C]`` to ``[B, T, features]``.

        Args:
            x: shape ``[B, T, C]``; zeros are before it.
            mask: booleans ``[B, T, 1]``; where they are false the input is zero as well.
        """
        channels = x.shape[-1]
        # Fan-in is over taps and channels.
        start = nn.initializers.lecun_normal(in_axis=(0, 1), out_axis=2)
        shape = (self.kernel_size, channels, self.features)
        kernel = self.param("kernel", start, shape, self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype)
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        if mask is not None:
            x = jnp.where(mask, x, jnp.zeros_like(x))
        taps = self._queued(x) if self.decode else self._shifted(x)
        y = jnp.concatenate(taps, axis=-1) @ kernel.reshape(-1, self.features)
        return y + bias[None, None]

    def _shifted(self, x: jax.Array) -> list[jax.Array]:
        """The row as each tap sees it, the oldest first."""
        length = x.shape[1]
        behind = [(self.kernel_size - 1 - tap) * self.dilation for tap in range(self.kernel_size)]
        return [jnp.pad(x, ((0, 0), (by, 0), (0, 0)))[:, :length] for by in behind]

    def _queued(self, x: jax.Array) -> list[jax.Array]:
        """The same for samples that follow those of the calls before."""
        batch, length, channels = x.shape
        size = (self.kernel_size - 1) * self.dilation
        queue = self.variable("cache", "queue", jnp.zeros, (batch, size, channels), x.dtype)
        # The place in the ring of the oldest sample, which the next one takes.
        oldest = self.variable("cache", "oldest", jnp.zeros, (), jnp.int32)
        kept, at = queue.value.astype(x.dtype), oldest.value
        if length == 1:
            places = [(at + tap * self.dilation) % size for tap in range(self.kernel_size - 1)]
            taps = [jax.lax.dynamic_slice_in_dim(kept, place, 1, axis=1) for place in places]
            taps.append(x)
            new = jax.lax.dynamic_update_slice_in_dim(kept, x, at, axis=1)
        else:
            row = jnp.concatenate([jnp.roll(kept, -at, axis=1), x], axis=1)
            taps = [
                jax.lax.slice_in_dim(row, tap * self.dilation, tap * self.dilation + length, axis=1)
                for tap in range(self.kernel_size)
            ]
            new = jnp.roll(row[:, length:], (at + length) % size, axis=1)
        if not self.is_initializing():
            queue.value = new.astype(queue.value.dtype)
            oldest.value = (at + length) % size
        return taps


class GatedLayer(nn.Module):
    """One residual layer: a gated causal convolution, and 1x1 convolutions to both paths.

    Attributes:
        dilation: samples from tap to tap.
        gate_dim: channels of the gated result.
        kernel_size: taps.
        decode: see ``CausalConv``.
        dtype: of the computation.
        param_dtype: of the parameters.
    """

    dilation: int
    gate_dim: int
    kernel_size: int = 2
    decode: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, paths: tuple[jax.Array, jax.Array], context: tuple[Any, Any]
    ) -> tuple[jax.Array, jax.Array]:
        """Adds to both paths.

        Args:
            paths: the residual path ``[B, T, R]`` and the skip path ``[B, T, S]``.
            context: the mask ``[B, T, 1]`` and the conditioning ``[B, 1 or T, C]``; or ``None``.
        """
        x, skips = paths
        mask, condition = context
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = CausalConv(
            2 * self.gate_dim,
            self.kernel_size,
            self.dilation,
            decode=self.decode,
            name="dilated",
            **types,
        )
        both = conv(x, mask)
        if condition is not None:
            lifted = nn.Dense(2 * self.gate_dim, use_bias=False, name="condition", **types)
            both = both + jnp.broadcast_to(lifted(condition), both.shape)
        both = constrain(both, ("batch", "time", "hidden"))
        signal, gate = jnp.split(both, 2, axis=-1)
        z = jnp.tanh(signal) * nn.sigmoid(gate)
        skips = skips + nn.Dense(skips.shape[-1], name="skip", **types)(z)
        x = x + nn.Dense(x.shape[-1], name="residual", **types)(z)
        path = ("batch", "time", "features")
        return constrain(x, path), constrain(skips, path)


class Cycle(nn.Module):
    """Gated layers of growing dilation, one after the other.

    Attributes:
        dilations: of the layers.
        gate_dim: see ``GatedLayer``.
        kernel_size: taps.
        decode: see ``CausalConv``.
        dtype: of the computation.
        param_dtype: of the parameters.
    """

    dilations: tuple[int, ...]
    gate_dim: int
    kernel_size: int = 2
    decode: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, paths: tuple[jax.Array, jax.Array], context: tuple[Any, Any]
    ) -> tuple[jax.Array, jax.Array]:
        """Runs all layers.

        Args:
            paths: see ``GatedLayer``.
            context: see ``GatedLayer``.
        """
        for index, dilation in enumerate(self.dilations):
            layer = GatedLayer(
                dilation,
                self.gate_dim,
                self.kernel_size,
                decode=self.decode,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
                name=f"layer_{index}",
            )
            paths = layer(paths, context)
        return paths


def upsampled(dense: Any, frames: jax.Array, start: Any, length: int, hop: int) -> jax.Array:
    """Samples ``start .. start + length`` of a transposed convolution as wide as its stride.

    Args:
        dense: maps a frame ``[..., C]`` to its samples ``[..., hop * C]``.
        frames: shape ``[B, F, C]``.
        start: the first sample; may be traced.
        length: how many.
        hop: samples of a frame.
    """
    batch, count, channels = frames.shape
    # The frames that the samples can touch.
    touched = min(count, (length + hop - 2) // hop + 1)
    first = jnp.clip(jnp.asarray(start) // hop, 0, count - touched)
    part = jax.lax.dynamic_slice_in_dim(frames, first, touched, axis=1)
    samples = dense(part).reshape(batch, touched * hop, channels)
    return jax.lax.dynamic_slice_in_dim(samples, start - first * hop, length, axis=1)
