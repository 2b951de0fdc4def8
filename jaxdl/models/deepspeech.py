"""DeepSpeech 2: characters from a spectrogram, by convolutions and recurrent layers.

Reads from: errors, models.activations, models.layers, models.rnn. Used by: recipes, by choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from jaxdl.errors import ConfigError
from jaxdl.models.activations import constrain
from jaxdl.models.layers import BatchNorm, check_rank
from jaxdl.models.rnn import RNN, RNN_TENSOR_RULES, steps_kept

__all__ = ["DEEPSPEECH_TENSOR_RULES", "Convolution", "DeepSpeech", "deepspeech2"]

DEEPSPEECH_TENSOR_RULES = (
    *RNN_TENSOR_RULES,
    (r"(^|/)dense/kernel$", P(None, "tensor")),
    (r"(^|/)head/kernel$", P("tensor", None)),
)
"""Tensor parallelism: recurrent layers by their units, then columns and rows of the dense pair."""

Convolution = tuple[int, tuple[int, int], tuple[int, int]]
"""``(channels, (steps, bands) of the kernel, (steps, bands) of the stride)``; odd kernels."""

_PUBLISHED: tuple[Convolution, ...] = (
    (32, (11, 41), (2, 2)),
    (32, (11, 21), (1, 2)),
    (96, (11, 21), (1, 2)),
)


class DeepSpeech(nn.Module):
    r"""The network of Deep Speech 2.

    Convolutions over time and frequency, BatchNorm, :math:`\min(\max(x, 0), 20)`; recurrent layers
    in both directions, added, whose input's product is batch-normalised; BatchNorm and one dense
    layer of the same clipped ReLU; characters. The first recurrent layer reads the normalised
    convolutions and has no norm of its own. Frames of padding are 0 for every layer and count in no
    statistic, so that they change no output of a real frame.

    Source: Amodei et al. 2015, arXiv:1512.02595, section 3. Kernels that it says nothing of start
    as He et al. 2015 (arXiv:1502.01852).

    Attributes:
        num_classes: characters and the blank.
        hidden_dim: of each direction of a recurrent layer and of the dense layer.
        num_layers: recurrent layers.
        cell: ``"gru"``, ``"lstm"``, or ``"relu"`` for the paper's plain cell.
        bidirectional: whether the layers look ahead.
        convolutions: see ``Convolution``.
        dropout_rate: between recurrent layers; the paper has none.
        norm: whether recurrent layers have BatchNorm.
        axis_name: the mapped axis that BatchNorm sums over.
        unroll: how many steps one turn of the recurrent loop makes.
        dtype: of the computation.
        param_dtype: of the parameters.

    Examples:
        >>> model = DeepSpeech(5, hidden_dim=4, num_layers=1, convolutions=((2, (3, 3), (2, 2)),))
        >>> (y, kept), _ = model.init_with_output(jax.random.key(0), jnp.ones((1, 7, 8)))
        >>> y.shape, kept.shape
        ((1, 4, 5), (1, 4))
    """

    num_classes: int
    hidden_dim: int = 1280
    num_layers: int = 7
    cell: Literal["lstm", "gru", "relu"] = "gru"
    bidirectional: bool = True
    convolutions: Sequence[Convolution] = _PUBLISHED
    dropout_rate: float = 0.0
    norm: bool = True
    axis_name: str | None = None
    unroll: int = 1
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Any, *, train: bool = False, mask: Any = None
    ) -> tuple[jax.Array, jax.Array]:
        """Maps spectrograms to logits, and says which of them belong to real frames.

        Args:
            x: floats, shape ``[B, T, F]``, of ``F`` frequency bands.
            train: whether dropout is on and BatchNorm uses the batch.
            mask: shape ``[B, T]``, 0 on padding at the end of a row, or ``[B]``.

        Returns:
            ``(logits, kept)``: float32 ``[B, S, num_classes]`` and booleans ``[B, S]``, with
            ``S = ceil(T / stride)`` for each stride along time in turn.

        Raises:
            BatchError: ``x`` has other than three axes, or the mask does not fit.
            ConfigError: a kernel has an even size.
        """
        check_rank(x, 3, "[B, T, F]", "DeepSpeech")
        x = jnp.asarray(x)
        keep = steps_kept(mask, x.shape[:2])
        x = x[..., None] if self.dtype is None else x[..., None].astype(self.dtype)
        for index, layer in enumerate(self.convolutions):
            x, keep = self._convolved(x, keep, layer, index, train)
        x = x.reshape(*x.shape[:2], -1)
        x, _ = RNN(
            self.hidden_dim,
            self.num_layers,
            cell=self.cell,
            bidirectional=self.bidirectional,
            merge="sum",
            dropout_rate=self.dropout_rate,
            norm=self.norm,
            axis_name=self.axis_name,
            unroll=self.unroll,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name="rnn",
        )(x, train=train, mask=keep)
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = self._norm("rnn_norm")(x, train=train, mask=keep)
        x = nn.Dense(self.hidden_dim, kernel_init=_HE_NORMAL, name="dense", **types)(x)
        x = jnp.clip(constrain(x, ("batch", "keys", "hidden")), 0.0, 20.0)
        x = nn.Dense(self.num_classes, name="head", **types)(x).astype(jnp.float32)
        kept = jnp.ones(x.shape[:2], bool) if keep is None else keep
        return constrain(x, ("batch", "keys", None)), kept

    def _convolved(
        self, x: jax.Array, keep: Any, layer: Convolution, index: int, train: bool
    ) -> tuple[jax.Array, Any]:
        channels, kernel, strides = layer
        if any(size % 2 == 0 for size in kernel):
            raise ConfigError(
                f"convolution {index} has a kernel of {kernel}",
                expected="odd sizes, which have a middle",
                do="add one to the even size",
            )
        x = nn.Conv(
            channels,
            kernel,
            strides,
            padding=[(size // 2, size // 2) for size in kernel],
            use_bias=False,
            kernel_init=_HE_NORMAL,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name=f"conv_{index}",
        )(_zeroed(x, keep))
        keep = None if keep is None else keep[:, :: strides[0]]
        x = constrain(x, ("batch", "keys", None, "features"))
        x = self._norm(f"conv_norm_{index}")(_zeroed(x, keep), train=train, mask=keep)
        return jnp.clip(x, 0.0, 20.0), keep

    def _norm(self, name: str) -> BatchNorm:
        return BatchNorm(axis_name=self.axis_name, param_dtype=self.param_dtype, name=name)


_HE_NORMAL = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


def _zeroed(x: jax.Array, keep: Any) -> jax.Array:
    return x if keep is None else jnp.where(keep[..., None, None], x, jnp.zeros_like(x))


def deepspeech2(**options: Any) -> DeepSpeech:
    """3 convolutions, 7 recurrent layers and a dense one: 146,082,237 parameters.

    That is with 161 bands (20 ms at 16 kHz) and 29 characters: the alphabet, space, apostrophe and
    blank.

    The paper publishes the depth, the convolutions, and counts in round millions: 18, 38, 70 and
    about 100, where the network of these 11 layers has the plain cell (``cell="relu"``). Which
    width has which count it does not say. Its 1,280 units are those of 7 plain layers behind one
    convolution over time, of 38 million parameters. So this network is of its shape and of none of
    its sizes: the GRU is the cell of its other networks, each direction has an input's kernel of
    its own, as in most implementations, where the paper's share one, and it writes single
    characters every second frame, where the paper's best writes pairs every third.

    Args:
        **options: attributes of ``DeepSpeech`` that are to be others.
    """
    sizes: dict[str, Any] = {"num_classes": 29, **options}
    return DeepSpeech(**sizes)
