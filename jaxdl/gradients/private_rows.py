"""The rows of a batch one by one: how many, which are real, in which parts, and what must not know
of them.

Reads from: errors, protocols, tree_paths. Used by: gradients.private.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxdl.errors import BatchError, ObjectiveError
from jaxdl.protocols import EXAMPLE_KEY, MASK, Batch, ModelState
from jaxdl.tree_paths import leaf_paths

__all__ = ["count_rows", "cut", "of_no_row", "real_rows", "row_keys"]

_STREAM = 0x70726976
"""What tells a row's key here from the one that the objective finds in the batch."""


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
    counted = jnp.asarray(mask) != 0
    return jnp.any(counted, axis=tuple(range(1, counted.ndim)))


def row_keys(batch: Batch, key: Any) -> Any:
    """A key for each row, that of its place in the global batch where the step gave it one.

    Args:
        batch: with or without ``example_key``.
        key: the step's key; ``None`` gives none.

    Returns:
        Keys ``[B]``, or ``None``.
    """
    keys = batch.get(EXAMPLE_KEY) if isinstance(batch, Mapping) else None
    if keys is not None:
        return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, _STREAM)
    if key is None:
        return None
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(count_rows(batch)))


def cut(batch: Batch, real: jax.Array, parts: int) -> tuple[Batch, jax.Array]:
    """The rows in equal parts, stacked: ``[B, ...]`` as ``[parts, B / parts, ...]``.

    Part ``i`` takes rows ``i, i + n, i + 2n, ...``: rows that lie on one device stay there. Rows
    that do not divide are filled up with padding; of fewer rows than parts each is one.

    Args:
        batch: arrays of ``B`` rows.
        real: which rows are no padding, ``[B]``.
        parts: ``n``.

    Returns:
        The batch and ``real``, cut.

    Raises:
        BatchError: there is no row.

    Examples:
        >>> cut({"x": jnp.arange(5)}, jnp.ones(5, bool), 2)[0]["x"].tolist()
        [[0, 2, 4], [1, 3, 0]]
    """
    rows = len(real)
    if rows == 0:
        raise BatchError(
            "the batch has no row", expected="at least one", do="pad it with data.pad_batch"
        )
    parts = min(parts, rows)
    missing = -rows % parts
    if missing:
        order = jnp.concatenate([jnp.arange(rows), jnp.zeros(missing, int)])
        batch = jax.tree.map(lambda x: x[order], batch)
        real = jnp.pad(real, (0, missing))

    def split(field: Any) -> Any:
        return jnp.swapaxes(field.reshape(-1, parts, *field.shape[1:]), 0, 1)

    return jax.tree.map(split, (batch, real))


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
