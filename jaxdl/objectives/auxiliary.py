"""Supervised learning of a module that has more than one head while it is trained.

Reads from: errors, protocols, objectives.fields, objectives.linen. Used by: recipes, by choice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from jaxdl.errors import ObjectiveError
from jaxdl.objectives.fields import LossFn
from jaxdl.objectives.linen import supervised
from jaxdl.protocols import Aux, Batch, Metric, ModelState, Objective, Params

__all__ = ["with_auxiliary"]


def with_auxiliary(
    model: nn.Module,
    loss: LossFn,
    *,
    weight: float = 0.4,
    metrics: Mapping[str, Metric] | None = None,
    inputs: str = "image",
    targets: str = "label",
) -> Objective:
    r"""As ``supervised``, for a module that returns ``(outputs, auxiliary, ...)`` in training.

    The loss of an example is :math:`\ell(y, t) + w \sum_i \ell(a_i, t)`; where the module returns
    its outputs alone, as in evaluation, it is :math:`\ell(y, t)`. Metrics and ``Aux.outputs`` are
    of the first.

    Source: Szegedy et al. 2014 (arXiv:1409.4842, section 5) with weight 0.3 for each of two heads;
    0.4 is that of Inception v3 in its authors' code, github.com/tensorflow/models, research/slim.

    Args:
        model: the module.
        loss: ``(outputs, batch[targets]) -> values`` of shape ``[B]`` or ``[B, T]``, unreduced.
        weight: :math:`w`, from 0.
        metrics: measured on each training batch too, so keep them cheap.
        inputs: the batch field that the model reads.
        targets: the batch field that the loss reads.

    Raises:
        ObjectiveError: ``model`` is no Linen module, or ``weight`` is negative or not finite.

    Examples:
        >>> from jaxdl import losses, models
        >>> model = models.inception_v3(num_classes=10)
        >>> objective = with_auxiliary(model, losses.softmax_cross_entropy)
    """
    if not 0 <= weight < float("inf"):
        raise ObjectiveError(
            f"with_auxiliary got weight={weight}",
            expected="a finite number from 0",
            do="0.4 is Inception v3's; with 0 the auxiliary head learns nothing",
        )

    def both(outputs: Any, wanted: Any) -> Any:
        first, others = _heads(outputs)
        values = loss(first, wanted)
        for other in others:
            values = values + weight * loss(other, wanted)
        return values

    measured = {name: _of_first(metric) for name, metric in (metrics or {}).items()}
    whole = supervised(model, both, metrics=measured, inputs=inputs, targets=targets)

    def loss_sum(
        params: Params, model_state: ModelState, batch: Batch, key: Any, *, train: bool
    ) -> tuple[Any, Aux]:
        total, aux = whole.loss(params, model_state, batch, key, train=train)
        return total, aux._replace(outputs=_heads(aux.outputs)[0])

    return Objective(whole.init, loss_sum)


def _heads(outputs: Any) -> tuple[Any, tuple[Any, ...]]:
    if not isinstance(outputs, tuple):
        return outputs, ()
    first, *others = outputs  # pyright: ignore[reportUnknownVariableType]
    return first, tuple(others)  # pyright: ignore[reportUnknownArgumentType,reportUnknownVariableType]


def _of_first(metric: Metric) -> Metric:
    def measure(outputs: Any, batch: Batch) -> Any:
        return metric.measure(_heads(outputs)[0], batch)

    return metric._replace(measure=measure)
