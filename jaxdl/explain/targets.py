"""Which score of each row is explained, and what every method checks before it computes.

Reads from: errors, reductions. Used by: the rest of explain.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from jaxdl.errors import BatchError, ConfigError, ObjectiveError
from jaxdl.reductions import expand_mask, whole_numbers

__all__ = [
    "ScoreFn",
    "Targets",
    "at_mask",
    "check_inputs",
    "check_scores",
    "chosen",
    "wide",
]

ScoreFn: TypeAlias = Callable[[Any], Any]
"""``inputs [B, ...] -> scores [B, K]``, or ``[B]``, or ``[B, ..., K]``. No row may depend on
another, so dropout and batch statistics are off."""

Targets: TypeAlias = Any
"""Which score of a row: ``None`` of scores ``[B]`` or ``[B, 1]``; an integer, the same for all
rows, or integers ``[B]``, of scores ``[B, K]``; a tuple of ``r`` integers, the same for all rows,
or integers ``[B, r]``, of scores with ``r`` axes after the first."""


def wide(dtype: Any) -> Any:
    """The dtype of attributions: float32, or wider where the values are.

    Args:
        dtype: of the values.
    """
    return jnp.promote_types(dtype, jnp.float32)


def check_inputs(inputs: Any, method: str) -> jax.Array:
    """The inputs as an array that has a gradient.

    Args:
        inputs: floats, shape ``[B, ...]``.
        method: who asks, for the message.

    Raises:
        BatchError: they are no floating-point array with rows.
    """
    inputs = jnp.asarray(inputs)
    if not jnp.issubdtype(inputs.dtype, jnp.floating) or inputs.ndim < 1 or not inputs.size:
        raise BatchError(
            f"{method} got inputs of shape {list(inputs.shape)} and dtype {inputs.dtype}",
            expected="floating-point inputs [B, ...] of at least one row",
            do="scale images first (models.to_float gives 0 .. 1); explain tokens by "
            "explain.token_attributions",
        )
    return inputs


def chosen(scores: Any, targets: Targets) -> jax.Array:
    """The score of each row that is explained, float32 or wider, ``[B]``.

    A target that is a traced value cannot be checked before it is computed: where it is out of
    range the row's score is NaN, and its attributions with it.

    Args:
        scores: ``[B, ...]``.
        targets: see ``Targets``.

    Raises:
        ObjectiveError: the scores have no axis of rows.
        BatchError: the targets do not fit the scores, or are out of range.
        ConfigError: there are several scores a row and no target.

    Examples:
        >>> scores = jnp.array([[1.0, 2.0], [3.0, 4.0]])
        >>> chosen(scores, 1).tolist(), chosen(scores, jnp.array([1, 0])).tolist()
        ([2.0, 4.0], [2.0, 3.0])
    """
    check_scores(scores)
    rows, places = scores.shape[0], scores.shape[1:]
    scores = scores.astype(wide(scores.dtype))
    if targets is None:
        if scores.size != rows:
            raise ConfigError(
                f"the scores have shape {list(scores.shape)} and there is no target",
                expected="targets: which of a row's scores is to be explained",
                do="give a class, or one class a row such as jnp.argmax(scores, axis=-1)",
            )
        return scores.reshape(rows)
    index = _index(targets, rows, places)
    if isinstance(index, np.ndarray):
        _check_range(index, places)
    index = whole_numbers(index)
    limits = jnp.asarray(places, index.dtype)
    fits = jnp.all((index >= 0) & (index < limits[None]), axis=1)
    safe = jnp.where(fits[:, None], index, 0)
    # By comparison, as an index into rows that lie on several devices would gather them all.
    own = jnp.ones(scores.shape, bool)
    for axis in range(1, scores.ndim):
        at = jax.lax.broadcasted_iota(index.dtype, scores.shape, axis)
        own &= at == safe[:, axis - 1].reshape(-1, *[1] * len(places))
    picked = jnp.sum(jnp.where(own, scores, 0), axis=tuple(range(1, scores.ndim)))
    # A factor, so that the gradient of a row without such a score is NaN too, and not 0.
    return picked * jnp.where(fits, 1.0, jnp.nan).astype(scores.dtype)


def check_scores(scores: Any) -> None:
    """Scores are a floating-point array with rows.

    Args:
        scores: what a function returned.

    Raises:
        ObjectiveError: they are something else.
    """
    there = hasattr(scores, "shape") and hasattr(scores, "dtype")
    if not there or not scores.shape or not jnp.issubdtype(scores.dtype, jnp.floating):
        got = f"{scores.dtype}{list(scores.shape)}" if there else type(scores).__name__
        raise ObjectiveError(
            f"the function to be explained returned {got}",
            expected="floating-point scores, [B], [B, K] or [B, ..., K]",
            do="wrap it in a function that returns the scores alone",
        )


def _index(targets: Targets, rows: int, places: tuple[int, ...]) -> Any:
    """Targets of any form as integers ``[B, r]``, of NumPy where they are known already."""
    everywhere = isinstance(targets, tuple)
    traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(targets))
    index: Any = jnp.asarray(targets) if traced else np.asarray(targets)
    shape = index.shape
    if not np.issubdtype(index.dtype, np.integer) or not places:
        raise BatchError(
            f"targets of dtype {index.dtype} for scores {[rows, *places]}",
            expected="integers, or None for scores [B]",
            do="give the number of a class",
        )
    if index.ndim == 0:
        index, everywhere = index[None], True
    if everywhere and index.shape == (len(places),):
        return index[None].repeat(rows, axis=0)
    if not everywhere and index.shape == (rows,) and len(places) == 1:
        return index[:, None]
    if not everywhere and index.shape == (rows, len(places)):
        return index
    raise BatchError(
        f"targets of shape {list(shape)} for scores {[rows, *places]}",
        expected=f"an integer or [{rows}] of them, one class a row"
        if len(places) == 1
        else f"a tuple of {len(places)} integers, or an array [{rows}, {len(places)}]",
        do="give one target for all rows, or one for each",
    )


def _check_range(index: npt.NDArray[Any], places: tuple[int, ...]) -> None:
    wrong = np.argwhere((index < 0) | (index >= np.asarray(places)[None]))
    if wrong.size:
        row, axis = wrong[0]
        raise BatchError(
            f"the target of row {row} is {index[row, axis]}",
            expected=f"from 0 to {places[axis] - 1}",
            do="check how labels are numbered; leave rows out that have none",
        )


def at_mask(attributions: jax.Array, mask: Any) -> jax.Array:
    """Attributions with 0 on padding.

    Args:
        attributions: shape ``[B, ...]``.
        mask: 0 on padding, shape a prefix of it; ``None`` when there is none.

    Raises:
        BatchError: the mask does not fit.
    """
    if mask is None:
        return attributions
    kept = expand_mask(mask, attributions.shape) != 0
    return jnp.where(kept, attributions, jnp.zeros_like(attributions))
