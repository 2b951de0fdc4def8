"""Rotary positions: queries and keys turned by angles that grow with their place in the row.

Reads from: errors. Used by: models.llama, which hands it to models.attention.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.errors import BatchError, ConfigError

__all__ = ["Rotary", "RotaryScaling"]


@dataclass(frozen=True)
class RotaryScaling:
    r"""Llama 3.1's slower turns, for rows longer than those the model was first trained on.

    A frequency that turns more than ``high`` times in ``original_length`` tokens stays, one that
    turns fewer than ``low`` times is divided by ``factor``, and those between are mixed:
    :math:`f (1 - s) / factor + f s` with :math:`s = (turns - low) / (high - low)`.

    Source: ``apply_scaling`` in github.com/meta-llama/llama-models, the code of Grattafiori et al.
    2024, arXiv:2407.21783.

    Attributes:
        factor: ``factor`` of a Hugging Face ``rope_scaling``: 8 in Llama 3.1, 32 in Llama 3.2.
        low: ``low_freq_factor`` there.
        high: ``high_freq_factor`` there; more than ``low``.
        original_length: ``original_max_position_embeddings`` there.

    Raises:
        ConfigError: a number is not positive, or ``high`` not above ``low``.
    """

    factor: float = 8.0
    low: float = 1.0
    high: float = 4.0
    original_length: int = 8192

    def __post_init__(self) -> None:
        if not (self.factor > 0 and 0 < self.low < self.high and self.original_length > 0):
            raise ConfigError(
                f"the scaling of rotary positions is {self}",
                expected="positive numbers, with low below high",
                do="copy the numbers of rope_scaling in the model's config.json",
            )


@dataclass(frozen=True)
class Rotary:
    r"""Rotary position embedding: the dot product of two turned vectors knows their distance.

    With size ``H`` of a head, pair ``i`` of ``H / 2`` is turned by the angle
    :math:`position \cdot \theta^{-2 i / H}`. The pairs are entries ``i`` and ``i + H / 2``, as in
    the files of the Hub, not ``2 i`` and ``2 i + 1`` as in the paper and in Meta's files: the two
    differ by a fixed order of the rows of the query's and key's kernels.

    Source: Su et al. 2021, arXiv:2104.09864, section 3.2.2.

    Attributes:
        theta: of the slowest turn: 10,000 in the paper, 500,000 in Llama 3.
        scaling: see ``RotaryScaling``.

    Raises:
        ConfigError: ``theta`` is not positive.

    Examples:
        >>> x = jnp.array([1.0, 0.0]).reshape(1, 1, 1, 2)
        >>> Rotary().turn(x, jnp.array([[1]])).round(3).ravel().tolist()  # cos 1, sin 1
        [0.5400000214576721, 0.8410000205039978]
    """

    theta: float = 10_000.0
    scaling: RotaryScaling | None = None

    def __post_init__(self) -> None:
        if not self.theta > 0:
            raise ConfigError(
                f"theta of rotary positions is {self.theta}",
                expected="a positive number",
                do="copy rope_theta of the model's config.json",
            )

    def frequencies(self, size: int) -> np.ndarray:
        """The angle by which each pair turns from one position to the next.

        Args:
            size: ``H``, of a head.

        Returns:
            float64, shape ``[H / 2]``, the fastest first.

        Raises:
            ConfigError: ``size`` is odd.
        """
        if size < 2 or size % 2:
            raise ConfigError(
                f"rotary positions turn pairs, and a head has {size} features",
                expected="an even number",
                do="choose hidden_dim and num_heads so that hidden_dim / num_heads is even",
            )
        fast = self.theta ** -(np.arange(0, size, 2) / size)
        if self.scaling is None:
            return fast
        turns = self.scaling.original_length * fast / (2 * np.pi)
        low, high = self.scaling.low, self.scaling.high
        kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
        return fast * (kept + (1.0 - kept) / self.scaling.factor)

    def turn(self, x: Any, positions: Any) -> jax.Array:
        """Turns each head of each token by the token's position.

        Args:
            x: floats, shape ``[B, T, N, H]``: queries or keys.
            positions: integers, shape ``[B, T]``, or ``[1, T]`` for all rows.

        Returns:
            The shape and dtype of ``x``; computed in float32 or wider.

        Raises:
            BatchError: the shapes do not go together.
            ConfigError: ``H`` is odd.
        """
        x, positions = jnp.asarray(x), jnp.asarray(positions)
        if x.ndim != 4 or positions.shape not in (x.shape[:2], (1, *x.shape[1:2])):
            raise BatchError(
                f"rotary positions got x {list(x.shape)}, positions {list(positions.shape)}",
                expected="[B, T, N, H] and [B, T] or [1, T]",
                do="give each token one position",
            )
        wide = jnp.promote_types(x.dtype, jnp.float32)
        by_pair = jnp.asarray(self.frequencies(x.shape[-1]), wide)[None, None]
        angles = (positions.astype(wide)[:, :, None] * by_pair)[:, :, None]
        cos, sin = jnp.cos(angles), jnp.sin(angles)
        first, second = jnp.split(x.astype(wide), 2, axis=-1)
        turned = (first * cos - second * sin, second * cos + first * sin)
        return jnp.concatenate(turned, axis=-1).astype(x.dtype)
