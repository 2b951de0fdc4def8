"""The rows of a batch one by one: how many, which are real, in which parts, and what must not know
of them.

Reads from: errors, layouts, protocols, tree_paths. Used by: gradients.private.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxdl.errors import BatchError, ObjectiveError
from jaxdl.layouts import nearest_sizes
from jaxdl.protocols import MASK, Batch, ModelState, PyTree
from jaxdl.tree_paths import leaf_paths

__all__ = ["count_rows", "cut", "of_no_row", "real_rows"]


def count_rows(batch: Batch) -> int:
    """How many rows a batch has, padding included.

    Args:
        batch: a pytree of arrays ``[B, ...]``.

    Raises:
        BatchError: it has no field, or fields differ in rows.

    Examples:
        >>> count_rows({"image": jnp.zeros((3, 2)), "label": jnp.zeros(3)})
        3
    """
    shapes = [jnp.shape(x) for x in jax.tree.leaves(batch)]
    rows = {shape[0] if shape else None for shape in shapes}
    if len(rows) != 1 or None in rows:
        named = dict(zip(leaf_paths(batch), map(list, shapes), strict=True))
        raise BatchError(
            f"the fields of the batch have the shapes {named or 'none'}",
            expected="one row an example in every field: the same first axis",
            do="give what all examples share to the objective, not to the batch",
        )
    return rows.pop() or 0


def real_rows(batch: Batch) -> jax.Array:
    """Which rows are no padding: those with an entry of the ``mask`` that is not 0.

    Args:
        batch: with or without a mask of ``[B]`` or ``[B, T]``.

    Returns:
        Booleans ``[B]``.

    Examples:
        >>> real_rows({"mask": jnp.array([[1.0, 0.0], [0.0, 0.0]])}).tolist()
        [True, False]
    """
    rows = count_rows(batch)
    mask = batch.get(MASK) if isinstance(batch, Mapping) else None
    if mask is None:
        return jnp.ones(rows, bool)
    return jnp.any((jnp.asarray(mask) != 0).reshape(rows, -1), axis=1)


def cut(tree: PyTree, rows: int, parts: int) -> PyTree:
    """The rows in equal parts, stacked: ``[B, ...]`` as ``[parts, B / parts, ...]``.

    Part ``i`` takes rows ``i, i + n, i + 2n, ...``: rows that lie on one device stay there.

    Args:
        tree: arrays of ``B`` rows.
        rows: ``B``.
        parts: ``n``.

    Raises:
        BatchError: the rows do not divide, or there is none.
    """
    if rows % parts or rows == 0:
        raise BatchError(
            f"{rows} rows on each device do not divide into {parts} microbatches",
            expected=f"a multiple of {parts}, such as {nearest_sizes(rows, parts)}",
            do="change the batch size (data.PoissonBatches has multiple_of=) or the number of "
            "microbatches",
        )

    def split(field: Any) -> Any:
        return jnp.swapaxes(field.reshape(rows // parts, parts, *field.shape[1:]), 0, 1)

    return jax.tree.map(split, tree)


@jax.custom_batching.custom_vmap
def _of_no_row(model_state: ModelState) -> ModelState:
    return model_state


@_of_no_row.def_vmap
def _(axis_size: int, in_batched: list[Any], model_state: ModelState) -> tuple[Any, Any]:
    del axis_size
    (batched,) = in_batched
    if any(jax.tree.leaves(batched)):
        paths = [
            path
            for path, known in zip(leaf_paths(model_state), jax.tree.leaves(batched), strict=True)
            if known
        ]
        raise ObjectiveError(
            f"the state of the model depends on the batch: {', '.join(paths[:4])}",
            expected="a model that keeps nothing of the data beside its parameters",
            do="batch normalisation mixes rows, and its running statistics would be published "
            "without noise: use layer, group or RMS normalisation, or frozen statistics",
        )
    return model_state, batched


def of_no_row(model_state: ModelState) -> ModelState:
    """The state of the model, of which it is checked that no row of the batch had a part in it.

    Args:
        model_state: the state after one row, within a ``jax.vmap`` over rows.

    Raises:
        ObjectiveError: while tracing, when it depends on the row.
    """
    return _of_no_row(model_state) if jax.tree.leaves(model_state) else model_state
