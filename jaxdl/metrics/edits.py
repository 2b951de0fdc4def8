"""Error rates of rows of tokens: how many edits lead from what was found to what was meant.

Reads from: errors, protocols, reductions, metrics.selection, metrics.transcripts.
Used by: recipes, by choice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.errors import BatchError
from jaxdl.metrics.selection import targets_of
from jaxdl.metrics.transcripts import error_rate_of
from jaxdl.protocols import MASK, Batch, Mean, Metric
from jaxdl.reductions import expand_mask

__all__ = ["edit_distance", "token_error_rate", "word_error_rate"]


def edit_distance(found: Any, meant: Any, *, padding: int = 0) -> jax.Array:
    """The fewest insertions, deletions and substitutions between rows of tokens.

    Source: Levenshtein 1966; the table of Wagner and Fischer 1974, a row of it at a time.

    Args:
        found: integers, shape ``[B, N]``.
        meant: integers, shape ``[B, M]``.
        padding: the token that is none, wherever it stands; negative ones are none either.

    Returns:
        int32, shape ``[B]``.

    Raises:
        BatchError: they are no integers ``[B, N]`` and ``[B, M]``.

    Examples:
        >>> edit_distance(jnp.array([[1, 2, 0, 0]]), jnp.array([[1, 3, 2]])).tolist()
        [1]
    """
    found, meant = _checked(found, meant)
    (found, found_lengths), (meant, meant_lengths) = (_compact(x, padding) for x in (found, meant))
    equal = found[:, :, None] == meant[:, None]
    return _distances(equal, found_lengths, meant_lengths)


def token_error_rate(
    decode: Callable[..., Any],
    *,
    padding: int = 0,
    target: str = "label",
    name: str = "token_error_rate",
) -> Metric:
    """Edits by tokens that were meant; of characters it is the character error rate, CER.

    Args:
        decode: tokens ``[B, N]`` of the model's outputs, called as ``decode(*outputs)`` where
            these are a tuple: ``generation.ctc_greedy`` for ``objectives.ctc``.
        padding: the token that is none.
        target: the batch field of tokens that are meant, ``[B, M]``.
        name: what the value is reported as.

    Returns:
        A metric; the number of edits when nothing was meant, as ``error_rate_of``.
    """

    def measure(outputs: Any, batch: Batch) -> Mean:
        found, meant = _checked(_decoded(decode, outputs), targets_of(batch, target))
        edits = edit_distance(found, meant, padding=padding)
        return _summed(edits, jnp.sum(_real(meant, padding), axis=1), batch)

    return Metric(measure, lambda sums: {name: error_rate_of(np.stack(sums))})


def word_error_rate(
    decode: Callable[..., Any],
    *,
    separator: int,
    padding: int = 0,
    target: str = "label",
    name: str = "word_error_rate",
) -> Metric:
    """Edits of words by words that were meant, WER: a word is what stands between separators.

    Args:
        decode: as ``token_error_rate``.
        separator: the token between words; one that never comes makes each row one word.
        padding: the token that is none.
        target: the batch field of tokens that are meant, ``[B, M]``.
        name: what the value is reported as.

    Returns:
        A metric; the number of edits when nothing was meant, as ``error_rate_of``.
    """

    def measure(outputs: Any, batch: Batch) -> Mean:
        found, meant = _checked(_decoded(decode, outputs), targets_of(batch, target))
        length = max(found.shape[1], meant.shape[1])
        found, found_counts = _words(found, length, padding, separator)
        meant, meant_counts = _words(meant, length, padding, separator)
        equal = jnp.all(found[:, :, None] == meant[:, None], axis=-1)
        return _summed(_distances(equal, found_counts, meant_counts), meant_counts, batch)

    return Metric(measure, lambda sums: {name: error_rate_of(np.stack(sums))})


def _decoded(decode: Callable[..., Any], outputs: Any) -> Any:
    return decode(*outputs) if isinstance(outputs, tuple) else decode(outputs)


def _summed(edits: jax.Array, counts: jax.Array, batch: Batch) -> Mean:
    mask = batch.get(MASK)
    rows = jnp.ones(edits.shape, bool) if mask is None else expand_mask(mask, edits.shape) != 0
    # A row counts or not: a weight between would leave no whole number of edits.
    return Mean(*(jnp.sum(jnp.where(rows, x, 0)).astype(jnp.int32) for x in (edits, counts)))


def _checked(found: Any, meant: Any) -> tuple[jax.Array, jax.Array]:
    found, meant = jnp.asarray(found), jnp.asarray(meant)
    whole = all(jnp.issubdtype(x.dtype, jnp.integer) and x.ndim == 2 for x in (found, meant))
    if not whole or found.shape[0] != meant.shape[0]:
        raise BatchError(
            f"found {found.dtype} tokens {list(found.shape)} for {meant.dtype} {list(meant.shape)}",
            expected="integers [B, N] and [B, M]",
            do="decode the model's outputs to tokens first",
        )
    return found, meant


def _real(tokens: jax.Array, padding: int) -> jax.Array:
    return (tokens != padding) & (tokens >= 0)


def _compact(tokens: jax.Array, padding: int) -> tuple[jax.Array, jax.Array]:
    """Tokens moved to the left of their row, and how many there are."""
    real = _real(tokens, padding)
    order = jnp.argsort(~real, axis=1, stable=True)
    return jnp.take_along_axis(tokens, order, axis=1), jnp.sum(real, axis=1)


def _words(
    tokens: jax.Array, length: int, padding: int, separator: int
) -> tuple[jax.Array, jax.Array]:
    """Words ``[B, W, length]``, filled with -1, and how many each row has."""
    tokens, counts = _compact(tokens, padding)
    places = jnp.arange(tokens.shape[1])
    letter = (places[None] < counts[:, None]) & (tokens != separator)
    starts = letter & ~jnp.pad(letter[:, :-1], ((0, 0), (1, 0)))
    word = jnp.cumsum(starts, axis=1) - 1
    begun = jax.lax.cummax(jnp.where(starts, places[None], 0), axis=1)
    most = -(-length // 2)
    rows = jnp.broadcast_to(jnp.arange(tokens.shape[0])[:, None], tokens.shape)
    empty = jnp.full((tokens.shape[0], most, length), -1, tokens.dtype)
    at = (rows, jnp.where(letter, word, most), places[None] - begun)
    return empty.at[at].set(tokens, mode="drop"), jnp.sum(starts, axis=1)


def _distances(equal: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """Edits between ``rows[b]`` things and ``columns[b]``, equal where ``equal [B, N, M]``."""
    places = jnp.arange(equal.shape[2] + 1, dtype=jnp.int32)[None]
    first = jnp.broadcast_to(places, (equal.shape[0], places.shape[1]))

    def body(above: jax.Array, step: Any) -> tuple[jax.Array, None]:
        index, same = step
        changed = above[:, :-1] + jnp.where(same, 0, 1)
        best = jnp.concatenate([above[:, :1] + 1, jnp.minimum(above[:, 1:] + 1, changed)], axis=1)
        # Insertions along the row: the least of best[k] + j - k over all k up to j.
        best = jax.lax.cummin(best - places, axis=1) + places
        return jnp.where((index < rows)[:, None], best, above), None

    steps = jnp.arange(equal.shape[1]), jnp.swapaxes(equal, 0, 1)
    last, _ = jax.lax.scan(body, first, steps)
    return jnp.take_along_axis(last, columns[:, None], axis=1)[:, 0]
