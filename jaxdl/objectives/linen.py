"""Supervised learning of a Flax Linen module: inputs in, a loss against targets out.

Dropout is drawn for each example on its own, so that it is the same whatever device, microbatch
or padding the example meets; see ``per_example_dropout``.

Reads from: errors, protocols, objectives.fields, objectives.applying. Used by: recipes, by choice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from jaxdl.errors import ObjectiveError
from jaxdl.objectives.applying import applied, first_variables
from jaxdl.objectives.fields import LossFn, call_options, field, summed
from jaxdl.protocols import Aux, Batch, Metric, ModelState, Objective, Params

__all__ = ["supervised"]


def supervised(
    model: nn.Module,
    loss: LossFn,
    *,
    metrics: Mapping[str, Metric] | None = None,
    inputs: str = "image",
    targets: str = "label",
) -> Objective:
    """An objective from a Flax Linen module and a per-example loss.

    The module is called as ``model(batch[inputs])``, with ``train=`` and ``mask=`` too where its
    ``__call__`` takes them, and with each further batch field that a keyword-only parameter of it
    is named after. Collections other than ``params`` (batch statistics) are its state.

    Args:
        model: the module.
        loss: ``(outputs, batch[targets]) -> values`` of shape ``[B]`` or ``[B, T]``, unreduced.
        metrics: measured on each training batch too, so keep them cheap.
        inputs: the batch field that the model reads.
        targets: the batch field that the loss reads.

    Returns:
        An ``Objective``. Its ``Aux.outputs`` holds the model's outputs.

    Raises:
        ObjectiveError: ``model`` is no Linen module.
        BatchError: while tracing, when a field is missing or the mask does not fit.

    Examples:
        >>> import jax, jax.numpy as jnp, flax.linen as nn
        >>> objective = supervised(nn.Dense(1), lambda y, t: (y[:, 0] - t) ** 2, inputs="x",
        ...                        targets="y")
        >>> batch = {"x": jnp.ones((4, 3)), "y": jnp.ones((4,))}
        >>> params, state = objective.init(jax.random.key(0), batch)
        >>> total, aux = objective.loss(params, state, batch, jax.random.key(1), train=True)
        >>> total.shape, float(aux.weight)
        ((), 4.0)
    """
    if not isinstance(model, nn.Module):
        raise ObjectiveError(
            f"supervised got a {type(model).__name__}",
            expected="an instance of a flax.linen.Module",
            do="use objectives.from_nnx for an NNX module, or write Objective(init, loss) by hand",
        )
    measured = dict(metrics or {})

    def init(key: Any, batch: Batch) -> tuple[Params, ModelState]:
        x = field(batch, inputs)
        return first_variables(model, key, x, call_options(model, batch, train=False))

    def loss_sum(
        params: Params, model_state: ModelState, batch: Batch, key: Any, *, train: bool
    ) -> tuple[Any, Aux]:
        x = field(batch, inputs)
        call = call_options(model, batch, train=train)
        variables = (params, model_state)
        outputs, model_state = applied(model, variables, batch, x, key, call, train=train)
        return summed(outputs, batch, model_state, loss=loss, targets=targets, metrics=measured)

    return Objective(init, loss_sum)
