"""Batches that every example enters by chance, on its own: what privacy accountants call Poisson.

Reads from: errors, units, data.batches, data.order, data.source. Used by: privacy, recipes, by
choice.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from jaxdl.data.batches import Batches, Transform
from jaxdl.data.order import drawn_rows
from jaxdl.data.source import Source
from jaxdl.errors import BatchError, ConfigError
from jaxdl.units import Number

__all__ = ["PoissonBatches"]


class PoissonBatches(Batches):
    r"""Batch ``k``: each of the :math:`n` rows is in it with probability :math:`q`, independently.

    It is a function of ``(seed, k)``, as ``Batches`` are, on any number of hosts. A row may come
    twice in a row, or not for long; there are no epochs, and ``batches_per_epoch`` is how many
    batches hold :math:`n` rows on average. A batch holds more rows or fewer, so it is filled up to
    ``batch_size`` rows by rows that a ``mask`` takes out of every sum.

    When more rows are drawn than ``batch_size``, the last ones of the source are left out. By
    default the size is chosen so that this happens with probability ``overflow`` at most, and
    ``privacy.epsilon`` counts that probability in delta.

    A ``transform`` must change each row by itself: one that mixes rows (``data.mixup``) would let
    an example into the gradients of others.

    Args:
        source: any ``Source``.
        expected_batch_size: :math:`q n`, rows of a batch on average; at most :math:`n`.
        seed: of the draws, and of ``transform``; from 0 to 2**64 - 1. Who knows it knows who was
            drawn, so keep a seed of chance secret where a guarantee is claimed.
        capacity: rows that a batch has room for; the fewest that ``overflow`` allows when ``None``.
        overflow: the largest probability that a draw does not fit, where ``capacity`` is ``None``.
        multiple_of: the room is raised to a multiple of it, to divide over devices and
            microbatches.
        transform: as in ``Batches``, row by row.

    Attributes:
        rate: :math:`q`.
        expected_batch_size: as given.
        batch_size: the room.
        overflow: the probability that a draw does not fit.

    Raises:
        ConfigError: a number is out of range.
        DataError: the source is empty.

    Examples:
        >>> from jaxdl import data
        >>> source = data.arrays({"label": np.arange(100)})
        >>> batches = PoissonBatches(source, 10, seed=0, multiple_of=8)
        >>> batches.rate, batches.batch_size, [len(batches.rows(k)) for k in range(4)]
        (0.1, 40, [11, 10, 10, 13])
    """

    def __init__(
        self,
        source: Source,
        expected_batch_size: Number,
        *,
        seed: int,
        capacity: int | None = None,
        overflow: float = 1e-15,
        multiple_of: int = 1,
        transform: Transform | None = None,
    ):
        from scipy import stats

        examples = len(source)
        _check(examples, expected_batch_size, capacity, overflow, multiple_of)
        self.rate = min(expected_batch_size / max(examples, 1), 1.0)
        drawn = stats.binom(examples, self.rate)
        room = capacity or max(int(drawn.isf(overflow)), 1)
        room = -(-room // multiple_of) * multiple_of
        super().__init__(source, room, seed=seed, transform=transform)
        self.expected_batch_size = float(expected_batch_size)
        self.overflow = float(drawn.sf(room))
        self.batches_per_epoch = max(math.ceil(examples / expected_batch_size), 1)
        self._masked = True

    def rows(self, k: int) -> npt.NDArray[np.int64]:
        """The rows of the source that were drawn into batch ``k``, ascending; perhaps none.

        Args:
            k: which batch.

        Raises:
            BatchError: ``k`` is negative.
        """
        if k < 0:
            raise BatchError(f"batch {k} was asked for", expected="k from 0", do="count from 0")
        return drawn_rows(self.num_examples, self.rate, self.seed, k)[: self.batch_size]


def _check(
    examples: int, expected: Number, capacity: int | None, overflow: float, multiple_of: int
) -> None:
    for wrong, what, should in (
        (
            examples > 0 and not 0 < expected <= examples,
            f"expected_batch_size is {expected}",
            f"a positive number, at most the {examples} rows of the source",
        ),
        (
            capacity is not None and capacity < 1,
            f"capacity is {capacity}",
            "at least 1, or None",
        ),
        (not 0 < overflow < 1, f"overflow is {overflow}", "a probability between 0 and 1"),
        (multiple_of < 1, f"multiple_of is {multiple_of}", "at least 1"),
    ):
        if wrong:
            raise ConfigError(f"PoissonBatches: {what}", expected=should, do="change the setting")
