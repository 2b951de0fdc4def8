"""A hook that writes down what a private run has spent so far.

Reads from: errors, protocols, units, privacy.accounting, privacy.sampling. Used by:
privacy.recipes, and by hand.
"""

from __future__ import annotations

from typing import Any

from jaxdl.errors import CheckpointError, ConfigError
from jaxdl.privacy.accounting import Accountant, epsilon
from jaxdl.privacy.sampling import Epochs, sampling_of
from jaxdl.protocols import Hook, Moment, Record
from jaxdl.units import Number

__all__ = ["SPLIT", "Ledger"]

SPLIT = "privacy"
"""The split of the ledger's records."""


class Ledger(Hook):
    """Logs epsilon every ``every`` steps and after the last, as records of the split ``privacy``.

    A record holds ``epsilon`` (infinity, in JSON ``null``, where there is no noise), ``delta``,
    ``noise_multiplier``, ``clip_norm``, ``expected_batch_size`` and, of Poisson sampling,
    ``sampling_rate`` and ``overflow``, of epochs ``batches_per_epoch``. The last one is what the
    whole run cost.

    A run that goes on must do so with the ledger that it began with. One that goes back
    (``nonfinite="rollback"``) is refused: who reads the loss to choose the batches that are left
    out reads what the guarantee does not cover.

    Args:
        noise_multiplier: as in ``privacy.noise``.
        sampling: the batches that the steps are given.
        delta: of the guarantee.
        clip_norm: as in ``gradients.private``.
        expected_batch_size: as there.
        every: steps from one record to the next: ``log_every``, to have one for every train record.
        accountant: as in ``privacy.epsilon``.

    Raises:
        ConfigError: a number is out of range, or how the batches are sampled is not known.
        MissingExtraError: ``dp-accounting`` is not installed.
    """

    def __init__(
        self,
        *,
        noise_multiplier: Number,
        sampling: Any,
        delta: float,
        clip_norm: Number,
        expected_batch_size: Number,
        every: int = 50,
        accountant: Accountant = "pld",
    ) -> None:
        self.every = every
        self._noise, self._delta = noise_multiplier, delta
        self._sampling, self._accountant = sampling_of(sampling), accountant
        self._given = {
            "noise_multiplier": float(noise_multiplier),
            "clip_norm": float(clip_norm),
            "expected_batch_size": float(expected_batch_size),
            "delta": float(delta),
            **_facts(self._sampling),
        }
        self._furthest = 0
        self.spent(1)

    def spent(self, steps: int) -> float:
        """Epsilon after a number of steps.

        Args:
            steps: updates done.
        """
        return epsilon(
            noise_multiplier=self._noise,
            sampling=self._sampling,
            steps=steps,
            delta=self._delta,
            accountant=self._accountant,
        )

    def open(self, start: int, steps: int) -> None:
        """Begins anew at step 0.

        Raises:
            ConfigError: the run went back.
        """
        if 0 < start < self._furthest:
            raise ConfigError(
                f"a private run went back from step {self._furthest} to step {start}",
                expected="steps that are done once",
                do="leave nonfinite='rollback' and spike out of a private run",
            )
        self._furthest = start

    def remember(self) -> dict[str, float]:
        """What the run is accounted by."""
        return self._given

    def recall(self, memory: Any) -> None:
        """Checks that it still is.

        Raises:
            CheckpointError: the noise, the sampling or another number is not what it was.
        """
        changed = [
            f"{name}: {old!r} became {self._given.get(name)!r}"
            for name, old in memory.items()
            if self._given.get(name) != old
        ]
        if changed:
            raise CheckpointError(
                "a private run was saved with other numbers:\n    " + "\n    ".join(changed),
                expected="the noise, the bound and the sampling that it began with",
                do="go on with those, or account for both parts by hand with dp-accounting",
            )

    def tick(self, step: int) -> None:
        """Counts."""
        self._furthest = max(self._furthest, step)

    def at(self, moment: Moment) -> None:
        """Logs what was spent."""
        spent = self.spent(moment.step)
        moment.log(Record(moment.step, SPLIT, {"epsilon": spent, **self._given}))


def _facts(sampling: Any) -> dict[str, float]:
    if isinstance(sampling, Epochs):
        return {"batches_per_epoch": float(sampling.batches)}
    return {"sampling_rate": sampling.rate, "overflow": sampling.overflow}
