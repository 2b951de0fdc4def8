"""Rotary positions: query and key turned by an angle that grows with the place of the token.

Reads from: errors. Used by: models.attention, models.llama.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from jaxdl.errors import ConfigError

__all__ = ["Rotary", "RotaryScaling"]


class RotaryScaling(NamedTuple):
    """Slower turning for longer texts, of Llama 3.1 (github.com/meta-llama/llama-models, model.py).

    Waves longer than ``original_length / low`` tokens become ``factor`` times as long, those
    shorter than ``original_length / high`` stay, and between the two lies a ramp.

    Attributes:
        factor: how many times longer the texts become.
        low: of the waves that change.
        high: of the waves that stay.
        original_length: tokens of the texts before.
    """

    factor: float = 8.0
    low: float = 1.0
    high: float = 4.0
    original_length: int = 8192


class Rotary(NamedTuple):
    r"""How rotary positions turn: pair :math:`i` of a head by :math:`p \theta^{-2 i / H}`.

    Feature ``i`` is paired with ``i + H / 2``, as in GPT-NeoX and the Hub's Llama. Source: Su et
    al. 2021, "RoFormer: enhanced transformer with rotary position embedding", arXiv:2104.09864.

    Attributes:
        theta: :math:`\theta`.
        scaling: for longer texts than the model was first trained on.
    """

    theta: float = 10_000.0
    scaling: RotaryScaling | None = None

    def turn(self, x: jax.Array, positions: Any = None) -> jax.Array:
        """Turns every pair of features by its angle, in float32.

        Args:
            x: queries or keys, shape ``[B, T, N, H]``.
            positions: shape ``[B, T]``; ``0 .. T - 1`` when ``None``.

        Raises:
            ConfigError: a head has an odd size.

        Examples:
            >>> x = jnp.array([[[[1.0, 0.0]], [[1.0, 0.0]]]])
            >>> Rotary().turn(x)[0, 1, 0].round(3).tolist()
            [0.5400000214576721, 0.8410000205039978]
        """
        if x.shape[-1] % 2:
            raise ConfigError(
                f"rotary positions for heads of {x.shape[-1]} features",
                expected="an even number",
                do="change num_heads or hidden_dim",
            )
        places = jnp.arange(x.shape[1])[None] if positions is None else jnp.asarray(positions)
        angles = places.astype(jnp.float32)[..., None] * self.frequencies(x.shape[-1])
        cos, sin = (wave(angles)[:, :, None, :] for wave in (jnp.cos, jnp.sin))
        first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
        turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1)
        return turned.astype(x.dtype)

    def frequencies(self, size: int) -> npt.NDArray[np.float32]:
        """Radians for each place, shape ``[H / 2]``.

        Args:
            size: ``H``, of a head.
        """
        rates = self.theta ** -(np.arange(0, size, 2, dtype=np.float64) / size)
        if self.scaling is None:
            return rates.astype(np.float32)
        scaling = self.scaling
        waves = scaling.original_length * rates / (2 * math.pi)
        kept = np.clip((waves - scaling.low) / (scaling.high - scaling.low), 0.0, 1.0)
        return (rates * (kept + (1 - kept) / scaling.factor)).astype(np.float32)
