"""The gradient of a batch that does not fit: summed over microbatches in a ``lax.scan``.

Reads from: errors, layouts, protocols, gradients.cutting, gradients.whole. Used by: step, by
the user's choice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxdl.errors import BatchError, ObjectiveError
from jaxdl.gradients.cutting import check_parts
from jaxdl.gradients.whole import mean
from jaxdl.layouts import nearest_sizes
from jaxdl.protocols import Aux, Batch, GradientEstimator, ModelState, Objective, Params, PyTree

__all__ = ["accumulate"]


def accumulate(microbatches: int) -> GradientEstimator:
    """Sums gradients over microbatches, each weighted by the real examples or tokens it holds.

    Because sums are added and divided once, unequal microbatches (padding, masked tokens) give the
    gradient of the whole batch, not a mean of means. The model's state is carried from one
    microbatch to the next, so batch statistics are those of microbatches; one that holds only
    padding may not turn it into NaN.

    Microbatch ``i`` takes rows ``i, i + n, i + 2n, ...``: rows that lie on one device stay there.

    Args:
        microbatches: ``n``, at least 1; the batch's rows on each device must be a multiple of it.

    Returns:
        An estimator with the signature of ``mean``.

    Raises:
        ObjectiveError: ``microbatches`` is not a positive integer; or, when the estimator is given
            it, the objective mixes rows (see ``Objective``) and there are two or more.
        BatchError: while tracing, when the rows do not divide.
    """
    if not isinstance(microbatches, int) or microbatches < 1:
        raise ObjectiveError(
            f"accumulate({microbatches!r})",
            expected="a positive number of microbatches",
            do="pass an integer such as 4",
        )

    def estimator(objective: Objective) -> Callable[..., tuple[Params, Aux]]:
        check_parts(objective, microbatches, f"accumulate({microbatches})")
        inner = mean()(objective)

        def gradient(
            params: Params,
            model_state: ModelState,
            batch: Batch,
            key: Any,
            *,
            divisor: Callable[[Any], Any] | None = None,
        ) -> tuple[Params, Aux]:
            pieces = jax.tree.map(lambda x: _split(x, microbatches), batch)

            known: list[Any] = []

            def body(carry: PyTree, piece: tuple[Any, Batch]) -> tuple[PyTree, None]:
                sums, model_state = carry
                index, rows = piece
                grads, aux = inner(params, model_state, rows, jax.random.fold_in(key, index))
                known.append(aux.weight)
                kept = _keep_if_empty(aux.weight, aux.model_state, model_state)
                return (jax.tree.map(jnp.add, sums, _summed(grads, aux)), kept), None

            first = jax.tree.map(lambda x: x[0], pieces)
            shapes = jax.eval_shape(inner, params, model_state, first, key)
            zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), _summed_shapes(*shapes))
            (sums, model_state), _ = jax.lax.scan(
                body, (zeros, model_state), (jnp.arange(microbatches), pieces)
            )
            grads, weight, metrics = sums
            if not isinstance(known[-1], jax.Array):
                # Without a mask every microbatch has the same weight, a constant of the program.
                weight = microbatches * known[-1]
            if divisor is not None:
                share = 1.0 / divisor(weight)
                grads = jax.tree.map(lambda g: g * jnp.asarray(share, g.dtype), grads)
            grads = jax.tree.map(lambda g, p: g.astype(p.dtype), grads, params)
            return grads, Aux(weight, model_state, metrics)

        return gradient

    return estimator


def _split(field: Any, count: int) -> Any:
    rows = field.shape[0]
    if rows % count:
        raise BatchError(
            f"{rows} rows on each device do not divide into {count} microbatches",
            expected=f"a multiple of {count}, such as {nearest_sizes(rows, count)}",
            do="change the batch size or the number of microbatches",
        )
    return jnp.swapaxes(field.reshape(rows // count, count, *field.shape[1:]), 0, 1)


def _summed(grads: Params, aux: Aux) -> tuple[Params, Any, PyTree]:
    wide = jax.tree.map(lambda g: g.astype(_accumulator(g.dtype)), grads)
    return wide, aux.weight, aux.metrics


def _summed_shapes(grads: Params, aux: Aux) -> PyTree:
    return jax.eval_shape(_summed, grads, aux)


def _accumulator(dtype: Any) -> Any:
    """Half-precision gradients are added up in float32."""
    return jnp.promote_types(dtype, jnp.float32)


def _keep_if_empty(weight: Any, new: ModelState, old: ModelState) -> ModelState:
    """A microbatch that is all padding on this shard may have made NaN of its statistics."""

    def keep(n: Any, o: Any) -> Any:
        finite = jnp.isfinite(n) if jnp.issubdtype(n.dtype, jnp.inexact) else True
        return jnp.where((jnp.asarray(weight) > 0) | finite, n, o)

    return jax.tree.map(keep, new, old)
