"""Which checkpoints stay: the newest, every so many steps, the best by a metric.

Reads from: errors. Used by: checkpoints.store, recipe.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from jaxdl.errors import ConfigError

__all__ = ["Keep"]


@dataclass(frozen=True)
class Keep:
    """Which checkpoints stay when a new one is whole; the newest always does.

    Attributes:
        latest: how many of the newest.
        every: also each whose step is a multiple of this.
        best: how many of the best, by ``metric``.
        metric: split and name, such as ``"validation/loss"``, as it was last measured when the
            checkpoint was made. One that is NaN, or was not measured, is no best.
        mode: whether less or more is better.

    Raises:
        ConfigError: a setting is out of range.

    Examples:
        >>> Keep(latest=1, every=100, best=1).kept({50: 0.3, 100: 0.5, 150: 0.4, 200: 0.9})
        {200, 50, 100}
    """

    latest: int = 2
    every: int | None = None
    best: int = 0
    metric: str = "validation/loss"
    mode: Literal["min", "max"] = "min"

    def __post_init__(self) -> None:
        if (
            self.latest < 1
            or self.best < 0
            or (self.every is not None and self.every < 1)
            or self.mode not in ("min", "max")
            or "/" not in self.metric
        ):
            raise ConfigError(
                f"{self}",
                expected="latest and every of at least 1, best of at least 0, 'split/name', 'min' "
                "or 'max'",
                do="write Keep(latest=2, best=1, metric='validation/loss', mode='min'), say",
            )

    def kept(self, metrics: Mapping[int, float | None]) -> set[int]:
        """The steps that stay.

        Args:
            metrics: the metric of each step that has a checkpoint; ``None`` when not measured.
        """
        steps = sorted(metrics)
        kept = set(steps[-self.latest :])
        if self.every is not None:
            kept |= {step for step in steps if step % self.every == 0}
        measured = {
            step: value
            for step, value in metrics.items()
            if value is not None and not math.isnan(value)
        }
        ranked = sorted(measured, key=lambda step: measured[step], reverse=self.mode == "max")
        return kept | set(ranked[: self.best])
