"""The plain gradient: one forward and one backward pass over the whole batch.

Reads from: protocols. Used by: step, gradients.accumulated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxdl.protocols import Aux, Batch, GradientEstimator, ModelState, Objective, Params

__all__ = ["mean"]


def mean() -> GradientEstimator:
    r"""The gradient of the batch's mean loss, in one pass.

    With loss sum :math:`L = \sum_i w_i \ell_i` and weight :math:`W = \sum_i w_i` the backward pass
    starts from the cotangent :math:`1 / W` instead of 1, so that the mean costs no pass over the
    gradients.

    Returns:
        An estimator: objective -> ``(params, model_state, batch, key, *, divisor=None) ->
        (grads, Aux)``. Without ``divisor`` the gradient is that of the sum.

    Examples:
        >>> from jaxdl.protocols import Objective
        >>> loss = lambda p, s, b, k, train: (jnp.sum(p * b["x"]), Aux(2.0, s, {}))
        >>> gradient = mean()(Objective(None, loss))
        >>> batch = {"x": jnp.array([1.0, 3.0])}
        >>> float(gradient(jnp.array(5.0), {}, batch, None)[0])
        4.0
        >>> float(gradient(jnp.array(5.0), {}, batch, None, divisor=lambda weight: weight)[0])
        2.0
    """

    def estimator(objective: Objective) -> Callable[..., tuple[Params, Aux]]:
        def gradient(
            params: Params,
            model_state: ModelState,
            batch: Batch,
            key: Any,
            *,
            divisor: Callable[[Any], Any] | None = None,
        ) -> tuple[Params, Aux]:
            def loss_of(params: Params) -> tuple[Any, Aux]:
                return objective.loss(params, model_state, batch, key, train=True)

            loss, backward, aux = jax.vjp(loss_of, params, has_aux=True)
            seed = jnp.ones_like(loss)
            if divisor is not None:
                seed = seed / jnp.asarray(divisor(aux.weight), loss.dtype)
            (grads,) = backward(seed)
            return grads, aux

        return gradient

    return estimator
