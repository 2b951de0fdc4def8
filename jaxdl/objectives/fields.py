"""What every supervised objective does with a batch: find fields, check the loss, sum by mask.

Reads from: errors, protocols, reductions, metrics. Used by: objectives.linen, objectives.nnx.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from jaxdl import metrics as measurements
from jaxdl.errors import BatchError, ObjectiveError, closest
from jaxdl.protocols import MASK, Aux, Batch, Metric, ModelState
from jaxdl.reductions import masked_sum

__all__ = ["LossFn", "call_options", "field", "summed"]

LossFn = Callable[[Any, Any], Any]
"""``(outputs, targets) -> loss of each example``, shape ``[B]`` or ``[B, T]``, unreduced."""


def field(batch: Batch, name: str) -> Any:
    """One field of a batch.

    Args:
        batch: a mapping of arrays.
        name: the field.

    Raises:
        BatchError: the batch is no mapping, or has no such field.
    """
    if not isinstance(batch, Mapping):
        raise BatchError(
            f"the batch is a {type(batch).__name__}",
            expected=f"a mapping of arrays with the field {name!r}",
            do="give a dictionary such as {'image': ..., 'label': ...}",
        )
    if name not in batch:
        raise BatchError(
            f"the batch has no field {name!r}",
            expected=f"{name!r} among its fields ({', '.join(batch) or 'it has none'})",
            do=closest(name, batch) + " Fields are named by inputs= and targets=",
        )
    return batch[name]


def summed(
    outputs: Any,
    batch: Batch,
    model_state: ModelState,
    *,
    loss: LossFn,
    targets: str,
    metrics: Mapping[str, Metric],
) -> tuple[Any, Aux]:
    """The loss sum of a batch with everything that goes with it.

    Args:
        outputs: what the model returned for the batch.
        batch: the batch; rows whose ``mask`` is 0 count nowhere.
        model_state: the model's state after the batch.
        loss: per-example loss.
        targets: the field that the loss compares with.
        metrics: what to measure beside the loss.

    Returns:
        ``(loss sum, Aux)``.

    Raises:
        ObjectiveError: the loss returned one number for the whole batch.
        BatchError: the target field is missing, or the mask does not fit.
    """
    values = loss(outputs, field(batch, targets))
    if getattr(values, "ndim", 0) == 0:
        raise ObjectiveError(
            f"the loss {getattr(loss, '__name__', loss)!r} returned one number for the batch",
            expected="one loss an example, shape [B], or a token, shape [B, T]",
            do="drop the mean inside the loss, or use objectives.from_mean for a mean loss",
        )
    total, weight = masked_sum(values, batch.get(MASK))
    sums = measurements.measure_all(metrics, outputs, batch)
    return total, Aux(weight, model_state, sums, outputs)


def call_options(model: Any, batch: Batch, *, train: bool) -> dict[str, Any]:
    """The keyword arguments of the model's call: ``train``, ``mask``, and fields by their name.

    ``train`` and ``mask`` are given where the call takes them. A keyword-only parameter that has
    the name of a batch field (``token_types``) is given that field.

    Args:
        model: a Linen or NNX module.
        batch: where the mask and the fields are, if there are any.
        train: what ``train`` is to be.
    """
    parameters = inspect.signature(type(model).__call__).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    given = {"train": train, MASK: batch.get(MASK)}
    known = {name: value for name, value in given.items() if name in parameters or open_ended}
    fields = {
        name: batch[name]
        for name, p in parameters.items()
        if p.kind is p.KEYWORD_ONLY and name in batch and name not in given
    }
    return {**known, **fields}
