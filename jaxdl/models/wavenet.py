"""WaveNet: raw sound, one sample after the other, by a stack of dilated causal convolutions.

Reads from: errors, models.activations, models.layers, models.stack, models.wavenet_layers. Used by:
recipes, by choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdl.errors import BatchError, ConfigError, closest
from jaxdl.models.activations import constrain
from jaxdl.models.layers import check_rank
from jaxdl.models.stack import REMAT_POLICIES
from jaxdl.models.wavenet_layers import CausalConv, Cycle, upsampled

__all__ = ["WaveNet", "wavenet_30"]


class WaveNet(nn.Module):
    r"""The autoregressive model of raw sound of van den Oord et al.

    A causal convolution of the one-hot codes, then cycles of gated residual layers whose dilation
    doubles from layer to layer and starts again with each cycle. A layer computes
    :math:`z = \tanh(W_f * x + V_f h) \odot \sigma(W_g * x + V_g h)`, adds a 1x1 convolution of it
    to :math:`x`, and another to the skip path. The sum of all skips goes through ReLU, a 1x1
    convolution, ReLU and a 1x1 convolution to the logits of the next sample. Before the first
    sample every layer sees zeros.

    The conditioning :math:`h` is one vector a row (``condition``: who speaks) or one a sample
    (``local_condition``: what is said), drawn out by a learned transposed convolution whose stride
    is its width, or both.

    The last layer has a convolution to a residual path that nothing reads, as layers are equal;
    it is not computed. Kernels start as Flax's default, LeCun normal, biases at 0: the paper does
    not say how they start. There are no rules for tensor parallelism: the largest kernel of the
    published size has 0.8 million numbers, so a layer is small against what it would send.

    Source: van den Oord et al. 2016, "WaveNet: a generative model for raw audio", arXiv:1609.03499.
    With ``decode=True`` it generates as Le Paine et al. 2016, arXiv:1611.09482: each convolution
    keeps the samples it will look back at, and a new sample costs one product a tap.

    Attributes:
        vocab_size: ``V``, how many codes; 256 of mu-law in the paper.
        num_cycles: how often the dilations are gone through.
        cycle: the dilations of one cycle.
        residual_dim: channels of the residual path.
        gate_dim: channels of :math:`z`.
        skip_dim: channels of the skip path and of the convolution after it.
        kernel_size: taps of each causal convolution; 2 in the paper.
        condition_classes: how many values each of the numbers in ``condition`` can have, such as
            ``(10, 6)`` for a digit and a speaker.
        condition_dim: the width of ``condition``, when that is a vector of floats.
        local_dim: channels of ``local_condition``; 0 for none.
        local_hop: samples to each frame of ``local_condition``.
        dtype: of the computation; the parameters' when ``None``.
        param_dtype: of the parameters.
        scan_layers: one scanned cycle in place of a program that grows with ``num_cycles``. Within
            a cycle layers are unrolled, as a dilation is part of a layer's shape.
        remat: what a cycle keeps for the backward pass, a name of ``REMAT_POLICIES``. With
            ``"full"`` that is its input, so that the layers of one cycle are held at once.

    Examples:
        >>> model = WaveNet(vocab_size=8, num_cycles=1, cycle=(1, 2), residual_dim=4, gate_dim=4,
        ...                 skip_dim=4)
        >>> logits, variables = model.init_with_output(jax.random.key(0), jnp.zeros((1, 9), int))
        >>> logits.shape, model.receptive_field
        ((1, 9, 8), 5)
    """

    vocab_size: int = 256
    num_cycles: int = 3
    cycle: Sequence[int] = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
    residual_dim: int = 64
    gate_dim: int = 64
    skip_dim: int = 256
    kernel_size: int = 2
    condition_classes: Sequence[int] = ()
    condition_dim: int = 0
    local_dim: int = 0
    local_hop: int = 1
    dtype: Any = None
    param_dtype: Any = jnp.float32
    scan_layers: bool = False
    remat: str | None = None

    @property
    def receptive_field(self) -> int:
        """How many samples, the newest included, an output depends on."""
        return 1 + (self.kernel_size - 1) * (1 + self.num_cycles * sum(self.cycle))

    @nn.compact
    def __call__(
        self,
        tokens: Any,
        *,
        condition: Any = None,
        local_condition: Any = None,
        mask: Any = None,
        train: bool = False,
        decode: bool = False,
    ) -> jax.Array:
        """Maps codes ``[B, T]`` to logits of the samples after them, float32 ``[B, T, V]``.

        Args:
            tokens: integers from 0 to ``V - 1``, shape ``[B, T]``; or one weight a code, floats of
                shape ``[B, T, V]``, for gradients with respect to the input.
            condition: with ``condition_classes``, integers of shape ``[B]`` or ``[B, classes]``,
                one column for each; with ``condition_dim``, floats ``[B, condition_dim]``.
            local_condition: floats ``[B, F, local_dim]``, frame ``f`` being about the samples from
                ``f * local_hop`` on. The frames of the whole row in every call of ``decode`` too.
            mask: shape ``[B, T]``, 0 on padding, which real samples then do not depend on wherever
                it lies. A mask of rows, ``[B]``, changes nothing. Padding after the sound needs
                none: the future is not seen anyway.
            train: not used; the network has neither dropout nor statistics.
            decode: read and write the collection ``"cache"``: ``tokens`` follow those of the calls
                before.

        Raises:
            BatchError: an input does not have the shape or dtype that the attributes ask for.
            ConfigError: an attribute is out of range.
        """
        del train
        self._check()
        x = _one_hot(tokens, self.vocab_size, self.dtype or self.param_dtype)
        batch, length = x.shape[:2]
        if mask is not None:
            mask = None if jnp.ndim(mask) == 1 else jnp.asarray(mask).reshape(batch, length, 1) != 0
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        context = (mask, self._conditioning(condition, local_condition, x, decode=decode))
        first = CausalConv(
            self.residual_dim, self.kernel_size, decode=decode, name="causal", **types
        )
        x = constrain(first(x, mask), ("batch", "time", "features"))
        skips = jnp.zeros((batch, length, self.skip_dim), x.dtype)
        _, skips = self._cycles(types, decode=decode)((x, skips), context)
        y = nn.Dense(self.skip_dim, name="head_in", **types)(nn.relu(skips))
        logits = nn.Dense(self.vocab_size, name="head_out", **types)(nn.relu(y))
        logits = constrain(logits, ("batch", "time", None))
        return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))

    def _cycles(self, types: dict[str, Any], *, decode: bool) -> Any:
        """``((x, skips), context) -> (x, skips)`` through all cycles."""
        options: dict[str, Any] = {
            "dilations": tuple(self.cycle),
            "gate_dim": self.gate_dim,
            "kernel_size": self.kernel_size,
            "decode": decode,
            **types,
        }
        block = Cycle
        if self.remat is not None:
            # Within a scan the loop itself keeps the compiler from merging the two computations.
            policy = REMAT_POLICIES[self.remat]
            block = nn.remat(Cycle, policy=policy, prevent_cse=not self.scan_layers)

        def unrolled(carry: Any, context: Any) -> Any:
            for index in range(self.num_cycles):
                carry = block(**options, name=f"block_{index}")(carry, context)
            return carry

        def scanned(carry: Any, context: Any) -> Any:
            scan = nn.scan(
                lambda cycle, carry: (cycle(carry, context), None),
                variable_axes={"params": 0, "cache": 0, "intermediates": 0},
                split_rngs={True: True},
                length=self.num_cycles,
            )
            return scan(block(**options, name="blocks"), carry)[0]

        return scanned if self.scan_layers else unrolled

    def _conditioning(self, condition: Any, local: Any, x: jax.Array, *, decode: bool) -> Any:
        """What the layers are conditioned on: ``[B, 1, C]``, ``[B, T, C]``, or ``None``."""
        parts: list[jax.Array] = []
        batch, length = x.shape[:2]
        if (condition is None) != (not self.condition_classes and not self.condition_dim):
            raise self._mismatch("condition", condition)
        if condition is not None:
            given = jnp.asarray(condition)
            parts.append(self._vector(given, batch).astype(x.dtype)[:, None])
        if (local is None) != (self.local_dim == 0):
            raise self._mismatch("local_condition", local)
        if local is not None:
            frames = jnp.asarray(local)
            if frames.ndim != 3 or (frames.shape[0], frames.shape[2]) != (batch, self.local_dim):
                raise self._mismatch("local_condition", local)
            parts.append(self._drawn_out(frames, length, decode=decode).astype(x.dtype))
        if len(parts) == 2:
            parts[0] = jnp.broadcast_to(parts[0], (batch, length, parts[0].shape[-1]))
        return jnp.concatenate(parts, axis=-1) if parts else None

    def _vector(self, given: jax.Array, batch: int) -> jax.Array:
        if not self.condition_classes:
            if given.shape != (batch, self.condition_dim):
                raise self._mismatch("condition", given)
            return given
        columns = given[:, None] if given.ndim == 1 else given
        wanted = (batch, len(self.condition_classes))
        if columns.shape != wanted or not jnp.issubdtype(given.dtype, jnp.integer):
            raise self._mismatch("condition", given)
        hot = [jax.nn.one_hot(columns[:, i], n) for i, n in enumerate(self.condition_classes)]
        return jnp.concatenate(hot, axis=-1)

    def _drawn_out(self, frames: jax.Array, length: int, *, decode: bool) -> jax.Array:
        samples = frames.shape[1] * self.local_hop
        if length > samples:
            raise BatchError(
                f"WaveNet got {length} samples and {frames.shape[1]} frames of local_condition",
                expected=f"at least {-(-length // self.local_hop)} frames of {self.local_hop}",
                do="give frames for the whole row, or set local_hop",
            )
        start: Any = 0
        if decode:
            position = self.variable("cache", "position", jnp.zeros, (), jnp.int32)
            start = position.value
            if not self.is_initializing():
                position.value = start + length
        dense = nn.Dense(
            self.local_hop * self.local_dim,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name="upsampling",
        )
        return upsampled(dense, frames, start, length, self.local_hop)

    def _mismatch(self, name: str, given: Any) -> BatchError:
        classes = tuple(self.condition_classes)
        asked = {
            "condition": f"integers [B, {len(classes)}]"
            if classes
            else f"floats [B, {self.condition_dim}]"
            if self.condition_dim
            else "none, as condition_classes and condition_dim are not set",
            "local_condition": f"floats [B, F, {self.local_dim}]"
            if self.local_dim
            else "none, as local_dim is 0",
        }
        found = "none" if given is None else f"{jnp.result_type(given)}{list(jnp.shape(given))}"
        return BatchError(
            f"WaveNet got as {name} {found}",
            expected=asked[name],
            do=f"give the batch the field {name!r} in this form, or change the model's attributes",
        )

    def _check(self) -> None:
        if self.remat not in (None, *REMAT_POLICIES):
            raise ConfigError(
                f"WaveNet has remat={self.remat!r}",
                expected=f"None or one of {', '.join(REMAT_POLICIES)}",
                do=closest(str(self.remat), REMAT_POLICIES),
            )
        if self.condition_classes and self.condition_dim:
            raise ConfigError(
                "WaveNet has both condition_classes and condition_dim",
                expected="one of them",
                do="join the one-hot classes with the vector, and set condition_dim alone",
            )
        sizes = (self.vocab_size, self.num_cycles, *self.cycle, self.residual_dim, self.gate_dim)
        sizes += (self.skip_dim, self.local_hop, *self.condition_classes)
        if not self.cycle or min(sizes) < 1 or self.kernel_size < 2:
            raise ConfigError(
                f"WaveNet has the sizes {sizes} and kernel_size={self.kernel_size}",
                expected="a dilation at least, nothing below 1, and two taps or more",
                do="start from wavenet_30() and change what you need",
            )


def _one_hot(tokens: Any, vocab_size: int, dtype: Any) -> jax.Array:
    tokens = jnp.asarray(tokens)
    real = jnp.issubdtype(tokens.dtype, jnp.floating)
    if real and tokens.ndim == 3 and tokens.shape[-1] == vocab_size:
        return tokens.astype(dtype)
    check_rank(tokens, 2, "[B, T], integers (or floats [B, T, V])", "WaveNet")
    if not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise BatchError(
            f"WaveNet got samples of dtype {tokens.dtype}",
            expected=f"integers from 0 to {vocab_size - 1}",
            do="encode the sound first: data.mu_law_encode(audio)",
        )
    return jax.nn.one_hot(tokens, vocab_size, dtype=dtype)


def wavenet_30(**options: Any) -> WaveNet:
    """30 layers of 512 channels in 3 cycles, 3 taps: 30,054,912 parameters without conditioning.

    The paper of 2016 publishes three cycles of dilations from 1 to 512 and, by the 1,024 samples
    that a cycle reaches, 2 taps; it publishes no width. Those here are of the teacher of Parallel
    WaveNet, van den Oord et al. 2017, arXiv:1711.10433: three cycles of ten layers, 3 taps, gates
    of 256 by a convolution to 512, 512 on the residual path, 256 on the skip path and in the
    convolution after it. That is conditioned on linguistic features and has a mixture of ten
    logistics on top; here it is the softmax over 256 codes. No count of parameters is published:
    this one follows from the widths, with a bias in every convolution and as many taps in the first
    as in the others, which is our reading.

    Args:
        **options: attributes of ``WaveNet`` that are to be others.
    """
    sizes: dict[str, Any] = {
        "num_cycles": 3,
        "residual_dim": 512,
        "gate_dim": 256,
        "skip_dim": 256,
        "kernel_size": 3,
    }
    return WaveNet(**{**sizes, **options})
