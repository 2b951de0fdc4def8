"""Beam search: the likeliest rows of tokens, by a step function and a fixed number of candidates.

Reads from: errors. Used by: generation.translating, by choice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdl.errors import BatchError, ConfigError

__all__ = ["Beams", "beam_search", "row_axis"]

Step = Callable[[jax.Array, Any], tuple[jax.Array, Any]]


class Beams(NamedTuple):
    """What a search found, the best of each row first.

    Attributes:
        tokens: integers ``[B, K, T]``, with the end token, without the start token, padded.
        lengths: how many tokens, ``[B, K]``, the end token among them.
        scores: float32 ``[B, K]``: the log-probability over the length penalty; minus infinity
            where a row has fewer than ``K``.
        ended: booleans ``[B, K]``: false where ``max_length`` came before the end token. Those
            come after all that ended.
    """

    tokens: jax.Array
    lengths: jax.Array
    scores: jax.Array
    ended: jax.Array


class _Search(NamedTuple):
    """The loop's state: open hypotheses, the best that ended, and the model's state."""

    time: jax.Array
    tokens: jax.Array
    log_probs: jax.Array
    ended: Beams
    state: Any


class _Rules(NamedTuple):
    """The settings of a search."""

    start: int
    end: int
    pad: int
    max_length: int
    beams: int
    length_penalty: float
    early_stopping: bool


def row_axis(path: str, leaf: Any) -> int | None:
    """Where the rows are in a leaf of a model's cache, by jaxdl's rules.

    Args:
        path: names joined by ``/``. Below ``blocks``, of scanned layers, the first axis is that of
            the layers.
        leaf: the array.

    Returns:
        The axis, or ``None`` for a leaf that all rows share, such as a count of tokens.

    Examples:
        >>> row_axis("block_0/attention/cached_key", jnp.zeros((2, 5, 1, 4)))
        0
    """
    axis = 1 if "blocks" in path.split("/") else 0
    return axis if jnp.ndim(leaf) > axis else None


def beam_search(
    step: Step,
    state: Any,
    *,
    rows: int,
    start_token: int,
    end_token: int,
    max_length: int,
    beams: int = 4,
    length_penalty: float = 0.6,
    early_stopping: bool | None = None,
    pad_token: int = 0,
    rows_of: Callable[[str, Any], int | None] = row_axis,
) -> Beams:
    r"""The likeliest continuations of each row that ``beams`` candidates at a time can find.

    At each step the ``2 K`` best continuations of a row's ``K`` open hypotheses are taken. Of those
    among the best ``K`` that end, the ``K`` best so far are kept; the ``K`` best that do not end
    stay open. Hypotheses are compared by :math:`\log P(Y) / lp(Y)` with
    :math:`lp(Y) = ((5 + |Y|) / 6)^\alpha`, Wu et al. 2016, arXiv:1609.08144, section 7; :math:`|Y|`
    counts the end token.

    Shapes are fixed, and the loop is a ``lax.while_loop``: call it under ``jax.jit``. The result of
    a row does not depend on the other rows. One beam is greedy decoding; with as many beams as
    there are rows of ``max_length`` tokens the search is exact.

    Args:
        step: ``(tokens [R], state) -> (logits [R, V], state)``: reads one more token of each row.
            ``R`` is ``rows * beams``.
        state: the model's state before the first token, such as its cache, for ``rows`` rows.
        rows: ``B``.
        start_token: what each row begins with.
        end_token: what ends a row.
        max_length: ``T``, the most tokens of a result, the end token among them. A cache must have
            room for as many.
        beams: ``K``.
        length_penalty: :math:`\alpha`, at least 0; at 0 the log-probability alone decides, larger
            favours longer results.
        early_stopping: a row is done when it has ``K`` results, however poor. Else it goes on while
            an open hypothesis could still become better than the worst of them. ``None``: with one
            beam only, which makes that greedy.
        pad_token: what follows the end token in the result.
        rows_of: ``(path, leaf) -> axis`` of the rows in each leaf of ``state``, ``None`` where
            there are none.

    Returns:
        ``K`` results for each row, the best first.

    Raises:
        ConfigError: a setting is out of range.
        BatchError: a leaf of the state has other rows, or the logits are no ``[R, V]``.

    Examples:
        >>> def step(tokens, state):
        ...     logits = jnp.log(jnp.array([[0.1, 0.3, 0.6]]))
        ...     return jnp.repeat(logits, len(tokens), axis=0), state
        >>> found = beam_search(step, {}, rows=1, start_token=0, end_token=1, max_length=2, beams=2)
        >>> found.tokens.tolist(), found.ended.tolist()
        ([[[1, 0], [2, 1]]], [[True, True]])
    """
    early = beams == 1 if early_stopping is None else early_stopping
    rules = _Rules(start_token, end_token, pad_token, max_length, beams, length_penalty, early)
    _check(rules, rows)
    axes = _axes(state, rows, rows_of)
    leaves, structure = jax.tree.flatten(state)
    repeated = [
        leaf if axis is None else jnp.repeat(leaf, beams, axis)
        for leaf, axis in zip(leaves, axes, strict=True)
    ]
    first = _first(rules, rows, jax.tree.unflatten(structure, repeated))

    def body(search: _Search) -> _Search:
        return _advanced(search, step, rules, axes)

    def unfinished(search: _Search) -> jax.Array:
        return (search.time < max_length) & ~jnp.all(_done(search, rules))

    return _result(jax.lax.while_loop(unfinished, body, first), rules)


def _first(rules: _Rules, rows: int, state: Any) -> _Search:
    shape = rows, rules.beams
    tokens = jnp.full((*shape, rules.max_length), rules.pad, jnp.int32)
    nothing = jnp.full(shape, -jnp.inf, jnp.float32)
    none = Beams(tokens, jnp.zeros(shape, jnp.int32), nothing, jnp.zeros(shape, bool))
    # All hypotheses of a row are the same at first: one of them counts.
    return _Search(jnp.int32(0), tokens, nothing.at[:, 0].set(0.0), none, state)


def _advanced(search: _Search, step: Step, rules: _Rules, axes: list[int | None]) -> _Search:
    """One token more for every open hypothesis."""
    rows, beams = search.log_probs.shape
    at = jnp.maximum(search.time - 1, 0)
    last = jax.lax.dynamic_index_in_dim(search.tokens, at, axis=2, keepdims=False)
    last = jnp.where(search.time == 0, rules.start, last).reshape(-1)
    logits, state = step(last, search.state)
    _check_logits(logits, rows * beams, rules)
    count = logits.shape[-1]
    steps = jax.nn.log_softmax(logits.astype(jnp.float32)).reshape(rows, beams, count)
    every = (search.log_probs[:, :, None] + steps).reshape(rows, -1)
    log_probs, chosen = jax.lax.top_k(every, min(2 * beams, beams * count))
    parents, words = chosen // count, (chosen % count).astype(jnp.int32)
    tokens = jnp.take_along_axis(search.tokens, parents[:, :, None], axis=1)
    tokens = jax.lax.dynamic_update_slice_in_dim(tokens, words[:, :, None], search.time, axis=2)
    ends = words == rules.end
    ended = _with_ended(search, rules, tokens, log_probs, ends)
    kept, order = jax.lax.top_k(jnp.where(ends, -jnp.inf, log_probs), beams)
    tokens = jnp.take_along_axis(tokens, order[:, :, None], axis=1)
    parents = jnp.take_along_axis(parents, order, axis=1)
    return _Search(search.time + 1, tokens, kept, ended, _moved(state, parents, axes))


def _with_ended(
    search: _Search, rules: _Rules, tokens: jax.Array, log_probs: jax.Array, ends: jax.Array
) -> Beams:
    """The best that ended, now and before; unchanged in rows that are done."""
    among_best = jnp.arange(ends.shape[1])[None] < rules.beams
    scores = log_probs / _penalty(search.time + 1, rules)
    scores = jnp.where(ends & among_best & ~_done(search, rules)[:, None], scores, -jnp.inf)
    lengths = jnp.full_like(ends, 0, jnp.int32) + search.time + 1
    now = Beams(tokens, lengths, scores, scores > -jnp.inf)
    return _best(search.ended, now)


def _best(a: Beams, b: Beams) -> Beams:
    """As many of both as ``a`` has: what ended first, then by score; of equals those of ``a``."""
    both = jax.tree.map(lambda x, y: jnp.concatenate([x, y], axis=1), a, b)
    order = jnp.lexsort((-both.scores, ~both.ended), axis=1)[:, : a.scores.shape[1]]

    def picked(x: jax.Array) -> jax.Array:
        return jnp.take_along_axis(x, order.reshape(*order.shape, *(1,) * (x.ndim - 2)), axis=1)

    return jax.tree.map(picked, both)


def _done(search: _Search, rules: _Rules) -> jax.Array:
    """Which rows have all the results they will have, ``[B]``."""
    filled = jnp.all(search.ended.ended, axis=1)
    if rules.early_stopping:
        return filled
    # Log-probabilities only fall, and no length has a larger penalty than the longest.
    hope = jnp.max(search.log_probs, axis=1) / _penalty(rules.max_length, rules)
    return filled & (jnp.min(search.ended.scores, axis=1) >= hope)


def _result(search: _Search, rules: _Rules) -> Beams:
    """What ended, then what was still open."""
    scores = search.log_probs / _penalty(search.time, rules)
    lengths = jnp.full_like(scores, 0, jnp.int32) + search.time
    still = Beams(search.tokens, lengths, scores, jnp.zeros_like(scores, bool))
    both = _best(search.ended, still)
    there = both.scores > -jnp.inf
    lengths = jnp.where(there, both.lengths, 0)
    written = jnp.arange(rules.max_length)[None, None] < lengths[:, :, None]
    tokens = jnp.where(written, both.tokens, rules.pad)
    return Beams(tokens, lengths, both.scores, both.ended)


def _penalty(length: Any, rules: _Rules) -> jax.Array:
    return ((5.0 + jnp.asarray(length, jnp.float32)) / 6.0) ** rules.length_penalty


def _moved(state: Any, parents: jax.Array, axes: list[int | None]) -> Any:
    """The state of each hypothesis' parent in its place."""
    rows, beams = parents.shape
    index = (jnp.arange(rows)[:, None] * beams + parents).reshape(-1)
    leaves, structure = jax.tree.flatten(state)
    moved = [
        leaf if axis is None else jnp.take(leaf, index, axis=axis)
        for leaf, axis in zip(leaves, axes, strict=True)
    ]
    return jax.tree.unflatten(structure, moved)


def _axes(state: Any, rows: int, rows_of: Callable[[str, Any], int | None]) -> list[int | None]:
    found: list[int | None] = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        axis = rows_of(name, leaf)
        if axis is not None and (axis >= jnp.ndim(leaf) or jnp.shape(leaf)[axis] != rows):
            raise BatchError(
                f"the state's {name!r} has shape {list(jnp.shape(leaf))}",
                expected=f"{rows} rows on axis {axis}",
                do="make the state for the rows of the search, or say where they are by rows_of",
            )
        found.append(axis)
    return found


def _check(rules: _Rules, rows: int) -> None:
    counts = {"rows": rows, "max_length": rules.max_length, "beams": rules.beams}
    for name, value in counts.items():
        if value < 1:
            raise ConfigError(f"{name} is {value}", expected="at least 1", do=f"raise {name}")
    if not 0 <= rules.length_penalty < float("inf"):
        raise ConfigError(
            f"length_penalty is {rules.length_penalty}",
            expected="a finite number, at least 0",
            do="use 0 for none; Wu et al. took 0.2, Vaswani et al. 0.6",
        )
    if rules.start < 0 or rules.end < 0:
        raise ConfigError(
            f"start_token is {rules.start} and end_token {rules.end}",
            expected="token numbers, at least 0",
            do="ask the tokenizer for them",
        )


def _check_logits(logits: jax.Array, count: int, rules: _Rules) -> None:
    if logits.ndim != 2 or logits.shape[0] != count or logits.shape[1] < 2:
        raise BatchError(
            f"the step returned logits of shape {list(logits.shape)}",
            expected=f"[{count}, V]: one row a hypothesis, at least 2 words",
            do="return the last token's logits, without an axis of time",
        )
    if rules.end >= logits.shape[1]:
        raise ConfigError(
            f"end_token is {rules.end}, and the model has {logits.shape[1]} words",
            expected=f"a number from 0 to {logits.shape[1] - 1}",
            do="check that model and tokenizer go together",
        )
