"""Sequences without times: a row of frames in, a row of labels out, by CTC.

Reads from: errors, protocols, reductions, losses, metrics, objectives.fields,
objectives.applying. Used by: recipes, by choice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdl import losses
from jaxdl import metrics as measurements
from jaxdl.errors import ObjectiveError
from jaxdl.objectives.applying import applied, first_variables
from jaxdl.objectives.fields import call_options, field
from jaxdl.protocols import EXAMPLE_KEY, MASK, Aux, Batch, Metric, ModelState, Objective, Params
from jaxdl.reductions import masked_sum

__all__ = ["ctc"]

# Tells the keys of the augmentation from those of dropout.
_SALT = 0x5BEC


def ctc(
    model: nn.Module,
    *,
    blank: int = 0,
    augment: Callable[[Any, Any, Any], Any] | None = None,
    metrics: Mapping[str, Metric] | None = None,
    inputs: str = "audio",
    targets: str = "label",
    zero_infinity: bool = True,
) -> Objective:
    """The objective of ``losses.ctc``, weighted by rows.

    The field ``mask`` is 0 on padding, of shape ``[B]`` for rows or ``[B, T]`` for frames, a row
    of nothing but padding then counts nowhere.

    Args:
        model: ``frames [B, T, ...] -> (logits [B, S, K], kept [B, S])``, the second 0 on outputs
            of padding, such as ``DeepSpeech``; or logits alone, with ``S = T``.
        blank: the class that is no label; it is the padding of the targets too.
        augment: ``(frames, keys [B], mask) -> frames``, in training only, with one key a row (see
            ``data.spectrograms.spec_augment``).
        metrics: their ``outputs`` are ``(logits, kept)``, see ``metrics.token_error_rate``.
        inputs: the batch field of frames.
        targets: the batch field of labels, integers ``[B, N]``, padded with ``blank``.
        zero_infinity: whether rows with too few frames for their labels have the loss 0; else the
            loss is infinite, which ends a run.

    Returns:
        An ``Objective``. Its ``Aux.outputs`` is ``(logits, kept)``.

    Raises:
        ObjectiveError: ``model`` is no Linen module.
        BatchError: while tracing, when a field is missing or shapes do not fit.

    Examples:
        >>> from jaxdl.models import RNN, RNNTagger
        >>> objective = ctc(RNNTagger(RNN(hidden_dim=4, cell="gru"), 3))
        >>> batch = {"audio": jnp.ones((2, 5, 7)), "label": jnp.array([[1, 2], [2, 0]])}
        >>> params, state = objective.init(jax.random.key(0), batch)
        >>> total, aux = objective.loss(params, state, batch, jax.random.key(1), train=True)
        >>> float(aux.weight)
        2.0
    """
    if not isinstance(model, nn.Module):
        raise ObjectiveError(
            f"ctc got a {type(model).__name__}",
            expected="an instance of a flax.linen.Module",
            do="write Objective(init, loss) by hand for another kind of model",
        )
    measured = dict(metrics or {})

    def init(key: Any, batch: Batch) -> tuple[Params, ModelState]:
        call = call_options(model, batch, train=False)
        return first_variables(model, key, field(batch, inputs), call)

    def loss_sum(
        params: Params, model_state: ModelState, batch: Batch, key: Any, *, train: bool
    ) -> tuple[Any, Aux]:
        x, labels = field(batch, inputs), field(batch, targets)
        if train and augment is not None:
            x = augment(x, _row_keys(batch, key, len(labels)), batch.get(MASK))
        call = call_options(model, batch, train=train)
        variables = (params, model_state)
        outputs, model_state = applied(model, variables, batch, x, key, call, train=train)
        logits, kept = outputs if isinstance(outputs, tuple) else (outputs, _frames(batch, outputs))
        values = losses.ctc(
            logits, labels, logit_mask=kept, blank=blank, zero_infinity=zero_infinity
        )
        total, weight = masked_sum(values, batch.get(MASK))
        sums = measurements.measure_all(measured, (logits, kept), batch)
        return total, Aux(weight, model_state, sums, (logits, kept))

    return Objective(init, loss_sum)


def _frames(batch: Batch, logits: Any) -> Any:
    mask = batch.get(MASK)
    return jnp.ones(logits.shape[:2], bool) if mask is None or jnp.ndim(mask) == 1 else mask != 0


def _row_keys(batch: Batch, key: Any, rows: int) -> Any:
    keys = batch.get(EXAMPLE_KEY)
    if keys is None:
        return jax.random.split(key, rows)
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, _SALT)
