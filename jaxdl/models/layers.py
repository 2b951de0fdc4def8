"""What several families share: inputs as floats, and a BatchNorm that knows of padding.

Reads from: errors, reductions. Used by: the models beside it.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdl.errors import BatchError
from jaxdl.reductions import expand_mask

__all__ = ["BatchNorm", "check_rank", "to_float"]


def to_float(x: Any) -> jax.Array:
    """Integer images as floats from 0 to 1; floats as they are.

    Args:
        x: any shape; an integer dtype is divided by its largest value (255 for uint8).

    Examples:
        >>> to_float(jnp.array([0, 255], jnp.uint8)).tolist()
        [0.0, 1.0]
    """
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.integer):
        return x
    return x.astype(jnp.float32) / float(jnp.iinfo(x.dtype).max)


def check_rank(x: Any, rank: int, axes: str, model: str) -> None:
    """The input has this many axes.

    Args:
        x: the input.
        rank: how many axes it must have.
        axes: their names, for the message.
        model: the model's name, for the message.

    Raises:
        BatchError: it has more or fewer.
    """
    if jnp.ndim(x) != rank:
        raise BatchError(
            f"{model} got an input of shape {list(jnp.shape(x))}",
            expected=f"{rank} axes: {axes}",
            do="reshape the batch field"
            + (" (a grey image has a last axis of length 1)" if rank == 4 else ""),
        )


class BatchNorm(nn.Module):
    r"""Batch normalisation whose statistics are sums and counts, divided once.

    With mask :math:`w` the statistics are those of the rows that count, over all devices when
    ``axis_name`` is bound: :math:`\mu = \sum w x / \sum w`, :math:`\sigma^2 = \sum w (x - \mu)^2 /
    \sum w`. ``flax.linen.BatchNorm`` takes the mean of the devices' means, which is another number
    when padding leaves them unequal rows, and NaN when a device has none.

    Source: Ioffe and Szegedy 2015, arXiv:1502.03167. Momentum 0.9 and epsilon 1e-5 are those of
    He et al. 2015 (arXiv:1512.03385) as commonly reproduced; the running variance is biased.

    Attributes:
        momentum: how much of the running statistics stays at each step.
        epsilon: added to the variance.
        axis_name: a mapped axis to sum the statistics over (``"data"`` under ``jaxdl.pmap``).
            Under ``jit`` they are global anyway.
        scale_init: of the scale, called as ``(key, shape, dtype)``.
        param_dtype: of scale and bias; the running statistics are float32 or wider.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    axis_name: str | None = None
    scale_init: Any = nn.initializers.ones
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False, mask: Any = None) -> jax.Array:
        """Normalises over all axes but the last.

        Args:
            x: shape ``[B, ..., D]``.
            train: use and store this batch's statistics, else the running ones.
            mask: shape ``[B]``; rows of 0 count in no statistic.

        Returns:
            The shape and dtype of ``x``; computed in float32 or wider.
        """
        features = (x.shape[-1],)
        scale = self.param("scale", self.scale_init, features, self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, features, self.param_dtype)
        kept = jnp.promote_types(self.param_dtype, jnp.float32)
        mean = self.variable("batch_stats", "mean", jnp.zeros, features, kept)
        var = self.variable("batch_stats", "var", jnp.ones, features, kept)
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if train:
            count, batch_mean, batch_var = self._statistics(wide, mask)
            if not self.is_initializing():
                mean.value = self._moved(mean.value, batch_mean, count)
                var.value = self._moved(var.value, batch_var, count)
        else:
            batch_mean, batch_var = mean.value, var.value
        over_rows = (1,) * (x.ndim - 1) + features
        factor = (scale * jax.lax.rsqrt(batch_var + self.epsilon)).reshape(over_rows)
        normal = (wide - batch_mean.reshape(over_rows)) * factor + bias.reshape(over_rows)
        return normal.astype(x.dtype)

    def _statistics(self, x: jax.Array, mask: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        axes = tuple(range(x.ndim - 1))
        weights = None if mask is None else expand_mask(mask, x.shape).astype(x.dtype)
        size = x.size // x.shape[-1]
        count = jnp.asarray(size, x.dtype) if weights is None else jnp.sum(weights[..., 0])
        count = self._summed(count)
        share = 1.0 / jnp.where(count > 0, count, 1.0)

        def average(values: jax.Array) -> jax.Array:
            kept = values if weights is None else values * weights
            return self._summed(jnp.sum(kept, axis=axes)) * share

        # Two passes: the one-pass formula cancels when the mean is large against the spread.
        mean = average(x)
        centred = x - mean.reshape((1,) * (x.ndim - 1) + mean.shape)
        return count, mean, average(jnp.square(centred))

    def _summed(self, value: jax.Array) -> jax.Array:
        if self.axis_name is None or self.is_initializing():
            return value
        return jax.lax.psum(value, self.axis_name)

    def _moved(self, old: jax.Array, new: jax.Array, count: jax.Array) -> jax.Array:
        moved = self.momentum * old + (1.0 - self.momentum) * new
        return jnp.where(count > 0, moved, old).astype(old.dtype)
