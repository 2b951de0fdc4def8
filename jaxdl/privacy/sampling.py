"""How examples come into batches, as an accountant of privacy must know it.

Reads from: errors, units, data. Used by: privacy.accounting, privacy.ledger, privacy.recipes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from jaxdl import data
from jaxdl.errors import ConfigError
from jaxdl.units import Number

__all__ = ["Epochs", "Poisson", "Sampling", "sampling_of"]


@dataclass(frozen=True)
class Poisson:
    """Every example is in a batch with probability ``rate``, whatever else is in it.

    Neighbouring data sets differ by one example that is added or removed.

    Attributes:
        rate: from 0 to 1.
        overflow: the probability that a batch has no room for what was drawn; each step adds
            ``overflow * (1 + exp(epsilon))`` to delta.

    Raises:
        ConfigError: a number is out of range.
    """

    rate: Number
    overflow: Number = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.rate <= 1 and 0 <= self.overflow <= 1):
            raise ConfigError(
                f"Poisson(rate={self.rate}, overflow={self.overflow})",
                expected="probabilities from 0 to 1",
                do="the rate is the expected batch size over the number of examples",
            )


@dataclass(frozen=True)
class Epochs:
    """Every example is in one batch of each ``batches``, and in no other: no luck that hides it.

    Shuffled or not, this is accounted as one Gaussian mechanism an epoch. That batches are shuffled
    buys nothing here: the amplification by sampling is proved for ``Poisson``, and shuffling has
    been shown to amplify less (Chua et al. 2024, arXiv:2403.17673). Neighbouring data sets differ
    by one example that counts or, like padding, does not: they have the same number of rows, and
    the same order.

    Attributes:
        batches: of an epoch.

    Raises:
        ConfigError: it is below 1.
    """

    batches: int

    def __post_init__(self) -> None:
        if self.batches < 1:
            raise ConfigError(
                f"Epochs(batches={self.batches})",
                expected="at least one batch an epoch",
                do="give data.Batches(...).batches_per_epoch",
            )


Sampling: TypeAlias = Poisson | Epochs
"""What the accountant knows."""


def sampling_of(batches: Any, claimed: Any = None) -> Sampling:
    """How the examples of some batches were chosen, from the batches themselves.

    Args:
        batches: ``data.PoissonBatches``, ``data.Batches``, or what this returns.
        claimed: what somebody says of them, which must be true.

    Raises:
        ConfigError: the batches are of another kind, or are not what is claimed.

    Examples:
        >>> import numpy as np
        >>> source = data.arrays({"label": np.arange(100)})
        >>> sampling_of(data.PoissonBatches(source, 10, seed=0)).rate
        0.1
        >>> sampling_of(data.Batches(source, 8))
        Epochs(batches=13)
    """
    if isinstance(batches, Poisson | Epochs):
        known: Sampling = batches
    elif isinstance(batches, data.PoissonBatches):
        known = Poisson(batches.rate, batches.overflow)
    elif type(batches) is data.Batches:
        known = Epochs(batches.batches_per_epoch)
    else:
        raise ConfigError(
            f"how a {type(batches).__name__} chooses its examples is not known",
            expected="data.PoissonBatches, data.Batches, privacy.Poisson or privacy.Epochs",
            do="give the accountant the batches that the steps are given",
        )
    if claimed is not None and claimed != known:
        raise ConfigError(
            f"the accountant was told {claimed}, and the batches are {known}",
            expected="an account of the batches that the steps are given",
            do="leave sampling= out; for the amplification of Poisson sampling train on "
            "data.PoissonBatches",
        )
    return known
