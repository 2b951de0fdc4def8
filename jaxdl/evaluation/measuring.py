"""Metrics of a plain function over arrays: no recipe, no train state, one device.

Reads from: errors, protocols, data, metrics, evaluation.exact. Used by: by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy.typing as npt

from jaxdl import data, metrics
from jaxdl.evaluation.exact import evaluate
from jaxdl.protocols import Batch, Metric, PyTree, Sums

__all__ = ["measure"]


def measure(
    predict: Callable[[Batch], PyTree],
    source: data.Source | Mapping[str, npt.ArrayLike],
    measured: Mapping[str, Metric],
    *,
    batch_size: int = 256,
) -> dict[str, Any]:
    """Measures a function over every row of a source, each once, whatever the batch size.

    For a model on many devices use ``evaluate`` with
    ``jaxdl.jit(make_eval_step(predict, metrics))``.

    Args:
        predict: pure, ``batch -> outputs``, such as
            ``lambda batch: model.apply(variables, batch["image"])``. It is compiled.
        source: rows of named fields, or the fields as arrays ``[N, ...]``.
        measured: metrics by name.
        batch_size: rows at once.

    Returns:
        What the metrics report, as ``metrics.report`` names it.

    Raises:
        DataError: the source is empty, or its fields differ in length.
        ConfigError: ``batch_size`` is below 1.
        JaxdlError: what the metrics raise.

    Examples:
        >>> import numpy as np
        >>> rows = {"x": np.array([0.2, -1.0, 3.0], np.float32), "label": np.array([1, 1, 1])}
        >>> measure(lambda batch: batch["x"], rows, {"accuracy": metrics.accuracy()}, batch_size=2)
        {'accuracy': 0.6666666666666666}
    """
    chosen = data.arrays(source) if isinstance(source, Mapping) else source
    batches = data.Batches(chosen, batch_size, shuffle=False)
    return evaluate(_Compiled(predict, measured), None, batches)


class _Compiled:
    """An eval step of a function, on the default device."""

    def __init__(self, predict: Callable[[Batch], PyTree], measured: Mapping[str, Metric]):
        self._step: Any = jax.jit(
            lambda batch: metrics.measure_all(measured, predict(batch), batch)
        )

    def put(self, batch: Batch) -> Batch:
        return jax.device_put(batch)

    def __call__(self, state: Any, batch: Batch) -> Sums:
        del state
        return self._step(batch)
