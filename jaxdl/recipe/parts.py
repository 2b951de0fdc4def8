"""What a run is made of: a frozen dataclass that names the parts.

Reads from: errors, protocols, layouts, data, checkpoints, hooks. Used by: the rest of recipe, cli,
and by hand.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import jax
import optax

from jaxdl import data
from jaxdl.checkpoints import InitFrom, Keep
from jaxdl.errors import ConfigError
from jaxdl.hooks import EarlyStop, LossSpike
from jaxdl.layouts import Layout
from jaxdl.protocols import GradientEstimator, Hook, Metric, Objective

__all__ = ["Recipe", "local"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What to train, on what, and how.

    Attributes:
        name: of the run's folder: letters, digits, ``-`` and ``_``.
        objective: what to minimise; evaluation measures its loss and metrics too.
        optimizer: any Optax transformation.
        train: the training batches.
        steps: updates in all.
        validation: batches that are measured while the run goes on, and at its end.
        test: batches that are measured at the end only.
        train_eval: the training split as evaluation should see it; the source of ``train`` without
            its transform when ``None``. Give it where the transform does more than augment.
        metrics: measured in evaluation, besides those of the objective.
        gradient, ema_decay, freeze: as in ``make_train_step``. With ``ema_decay`` evaluation
            measures the average.
        nonfinite: ``"propagate"`` ends the run when its loss is not finite, the last good
            checkpoint kept; ``"skip"`` leaves a step out whose gradient is not, and counts it;
            ``"rollback"`` goes back to the last checkpoint before and leaves those batches out,
            for a loss spike too.
        spike: ends the run (or rolls it back) when the loss jumps.
        checkpoint_every: steps from one checkpoint to the next; as ``eval_every``, but at least
            100, when ``None``.
        keep: which checkpoints stay.
        init_from: another run whose parameters a new run begins with.
        layout: where arrays lie; ``data_parallel()`` when ``None``.
        seed: of the parameters and of the steps' randomness.
        log_every: steps from one train record to the next.
        eval_every: steps from one validation to the next; an epoch when ``None``.
        early_stop: ends the run by a validation metric.
        hooks: called besides those that the run brings.

    Raises:
        ConfigError: a setting is out of range.
    """

    name: str
    objective: Objective
    optimizer: optax.GradientTransformation
    train: data.Batches
    steps: int
    validation: data.Batches | None = None
    test: data.Batches | None = None
    train_eval: data.Batches | None = None
    metrics: Mapping[str, Metric] = field(default_factory=dict[str, Metric])
    gradient: GradientEstimator | None = None
    ema_decay: float | None = None
    nonfinite: Literal["propagate", "skip", "rollback"] = "propagate"
    spike: LossSpike | None = None
    checkpoint_every: int | None = None
    keep: Keep = field(default_factory=Keep)
    init_from: InitFrom | None = None
    freeze: str | Sequence[str] | None = None
    layout: Layout | None = None
    seed: int = 0
    log_every: int = 50
    eval_every: int | None = None
    early_stop: EarlyStop | None = None
    hooks: Sequence[Hook] = ()

    def __post_init__(self) -> None:
        for wrong, what, expected in (
            (not re.fullmatch(r"[\w-]+", self.name), f"name is {self.name!r}", "a folder's name"),
            (self.steps < 1, f"steps is {self.steps}", "at least 1"),
            (self.log_every < 1, f"log_every is {self.log_every}", "at least 1"),
            (
                self.eval_every is not None and self.eval_every < 1,
                f"eval_every is {self.eval_every}",
                "at least 1, or None for once an epoch",
            ),
            (
                self.checkpoint_every is not None and self.checkpoint_every < 1,
                f"checkpoint_every is {self.checkpoint_every}",
                "at least 1, or None for as often as validation",
            ),
            (
                self.early_stop is not None and self.validation is None,
                "early_stop is set without validation batches",
                "batches whose metric it can watch",
            ),
        ):
            if wrong:
                raise ConfigError(
                    f"recipe {self.name!r}: {what}", expected=expected, do="change the setting"
                )

    def period(self) -> int:
        """Steps from one validation to the next."""
        return self.eval_every or self.train.batches_per_epoch

    def evaluated(self) -> dict[str, data.Batches]:
        """The splits that are measured at the end, each host's own rows."""
        plain = self.train_eval or data.Batches(
            self.train.source, self.train.batch_size, shuffle=False
        )
        splits = {"train": plain, "validation": self.validation, "test": self.test}
        return {name: local(batches) for name, batches in splits.items() if batches is not None}

    def split(self, name: str) -> data.Batches:
        """The batches of one of them.

        Args:
            name: of the split.

        Raises:
            ConfigError: there is no such split.
        """
        there = self.evaluated()
        if name not in there:
            raise ConfigError(
                f"recipe {self.name!r} has no split {name!r}",
                expected=f"one of {', '.join(there)}",
                do="choose one of them",
            )
        return there[name]

    def rows(self) -> int:
        """The rows that every evaluated batch is padded to, on this host."""
        specs = [batches.spec for batches in self.evaluated().values()]
        return max(next(iter(spec.values())).shape[0] for spec in specs)


def local(batches: data.Batches) -> data.Batches:
    """The rows of the batches that this process reads.

    Args:
        batches: global ones.
    """
    return batches.host(jax.process_index(), jax.process_count())
