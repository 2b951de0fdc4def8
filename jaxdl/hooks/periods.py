"""Hooks with a period: any function, the evaluation of a split, and the early stop.

Reads from: errors, protocols, data, evaluation. Used by: recipe, and by hand.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from jaxdl import data
from jaxdl.errors import ConfigError, closest
from jaxdl.evaluation import PlacedEvalStep, evaluate
from jaxdl.protocols import Hook, Moment, Record

__all__ = ["EarlyStop", "Evaluate", "Every"]


class Every(Hook):
    """Calls a function of the ``Moment`` every ``every`` steps and after the last.

    Args:
        every: the period, in steps.
        fn: may log a ``Record`` through ``moment.log``; must not keep ``moment.state``.

    Examples:
        >>> hook = Every(10, lambda moment: print(f"step {moment.step}"))
        >>> hook.at(Moment(20, None, print))
        step 20
    """

    def __init__(self, every: int, fn: Callable[[Moment], Any]) -> None:
        self.every = every
        self._fn = fn

    def at(self, moment: Moment) -> None:
        """Calls it."""
        self._fn(moment)


class Evaluate(Hook):
    """Evaluates a split and logs its record.

    Args:
        every: the period, in steps.
        step: a placed eval step.
        batches: of the split, with ``remainder="pad"``.
        split: the record's name.
        rows: as in ``evaluation.evaluate``.
    """

    def __init__(
        self,
        every: int,
        step: PlacedEvalStep,
        batches: data.Batches,
        *,
        split: str = "validation",
        rows: int | None = None,
    ) -> None:
        self.every = every
        self._step, self._batches, self._split, self._rows = step, batches, split, rows

    def at(self, moment: Moment) -> None:
        """Evaluates."""
        with moment.waiting():
            values = evaluate(self._step, moment.state, self._batches, rows=self._rows)
        moment.log(Record(moment.step, self._split, values))


@dataclass
class EarlyStop(Hook):
    """Ends the run when a metric has not improved in ``patience`` records in a row.

    It starts anew with each run, so one may be given to several in turn.

    Attributes:
        metric: split and name, such as ``"validation/loss"``.
        patience: records without a new best, at least 1.
        mode: whether less or more is better.
        min_delta: by how much a new best must beat the old one.

    Raises:
        ConfigError: a setting is out of range or, at the split's first record, the metric is
            not there.
    """

    metric: str = "validation/loss"
    patience: int = 5
    mode: Literal["min", "max"] = "min"
    min_delta: float = 0.0
    _best: float = field(default=math.nan, init=False, repr=False)
    _best_step: int = field(default=0, init=False, repr=False)
    _waited: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.patience < 1 or self.mode not in ("min", "max") or "/" not in self.metric:
            raise ConfigError(
                f"EarlyStop({self.metric!r}, patience={self.patience}, mode={self.mode!r})",
                expected="'split/name', patience of at least 1, mode 'min' or 'max'",
                do="write EarlyStop('validation/loss', patience=5, mode='min'), say",
            )

    def open(self, start: int, steps: int) -> None:
        """Forgets the last run."""
        self._best, self._best_step, self._waited = math.nan, start, 0

    def remember(self) -> list[Any]:
        """The best so far, where it was, and how long ago."""
        best = None if math.isnan(self._best) else self._best
        return [best, self._best_step, self._waited]

    def recall(self, memory: Any) -> None:
        """Goes on from there."""
        best, self._best_step, self._waited = memory
        self._best = math.nan if best is None else best

    def record(self, record: Record) -> str | None:
        """Gives the reason to stop once patience is out."""
        split, name = self.metric.split("/", 1)
        if record.split != split:
            return None
        if name not in record.values:
            raise ConfigError(
                f"EarlyStop watches {self.metric!r}, which is not measured",
                expected="a metric of that split",
                do=closest(name, record.values),
            )
        value = float(record.values[name])
        gain = self._best - value if self.mode == "min" else value - self._best
        if math.isnan(self._best) or gain > self.min_delta:
            self._best, self._best_step, self._waited = value, record.step, 0
            return None
        self._waited += 1
        if self._waited < self.patience:
            return None
        return (
            f"early stop: {self.metric} was best at step {self._best_step} ({self._best:.6g}) "
            f"and did not improve in {self.patience} evaluations"
        )
