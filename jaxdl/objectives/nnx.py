"""Supervised learning of a Flax NNX module, split once into pure functions of its state.

NNX modules carry their parameters; a pure step must not. The module is taken apart when the
objective is made, and only its (static) graph is kept.

Reads from: errors, protocols, objectives.fields. Used by: recipes, by choice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdl.errors import ObjectiveError
from jaxdl.objectives.fields import LossFn, call_options, field, summed
from jaxdl.protocols import Aux, Batch, Metric, ModelState, Objective, Params, PyTree

__all__ = ["from_nnx"]


def from_nnx(
    model: nnx.Module | Callable[[nnx.Rngs], nnx.Module],
    loss: LossFn,
    *,
    metrics: Mapping[str, Metric] | None = None,
    inputs: str = "image",
    targets: str = "label",
) -> Objective:
    """An objective from a Flax NNX module, or better from the function that builds it.

    Parameters and state are plain dictionaries, so paths read ``linear1/kernel``. The module runs
    in ``train()`` mode for training and in ``eval()`` mode otherwise. Its random streams are set
    anew from the step's key at each call, so a dropout mask belongs to the whole array: it is the
    same under ``jit`` on any number of devices, but differs under ``pmap`` or microbatches (use
    Linen and ``supervised`` for dropout by example).

    Args:
        model: ``rngs -> module``, called inside the jitted init. A module that is built already
            starts from its present weights, which then are constants of the init program.
        loss: ``(outputs, batch[targets]) -> values`` of shape ``[B]`` or ``[B, T]``, unreduced.
        metrics: measured on each training batch too.
        inputs: the batch field that the model reads.
        targets: the batch field that the loss reads.

    Returns:
        An ``Objective``.

    Raises:
        ObjectiveError: ``model`` is neither an NNX module nor a function that returns one.
        BatchError: while tracing, when a field is missing or the mask does not fit.

    Examples:
        >>> from flax import nnx
        >>> objective = from_nnx(lambda rngs: nnx.Linear(3, 1, rngs=rngs),
        ...                      lambda y, t: (y[:, 0] - t) ** 2, inputs="x", targets="y")
        >>> params, state = objective.init(jax.random.key(0), {"x": jnp.ones((4, 3))})
        >>> sorted(params)
        ['bias', 'kernel']
    """
    template = _template(model)
    shapes: dict[bool, tuple[Any, ...]] = {}
    for train in (True, False):
        _ = template.train() if train else template.eval()
        shapes[train] = nnx.split(template, nnx.Param, nnx.RngState, ...)
    measured = dict(metrics or {})

    def init(key: Any, batch: Batch) -> tuple[Params, ModelState]:
        del batch
        built = model if isinstance(model, nnx.Module) else model(nnx.Rngs(key))
        _, params, _, rest = nnx.split(built, nnx.Param, nnx.RngState, ...)
        return nnx.to_pure_dict(params), nnx.to_pure_dict(rest)

    def loss_sum(
        params: Params, model_state: ModelState, batch: Batch, key: Any, *, train: bool
    ) -> tuple[Any, Aux]:
        graph, param_shapes, streams, rest_shapes = shapes[train]
        module = nnx.merge(
            graph,
            _filled(param_shapes, params),
            _streams(streams, key),
            _filled(rest_shapes, model_state),
        )
        options = call_options(template, batch, train=train)
        outputs = module(field(batch, inputs), **options)
        if train:
            _, _, _, rest = nnx.split(module, nnx.Param, nnx.RngState, ...)
            model_state = nnx.to_pure_dict(rest)
        return summed(outputs, batch, model_state, loss=loss, targets=targets, metrics=measured)

    return Objective(init, loss_sum)


def _template(model: Any) -> Any:
    if isinstance(model, nnx.Module):
        return nnx.clone(model)
    built = nnx.eval_shape(lambda: model(nnx.Rngs(0))) if callable(model) else None
    if not isinstance(built, nnx.Module):
        raise ObjectiveError(
            f"from_nnx got a {type(model).__name__}",
            expected="a flax.nnx.Module, or a function rngs -> Module",
            do="use objectives.supervised for a Linen module, or write Objective by hand",
        )
    return built


def _filled(shapes: PyTree, values: PyTree) -> PyTree:
    """A state of the template's structure that holds ``values``."""
    state = jax.tree.map(lambda x: x, shapes)
    nnx.replace_by_pure_dict(state, values)
    return state


def _streams(shapes: PyTree, key: Any) -> PyTree:
    """The module's random streams, each with its own key of this call and its counter at 0."""
    leaves, structure = jax.tree.flatten(shapes)
    fresh = [
        jax.random.fold_in(key, index)
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        else jnp.zeros(leaf.shape, leaf.dtype)
        for index, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(structure, fresh)
