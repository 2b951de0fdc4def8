"""A recipe under proof: its step, a few rows of its data, and the steps that should be the same.

Reads from: data, gradients, models, recipe, step, testing.proving, testing.sameness. Used by: cli,
tests.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxdl import data, gradients
from jaxdl.errors import JaxdlError
from jaxdl.models import stack_layers, unstack_layers
from jaxdl.protocols import MASK, Batch, Objective, Params, PyTree, TrainState
from jaxdl.recipe import Recipe, train_step
from jaxdl.recipe.parts import local
from jaxdl.step.shards import with_example_keys
from jaxdl.testing.proving import prove
from jaxdl.testing.report import Report
from jaxdl.testing.sameness import Variant

__all__ = ["few_rows", "mean_loss", "prove_recipe", "recomputed", "variants_of"]

_ROWS, _BATCHES, _DIFFERENTIATED = 16, 3, 4


def prove_recipe(
    recipe: Recipe,
    *,
    rows: int = _ROWS,
    batches: int = _BATCHES,
    devices: Sequence[int] = (1, 2, 8),
    scanned: Recipe | None = None,
    skip: Sequence[str] = (),
    fast: bool = False,
) -> Report:
    """Proves the step of a recipe on the first rows of its own batches.

    Besides what ``prove`` does, the step is held against itself in microbatches, with everything
    recomputed for the gradient, and with its layers scanned instead of unrolled or the other way
    round; and the gradient of its objective against finite differences.

    Args:
        recipe: the recipe.
        rows: of a batch, at most; few, since the rows of a step are alike.
        batches: how many.
        devices: as in ``prove``.
        scanned: the same recipe with the layers of its model stacked where they were not, or
            unrolled where they were stacked.
        skip: as in ``prove``.
        fast: as in ``prove``.

    Raises:
        ConfigError: as ``prove``.
        BatchError: the recipe's batches lack a field of its objective.
    """
    step, given = train_step(recipe), few_rows(recipe, rows, batches)
    # Made once: what a step draws and keeps is the same whichever variant reads it.
    state = jax.jit(step.init)(jax.random.key(recipe.seed), given[0])
    frozen = (recipe.freeze,) if isinstance(recipe.freeze, str) else tuple(recipe.freeze or ())
    if jax.tree.leaves(state.model_state):
        # A recipe runs under jit, where batch statistics are those of the whole batch.
        skip = (*skip, "pmap")
    return prove(
        step,
        given,
        state=state,
        devices=devices,
        variants=variants_of(recipe, state, scanned),
        loss=mean_loss(recipe.objective, state, rows=_DIFFERENTIATED),
        frozen=frozen,
        skip=skip,
        fast=fast,
        name=f"the step of {recipe.name!r}",
    )


def few_rows(recipe: Recipe, rows: int = _ROWS, batches: int = _BATCHES) -> list[Batch]:
    """The first rows of a recipe's first training batches, with a mask of rows.

    Args:
        recipe: the recipe.
        rows: at most; a multiple of 8 is kept where there are 8.
        batches: how many.
    """
    source = local(recipe.train)
    found: list[Batch] = []
    for index in range(batches):
        batch = source[index]
        count = min(rows, len(next(iter(batch.values()))))
        count -= count % 8 if count > 8 else 0
        short = {name: value[:count] for name, value in batch.items()}
        found.append(short if MASK in short else data.pad_batch(short, count))
    return found


def mean_loss(
    objective: Objective, state: TrainState, rows: int | None = None
) -> Callable[[Params, Batch], Any]:
    """The mean loss as a function of the parameters, in training, with the key of the first step.

    Args:
        objective: what is minimised.
        state: for its model state and its key.
        rows: how many of a batch are read, the first ones; all when ``None``.
    """
    # Read outside of a trace in which float64 is on.
    key = jax.random.fold_in(state.key, 0)

    def loss(params: Params, batch: Batch) -> Any:
        batch = with_example_keys(key, jax.tree.map(lambda x: x[:rows], batch), None)
        total, aux = objective.loss(params, state.model_state, batch, key, train=True)
        weight = jnp.asarray(aux.weight, total.dtype)
        return total / jnp.where(weight > 0, weight, 1)

    return loss


def variants_of(
    recipe: Recipe, state: TrainState, scanned: Recipe | None = None
) -> dict[str, Variant]:
    """Steps that should be a recipe's own, by name.

    Args:
        recipe: the recipe.
        state: its first.
        scanned: as in ``prove_recipe``.
    """
    again = dataclasses.replace(recipe, objective=recomputed(recipe.objective))
    found = {"everything recomputed": Variant(train_step(again).update)}
    if recipe.gradient is None and not jax.tree.leaves(state.model_state):
        try:
            # Batch statistics are those of a microbatch, another step by right.
            gradients.accumulate(2)(recipe.objective)
            cut = train_step(dataclasses.replace(recipe, gradient=gradients.accumulate(2)))
            found["2 microbatches"] = Variant(cut.update, draws_alike=False)
        except JaxdlError:
            pass
    if scanned is not None:
        there, back = _stacking(state.params)
        found["layers scanned or unrolled"] = Variant(
            train_step(scanned).update,
            functools.partial(_each_part, there),
            functools.partial(_each_part, back),
            draws_alike=False,
        )
    return found


def recomputed(objective: Objective) -> Objective:
    """An objective of which nothing is kept for the gradient: all is computed again.

    Args:
        objective: any.
    """

    def loss(params: Params, model_state: PyTree, batch: Batch, key: Any, *, train: bool) -> Any:
        whole = functools.partial(objective.loss, train=train)
        return jax.checkpoint(whole)(params, model_state, batch, key)

    return objective._replace(loss=loss)


def _stacking(params: Params) -> tuple[Callable[[Params], Params], Callable[[Params], Params]]:
    stacked = any("blocks" in each for each in _mappings(params))
    return (unstack_layers, stack_layers) if stacked else (stack_layers, unstack_layers)


def _mappings(tree: PyTree) -> list[Mapping[str, Any]]:
    if not isinstance(tree, Mapping):
        return []
    return [tree, *(each for part in tree.values() for each in _mappings(part))]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]


def _has_layers(tree: PyTree) -> bool:
    return isinstance(tree, Mapping) and ("blocks" in tree or "block_0" in tree)


def _each_part(convert: Callable[[Params], Params], state: PyTree) -> PyTree:
    """A state with every stack of layers in it converted: parameters, averages, moments."""
    return jax.tree.map(
        lambda part: convert(part) if _has_layers(part) else part, state, is_leaf=_has_layers
    )
