"""The steps that do not train: measuring a batch and predicting it.

Reads from: errors, protocols, metrics, objectives.fields. Used by: placement, evaluation, recipe.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdl import metrics as measurements
from jaxdl.errors import ObjectiveError
from jaxdl.objectives.fields import call_options, field
from jaxdl.protocols import (
    Batch,
    EvalFn,
    Mean,
    Metric,
    Objective,
    Params,
    PredictFn,
    PyTree,
    Sums,
    TrainState,
)

__all__ = ["PredictStep", "make_eval_step", "make_predict_step"]


def make_eval_step(
    source: Objective | PredictFn,
    metrics: Mapping[str, Metric] | None = None,
    *,
    use_ema: bool = False,
) -> EvalFn:
    """A pure ``(state, batch, *, axis_name=None) -> Sums``, deterministic.

    Args:
        source: an objective (its loss and metrics are measured too), or
            ``(params, model_state, batch) -> outputs``.
        metrics: measured on the outputs.
        use_ema: read ``state.ema`` in place of ``state.params``.

    Returns:
        The function. Sums over all batches of a data set, however cut and padded, report the data
        set's exact figures.

    Raises:
        ObjectiveError: while tracing, when metrics are asked of an objective without
            ``Aux.outputs``, or ``use_ema`` of a state without an average.
    """
    measured = dict(metrics or {})

    def evaluate(state: TrainState, batch: Batch, *, axis_name: str | None = None) -> Sums:
        params = _chosen_params(state, use_ema=use_ema)
        if isinstance(source, Objective):
            sums, outputs = _measured_loss(source, params, state, batch, bool(measured))
        else:
            sums, outputs = {}, source(params, state.model_state, batch)
        sums = {**sums, **measurements.measure_all(measured, outputs, batch)}
        return sums if axis_name is None else jax.lax.psum(sums, axis_name)

    return evaluate


def _measured_loss(
    objective: Objective, params: Params, state: TrainState, batch: Batch, needs_outputs: bool
) -> tuple[Sums, PyTree]:
    key = jax.random.fold_in(state.key, state.step)
    total, aux = objective.loss(params, state.model_state, batch, key, train=False)
    if needs_outputs and aux.outputs is None:
        raise ObjectiveError(
            "metrics were asked for, but the objective returned no Aux.outputs",
            expected="Aux(weight, model_state, metrics, outputs)",
            do="return the model's outputs as the fourth field, or pass a predict function",
        )
    weight = jnp.asarray(aux.weight, jnp.float32)
    return {"loss": Mean(total, weight), **aux.metrics}, aux.outputs


def _chosen_params(state: TrainState, *, use_ema: bool) -> Params:
    if use_ema and state.ema is None:
        raise ObjectiveError(
            "use_ema=True, but this state keeps no moving average",
            expected="a state made by make_train_step(..., ema_decay=...)",
            do="set ema_decay, or leave use_ema out",
        )
    return state.ema if use_ema else state.params


class PredictStep(NamedTuple):
    """A pure ``(state, batch) -> outputs``, one row of outputs an example."""

    apply: Callable[[TrainState, Batch], PyTree]

    def __call__(self, state: TrainState, batch: Batch) -> PyTree:
        """Runs it."""
        return self.apply(state, batch)


def make_predict_step(
    source: nn.Module | Objective | PredictFn, *, inputs: str = "image", use_ema: bool = False
) -> PredictStep:
    """A pure ``(state, batch) -> outputs``, deterministic.

    Args:
        source: a Linen module (called on ``batch[inputs]``), an objective (its ``Aux.outputs``), or
            ``(params, model_state, batch) -> outputs``.
        inputs: the field that a Linen module reads.
        use_ema: read ``state.ema`` in place of ``state.params``.

    Returns:
        A ``PredictStep``; ``jaxdl.jit`` places it like any step and gives back real rows only.
    """

    def predict(state: TrainState, batch: Batch) -> PyTree:
        params = _chosen_params(state, use_ema=use_ema)
        if isinstance(source, Objective):
            return _measured_loss(source, params, state, batch, needs_outputs=True)[1]
        if isinstance(source, nn.Module):
            variables = {"params": params, **state.model_state}
            options = call_options(source, batch, train=False)
            return source.apply(variables, field(batch, inputs), **options)
        return source(params, state.model_state, batch)

    return PredictStep(predict)
