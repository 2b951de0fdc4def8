"""The watch over the loss: one that jumps far above what it was ends the run.

Reads from: errors, protocols. Used by: recipe, and by hand.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxdl.errors import ConfigError, LossSpikeError
from jaxdl.protocols import Hook, Record

__all__ = ["LossSpike"]

_LEAST = 3
_MAD_TO_SIGMA = 1.4826


@dataclass(eq=False)
class LossSpike(Hook):
    """Raises when a train record's loss is far above those before it.

    Far is more than ``deviations`` robust standard deviations (1.4826 times the median absolute
    deviation) above the median of the last ``window`` records, and more than ``least`` of that
    median. A record that raises is not among those that later ones are compared with.

    Attributes:
        deviations: how far.
        window: how many records to compare with, at least 3.
        least: the smallest rise that counts, as a share of the median.

    Raises:
        ConfigError: a setting is out of range.
        LossSpikeError: from ``record``; its ``steps`` are those of the record.
    """

    deviations: float = 8.0
    window: int = 20
    least: float = 0.5
    _losses: deque[float] = field(init=False, repr=False)
    _last: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.deviations <= 0 or self.window < _LEAST or self.least < 0:
            raise ConfigError(
                f"LossSpike(deviations={self.deviations}, window={self.window}, "
                f"least={self.least})",
                expected=f"deviations above 0, a window of at least {_LEAST}, least from 0",
                do="write LossSpike(deviations=8, window=20), say",
            )
        self._losses = deque(maxlen=self.window)

    def open(self, start: int, steps: int) -> None:
        """Forgets the last run."""
        self._losses.clear()
        self._last = start

    def remember(self) -> list[Any]:
        """The losses to compare with, and the step of the last."""
        return [list(self._losses), self._last]

    def recall(self, memory: Any) -> None:
        """Goes on from there."""
        losses, self._last = memory
        self._losses.extend(losses)

    def record(self, record: Record) -> None:
        """Compares."""
        if record.split != "train" or "loss" not in record.values:
            return
        loss, first = float(record.values["loss"]), self._last + 1
        if not math.isfinite(loss):
            return
        if len(self._losses) >= _LEAST:
            self._check(loss, first, record.step)
        self._losses.append(loss)
        self._last = record.step

    def _check(self, loss: float, first: int, last: int) -> None:
        seen = np.asarray(self._losses)
        median = float(np.median(seen))
        spread = _MAD_TO_SIGMA * float(np.median(np.abs(seen - median)))
        limit = median + max(self.deviations * spread, self.least * abs(median))
        if loss > limit:
            error = LossSpikeError(
                f"the loss of steps {first} to {last} is {loss:.6g}; the {len(seen)} records "
                f"before have the median {median:.6g}",
                expected=f"at most {limit:.6g} (LossSpike(deviations={self.deviations:g}))",
                do="lower the learning rate or clip the gradient's norm; nonfinite='rollback' goes "
                "back to the last checkpoint and leaves those batches out",
            )
            error.steps = (first, last)
            raise error
