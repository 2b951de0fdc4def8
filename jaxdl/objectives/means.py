"""The adapter for the loss that most research code already has: a mean over the batch.

Reads from: errors, protocols. Used by: recipes, by choice.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.errors import BatchError, ObjectiveError
from jaxdl.protocols import MASK, Aux, Batch, Mean, ModelState, Objective, Params

__all__ = ["from_mean"]


def from_mean(
    loss_fn: Callable[..., Any],
    init: Callable[[Any, Batch], Params] | None = None,
    *,
    masked: bool = False,
) -> Objective:
    """An objective from ``loss_fn(params, batch[, key]) -> mean`` or ``-> (mean, {name: mean})``.

    The mean is multiplied by the number of rows it was taken over, which makes it a sum that adds
    over devices and microbatches.

    Args:
        loss_fn: the mean loss; it is given ``key`` when it has a third positional parameter or one
            named ``key``.
        init: ``(key, batch) -> params``; needed by ``step.init`` only.
        masked: says that ``loss_fn`` reads ``batch["mask"]`` and takes the mean over the rows that
            count. Otherwise a batch with a mask is an error, since its padding would count.

    Returns:
        An ``Objective`` with no model state.

    Raises:
        ObjectiveError: ``init`` is called for but was not given, or the loss is no scalar.
        BatchError: the batch has a mask that ``loss_fn`` does not know of.

    Examples:
        >>> objective = from_mean(lambda p, batch: jnp.mean((p - batch["x"]) ** 2))
        >>> total, aux = objective.loss(1.0, {}, {"x": jnp.zeros(4)}, None, train=True)
        >>> float(total), float(aux.weight)
        (4.0, 4.0)
    """
    takes_key = _takes_key(loss_fn)

    def init_params(key: Any, batch: Batch) -> tuple[Params, ModelState]:
        if init is None:
            raise ObjectiveError(
                "this objective cannot make parameters: from_mean was given no init",
                expected="from_mean(loss_fn, init) with init(key, batch) -> params",
                do="pass init, for example lambda key, batch: my_params",
            )
        return init(key, batch), {}

    def loss(
        params: Params, model_state: ModelState, batch: Batch, key: Any, *, train: bool
    ) -> tuple[Any, Aux]:
        del train
        weight = _rows(batch, masked=masked)
        returned = loss_fn(params, batch, key) if takes_key else loss_fn(params, batch)
        value, means = returned if isinstance(returned, tuple) else (returned, {})
        if jnp.ndim(value) != 0:
            raise ObjectiveError(
                f"from_mean's loss returned shape {list(jnp.shape(value))}",
                expected="one number: the mean over the batch",
                do="take the mean, or use an objective that sums per-example losses",
            )
        sums = {name: Mean(mean * weight, weight) for name, mean in means.items()}
        return value * weight, Aux(weight, model_state, sums)

    return Objective(init_params, loss)


def _takes_key(loss_fn: Callable[..., Any]) -> bool:
    parameters = list(inspect.signature(loss_fn).parameters.values())
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return len(positional) > 2 and positional[2].default is inspect.Parameter.empty


def _rows(batch: Batch, *, masked: bool) -> Any:
    mask = batch.get(MASK) if isinstance(batch, Mapping) else None
    if mask is not None and masked:
        return jnp.sum(jnp.asarray(mask, jnp.float32))
    if mask is not None:
        raise BatchError(
            "the batch has a 'mask', which a mean loss cannot see: its padding would count",
            expected="a batch without padding, or a loss that averages over the mask",
            do="use from_mean(..., masked=True) with such a loss, or remainder='drop'",
        )
    return np.asarray(jax.tree.leaves(batch)[0].shape[0], np.float32)
