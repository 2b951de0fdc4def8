"""Losses as metrics, and the perplexity read from them.

Reads from: protocols, reductions, metrics.selection, metrics.sums. Used by: recipes, by choice.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from jaxdl.metrics.selection import targets_of
from jaxdl.metrics.sums import quotient
from jaxdl.protocols import MASK, Batch, Mean, Metric
from jaxdl.reductions import masked_sum

__all__ = ["loss", "perplexity"]


def loss(fn: Callable[[Any, Any], Any], *, target: str = "label", name: str = "loss") -> Metric:
    """The mean of a per-example loss, over examples or tokens that count.

    Args:
        fn: ``(outputs, targets) -> values`` of shape ``[B]`` or ``[B, T]``.
        target: the batch field that ``fn`` compares with.
        name: what the value is reported as.
    """
    return Metric(_mean_of(fn, target), lambda sums: {name: float(quotient(*sums))})


def perplexity(fn: Callable[[Any, Any], Any], *, target: str = "label") -> Metric:
    """``exp`` of the mean loss: how many equally likely tokens the model hesitates between.

    Args:
        fn: per-token cross-entropy in nats, such as ``losses.softmax_cross_entropy``.
        target: the batch field of token numbers.

    Returns:
        A metric; infinite where the mean loss exceeds what ``exp`` can hold.
    """

    def read(sums: Mean) -> dict[str, float]:
        mean = float(quotient(*sums))
        return {"perplexity": math.exp(mean) if mean < 700 else math.inf if mean > 0 else mean}

    return Metric(_mean_of(fn, target), read)


def _mean_of(fn: Callable[[Any, Any], Any], target: str) -> Callable[[Any, Batch], Mean]:
    def measure(outputs: Any, batch: Batch) -> Mean:
        values = fn(outputs, targets_of(batch, target))
        return Mean(*masked_sum(values, batch.get(MASK)))

    return measure
