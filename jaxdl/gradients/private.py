"""The gradient of which no example can move more than a bound: each one's own, clipped, then added.

It is the first half of DP-SGD. The second is the noise of ``privacy.noise``, which the optimizer
adds once, after the sum over devices; without it nothing is private.

Reads from: errors, protocols, units, gradients.private_rows. Used by: privacy, and step by the
user's choice.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdl.errors import ObjectiveError
from jaxdl.gradients.private_rows import count_rows, cut, of_no_row, real_rows
from jaxdl.protocols import (
    Aux,
    Batch,
    GradFn,
    GradientEstimator,
    Mean,
    ModelState,
    Objective,
    Params,
    Sums,
)
from jaxdl.units import Number

__all__ = ["private"]


def private(
    clip_norm: Number,
    *,
    expected_batch_size: Number,
    microbatches: int = 1,
    per_layer: bool = False,
    loss_scale: Number = 1.0,
) -> GradientEstimator:
    r"""Clips the gradient of every example to ``clip_norm``, and sums.

    With the loss sum :math:`L_i` of row :math:`i` alone, its weight included, and its gradient
    :math:`g_i`, the gradient sum is :math:`\sum_i g_i \min(1, C / |g_i|)`: adding or removing a row
    moves it by at most :math:`C`, whatever the row holds and whatever its weight is. A step divides
    it by ``expected_batch_size``, a constant, and not by how many rows or tokens there are, which
    would tell who was drawn. Of a sequence the example is the row, and its gradient the sum over
    its tokens.

    Rows whose ``mask`` is 0 add nothing. Neither does a row whose loss or gradient is not finite:
    it is left out of all sums and counted in ``sums["not_finite"]``. ``sums["clipped"]`` is the
    share of rows that were clipped. These, the loss and the metrics are measured on the data
    without noise: the guarantee does not cover them.

    A row is differentiated with the key that it has as ``batch["example_key"]``. What an objective
    draws from the key of the step itself is the same for all rows.

    Gradients are clipped and added in float32, and come back so: rounding them to half precision
    before the noise is added would move them by more than an example may. ``privacy.noise`` gives
    its result the dtype of the parameters.

    Source: Abadi et al. 2016, arXiv:1607.00133, algorithm 1.

    Args:
        clip_norm: :math:`C`, the largest Euclidean norm over all trained parameters together.
        expected_batch_size: examples in a global batch on average, :math:`q n` of Poisson sampling.
        microbatches: parts that the rows of a batch are worked through in, one after another. A
            device holds the gradients of its rows of one part at a time, and one sum. The rows on
            each device must be a multiple of it.
        per_layer: clip each array of the parameters by itself to :math:`C / \sqrt{L}`, of
            :math:`L` arrays that are trained, so that together they stay within :math:`C`.
        loss_scale: what a loss is multiplied by before it is differentiated, for float16; its
            gradient is divided by it in float32 before it is clipped.

    Returns:
        An estimator with the signature of ``mean``. Given ``divisor``, the gradient function
        divides by ``expected_batch_size``, whatever the weight is.

    Raises:
        ObjectiveError: a number is out of range; or, when the estimator is given it, the objective
            mixes rows; or, while tracing, the state of the model after a batch depends on the
            batch, as batch statistics do.
        BatchError: while tracing, when the rows do not divide, or fields differ in rows.

    Examples:
        >>> loss = lambda p, s, b, k, train: (jnp.sum(p * b["x"]), Aux(1.0, s, {}))
        >>> gradient = private(1.0, expected_batch_size=4)(Objective(None, loss))
        >>> batch = {"x": jnp.array([0.5, 3.0, -7.0, 0.25])}
        >>> float(gradient(jnp.array(5.0), {}, batch, None)[0])
        0.75
    """
    for name, value in (
        ("clip_norm", clip_norm),
        ("expected_batch_size", expected_batch_size),
        ("loss_scale", loss_scale),
    ):
        _check_positive(name, value)
    if not isinstance(microbatches, int) or microbatches < 1:
        raise ObjectiveError(
            f"private(microbatches={microbatches!r})",
            expected="a positive number of microbatches",
            do="pass an integer such as 4",
        )
    return _Private(
        float(clip_norm), float(expected_batch_size), microbatches, per_layer, float(loss_scale)
    )


class _Part(NamedTuple):
    """What some rows come to: everything of it is added."""

    grads: Params
    weight: Any
    metrics: Sums


@dataclass(frozen=True)
class _Private:
    clip_norm: float
    expected: float
    microbatches: int
    per_layer: bool
    loss_scale: float

    clips_examples = True

    @property
    def scales_loss(self) -> bool:
        """Whether float16 was thought of."""
        return self.loss_scale != 1.0

    def __call__(self, objective: Objective, /) -> GradFn:
        _check_rows_apart(objective)

        def gradient(
            params: Params,
            model_state: ModelState,
            batch: Batch,
            key: Any,
            *,
            divisor: Callable[[Any], Any] | None = None,
        ) -> tuple[Params, Aux]:
            pieces = cut((batch, real_rows(batch)), count_rows(batch), self.microbatches)
            part = partial(self._part, objective, params, model_state, key)

            def body(total: _Part, piece: Any) -> tuple[_Part, ModelState]:
                added, state = part(*piece)
                return jax.tree.map(jnp.add, total, added), state

            first = jax.tree.map(lambda x: x[0], pieces)
            shapes, _ = jax.eval_shape(part, *first)
            zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
            total, states = jax.lax.scan(body, zeros, pieces)
            # All parts start from one state, and what they make of it does not depend on the rows.
            state = jax.tree.map(lambda x: x[0], states)
            grads = total.grads
            if divisor is not None:
                grads = jax.tree.map(lambda g: g * jnp.asarray(1.0 / self.expected, g.dtype), grads)
            return grads, Aux(total.weight, state, total.metrics)

        return gradient

    def _part(
        self,
        objective: Objective,
        params: Params,
        model_state: ModelState,
        key: Any,
        rows: Batch,
        real: jax.Array,
    ) -> tuple[_Part, ModelState]:
        """The sums of some rows, differentiated side by side."""

        def example(row: Batch) -> tuple[Any, ...]:
            batch = jax.tree.map(lambda x: x[None], row)

            def loss_of(params: Params) -> tuple[Any, Aux]:
                return objective.loss(params, model_state, batch, key, train=True)

            loss, backward, aux = jax.vjp(loss_of, params, has_aux=True)
            (grads,) = backward(jnp.full_like(loss, self.loss_scale))
            weight = jnp.asarray(aux.weight)
            return loss, grads, weight, aux.metrics, of_no_row(aux.model_state)

        loss, grads, weight, metrics, state = jax.vmap(example, out_axes=(0, 0, 0, 0, None))(rows)
        grads = jax.tree.map(partial(_wide, scale=self.loss_scale), grads)
        shares, norm = self._shares(jax.tree.leaves(grads), len(loss))
        kept = real & jnp.isfinite(norm) & jnp.isfinite(loss)
        leaves, structure = jax.tree.flatten(grads)
        clipped = [_weighed(kept, *pair) for pair in zip(leaves, shares, strict=True)]
        own: Sums = {
            "clipped": Mean(_count(kept & (self._shortened(shares) < 1.0)), _count(kept)),
            "not_finite": jnp.sum(real & ~kept, dtype=jnp.int32),
        }
        sums = jax.tree.map(partial(_sum, kept), metrics)
        return _Part(structure.unflatten(clipped), _sum(kept, weight), {**sums, **own}), state

    def _shares(self, leaves: list[jax.Array], rows: int) -> tuple[list[jax.Array], jax.Array]:
        """What each array of each row's gradient is multiplied by ``[B]``, and the rows' norms."""
        squares = [jnp.sum(jnp.square(g.reshape(rows, -1)), axis=1) for g in leaves]
        norm = jnp.sqrt(sum(squares, start=jnp.zeros(rows, jnp.float32)))
        if not self.per_layer:
            return [_share(self.clip_norm, norm)] * len(leaves), norm
        bound = self.clip_norm / math.sqrt(max(len(leaves), 1))
        return [_share(bound, jnp.sqrt(square)) for square in squares], norm

    @staticmethod
    def _shortened(shares: list[jax.Array]) -> Any:
        return jnp.min(jnp.stack(shares), axis=0) if shares else 1.0


def _wide(grad: Any, *, scale: float) -> Any:
    wide = grad.astype(jnp.promote_types(grad.dtype, jnp.float32))
    return wide if scale == 1.0 else wide / jnp.asarray(scale, wide.dtype)


def _share(bound: float, norm: jax.Array) -> jax.Array:
    bounds = jnp.full_like(norm, bound)
    return bounds / jnp.maximum(norm, bounds)


def _weighed(kept: jax.Array, grads: jax.Array, share: jax.Array) -> jax.Array:
    """The sum of gradients ``[B, ...]`` times ``[B]``; as a product, which XLA sums the fastest."""
    wide = kept.reshape(-1, *(1,) * (grads.ndim - 1))
    finite = jnp.where(wide, grads, jnp.zeros_like(grads))
    return jnp.tensordot(
        jnp.where(kept, share, jnp.zeros_like(share)).astype(grads.dtype),
        finite,
        axes=1,
        # A matrix unit would otherwise round the factors, and with them the bound.
        precision=jax.lax.Precision.HIGHEST,
    )


def _sum(kept: jax.Array, values: Any) -> jax.Array:
    """The sum over the rows that are kept; a NaN of the others never reaches it."""
    values = jnp.asarray(values)
    wide = kept.reshape(-1, *(1,) * (values.ndim - 1))
    return jnp.sum(jnp.where(wide, values, jnp.zeros_like(values)), axis=0, dtype=values.dtype)


def _count(rows: jax.Array) -> jax.Array:
    return jnp.sum(rows, dtype=jnp.float32)


def _check_rows_apart(objective: Objective) -> None:
    if objective.mixes_rows:
        raise ObjectiveError(
            "private() clips the gradient of every example by itself, and this objective compares "
            "each row with all others: there is no gradient of one example",
            expected="an objective whose rows do not meet (mixes_rows=False)",
            do="choose a loss of single rows; private() has no bound for a loss of pairs",
        )


def _check_positive(name: str, value: Any) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and math.isfinite(value) and value > 0):
        raise ObjectiveError(
            f"private({name}={value!r})",
            expected="a positive number",
            do="such as private(1.0, expected_batch_size=256)",
        )
