"""Sums by name: made on the device, added anywhere, reported on the host.

Reads from: errors, protocols. Used by: objectives, step, evaluation, hooks.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxdl.errors import ObjectiveError
from jaxdl.protocols import Batch, Mean, Metric, PyTree, Sums, Tally

__all__ = ["add", "measure_all", "quotient", "report", "total"]


def measure_all(metrics: Mapping[str, Metric], outputs: PyTree, batch: Batch) -> Sums:
    """Measures one batch by several metrics.

    Args:
        metrics: by name.
        outputs: what the model returned for the batch.
        batch: the batch, with its targets and mask.

    Returns:
        One ``Tally`` a name.

    Raises:
        ObjectiveError: a value is no ``Metric``.
    """
    for name, metric in metrics.items():
        if not isinstance(metric, Metric):
            raise ObjectiveError(
                f"metric {name!r} is a {type(metric).__name__}",
                expected="a Metric(measure, report)",
                do="call the factory: metrics.accuracy(), not metrics.accuracy",
            )
    return {
        name: Tally(metric.measure(outputs, batch), metric.report)
        for name, metric in metrics.items()
    }


def add(a: Sums, b: Sums) -> Sums:
    """The sums of two disjoint sets of examples, added.

    Args:
        a: sums of one structure, on the device or the host.
        b: the same structure.
    """
    return jax.tree.map(operator.add, a, b)


def total(collected: Sequence[Sums]) -> Sums:
    """Adds many sums on the host, with one read of the device.

    Addition is in float64 and int64, so counts stay exact and nothing is lost by adding the small
    to the large, however many batches there are.

    Args:
        collected: at least one; all of one structure.

    Returns:
        Sums of numpy arrays.

    Raises:
        ObjectiveError: the list is empty.
    """
    if not collected:
        raise ObjectiveError(
            "there are no sums to add",
            expected="the sums of at least one batch",
            do="check that the data set gives batches",
        )
    return jax.tree.map(_wide_sum, *jax.device_get(list(collected)))


def _wide_sum(*leaves: Any) -> Any:
    stacked = np.stack([np.asarray(leaf) for leaf in leaves])
    wide = np.int64 if stacked.dtype.kind in "biu" else np.float64
    return np.sum(stacked, axis=0, dtype=wide)


def report(sums: Sums) -> dict[str, Any]:
    """Reads sums into values; waits for the device if they are still there.

    Args:
        sums: from a step, or added from several.

    Returns:
        Numbers (or arrays) by name. A ``Mean`` is its quotient, NaN over a weight of 0; a
        ``Tally`` is what its metric reports, under ``name`` when that is one value and
        ``name/part`` when there are several; any other array is itself.

    Examples:
        >>> report({"loss": Mean(np.float32(6.0), np.float32(4.0)), "skipped": np.int32(2)})
        {'loss': 1.5, 'skipped': 2}
    """
    values: dict[str, Any] = {}
    for name, entry in jax.device_get(sums).items():
        if isinstance(entry, Mean):
            values[name] = _plain(quotient(entry.total, entry.weight))
        elif isinstance(entry, Tally):
            parts = entry.report(entry.sums)
            single = len(parts) == 1
            values |= {name if single else f"{name}/{k}": _plain(v) for k, v in parts.items()}
        else:
            values[name] = jax.tree.map(_plain, entry)
    return values


def quotient(numerator: Any, denominator: Any, empty: float = np.nan) -> np.ndarray:
    """Elementwise division in float64, with ``empty`` where the denominator is 0.

    Args:
        numerator: numbers of any shape.
        denominator: numbers of the same shape.
        empty: the value where there is nothing to divide by.
    """
    top = np.asarray(numerator, np.float64)
    bottom = np.asarray(denominator, np.float64)
    some = bottom != 0
    return np.where(some, top / np.where(some, bottom, 1.0), empty)


def _plain(value: Any) -> Any:
    array = np.asarray(value)
    return array.item() if array.ndim == 0 else array
