"""The exact figures of a data set: every example once, padding never, sums added on the host.

Every batch is given a mask and one number of rows, so that all splits share one program.

Reads from: errors, protocols, data, metrics. Used by: evaluation.measuring,
hooks, recipe, and by hand.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from jaxdl import data, metrics
from jaxdl.errors import ConfigError
from jaxdl.protocols import Batch, Sums

__all__ = ["PlacedEvalStep", "check_exact", "evaluate"]

_AHEAD = 16


@runtime_checkable
class PlacedEvalStep(Protocol):
    """An eval step and its place, such as ``jaxdl.jit(make_eval_step(...))`` gives."""

    def put(self, batch: Batch) -> Batch:
        """Moves a host batch to the devices; called from another thread."""
        ...

    def __call__(self, state: Any, batch: Batch) -> Sums:
        """Measures a batch that ``put`` moved."""
        ...


def evaluate(
    step: PlacedEvalStep, state: Any, batches: data.Batches, *, rows: int | None = None
) -> dict[str, Any]:
    """Measures one epoch of batches.

    Args:
        step: a placed eval step.
        state: is kept.
        batches: with ``remainder="pad"``, so that no example is left out.
        rows: pad every batch to so many; give the largest batch size where data sets of several
            are evaluated by one program. The batch size when ``None``.

    Returns:
        What ``metrics.report`` reads from the sums over all examples. It does not depend on the
        batch size, nor on the order, but for the rounding of the sums within a batch.

    Raises:
        ConfigError: the batches leave examples out, or have more than ``rows``.
    """
    rows = _checked_rows(batches, rows)

    def put(batch: Batch) -> Batch:
        return step.put(data.pad_batch(batch, rows))

    sums: Sums | None = None
    waiting: list[Sums] = []
    with data.prefetch(batches, put, stop=batches.batches_per_epoch) as ahead:
        for _, batch in ahead:
            waiting.append(step(state, batch))
            if len(waiting) == _AHEAD:
                sums, waiting = _added(sums, waiting), []
    return metrics.report(_added(sums, waiting))


def _added(sums: Sums | None, waiting: list[Sums]) -> Sums:
    if not waiting and sums is not None:
        return sums
    new = metrics.total(waiting)
    return new if sums is None else metrics.add(sums, new)


def check_exact(batches: data.Batches) -> None:
    """Checks that an epoch has every example.

    Args:
        batches: to be evaluated.

    Raises:
        ConfigError: it leaves some out.
    """
    if batches.batches_per_epoch * batches.batch_size < batches.num_examples:
        raise ConfigError(
            f"an epoch of these batches leaves out some of {batches.num_examples} examples",
            expected="batches with remainder='pad'",
            do="make them with data.Batches(source, batch_size, remainder='pad')",
        )


def _checked_rows(batches: data.Batches, rows: int | None) -> int:
    check_exact(batches)
    own = next(iter(batches.spec.values())).shape[0]
    if rows is not None and rows < own:
        raise ConfigError(
            f"rows is {rows}, the batches have {own}",
            expected=f"at least {own}",
            do="give the largest batch size of all the data sets",
        )
    return own if rows is None else rows
