"""Labels from the frames of a CTC model: the best path, or a beam over prefixes.

Reads from: errors. Used by: recipes, by choice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdl.errors import BatchError, ConfigError

__all__ = ["ctc_beam_search", "ctc_greedy"]

_NEVER = -1e30


def ctc_greedy(logits: Any, mask: Any = None, *, blank: int = 0) -> jax.Array:
    """The best class of each frame, repeats merged, then blanks removed.

    Source: Graves et al. 2006, "Connectionist temporal classification", section 3.2 (best path).

    Args:
        logits: floats, shape ``[B, T, K]``.
        mask: shape ``[B, T]``, 0 on padding.
        blank: the class that is no label.

    Returns:
        int32, shape ``[B, T]``: the labels, then ``blank``.

    Raises:
        BatchError: shapes do not go together.

    Examples:
        >>> best = jnp.array([[1, 1, 0, 1, 2]])
        >>> ctc_greedy(jax.nn.one_hot(best, 3)).tolist()
        [[1, 1, 2, 0, 0]]
    """
    logits, real = _checked(logits, mask, blank)
    best = jnp.where(real, jnp.argmax(logits, axis=-1), blank).astype(jnp.int32)
    before = jnp.pad(best[:, :-1], ((0, 0), (1, 0)), constant_values=blank)
    kept = (best != blank) & (best != before)
    order = jnp.argsort(~kept, axis=1, stable=True)
    return jnp.take_along_axis(jnp.where(kept, best, blank), order, axis=1)


class _Beam(NamedTuple):
    """The prefixes of one row: ``W`` of them, best first.

    Attributes:
        tokens: ``[W, N]``, filled up with the blank.
        lengths: ``[W]``.
        in_blank: ``[W]``, log probability of the alignments that end in a blank.
        in_label: ``[W]``, of those that end in the last label.
        bonus: ``[W]``, what ``extension_scores`` gave in all.
    """

    tokens: jax.Array
    lengths: jax.Array
    in_blank: jax.Array
    in_label: jax.Array
    bonus: jax.Array


def ctc_beam_search(
    logits: Any,
    mask: Any = None,
    *,
    beam_size: int = 16,
    max_length: int | None = None,
    blank: int = 0,
    extension_scores: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
) -> tuple[jax.Array, jax.Array]:
    """The most probable rows of labels, the alignments of each added up.

    Prefixes are followed frame by frame, all alignments of a prefix as one. Without
    ``extension_scores`` the result is exact when the beam holds every prefix. Source: Hannun et
    al. 2014, arXiv:1408.2873, algorithm 1 (a language model enters by ``extension_scores``).

    Args:
        logits: floats, shape ``[B, T, K]``.
        mask: shape ``[B, T]``, 0 on padding.
        beam_size: ``W``, how many prefixes are kept after each frame.
        max_length: ``N``, the most labels of a row; ``T`` when ``None``.
        blank: the class that is no label.
        extension_scores: ``(tokens [W, N], lengths [W]) -> [W, K]``, what is added to the score
            of a prefix for each label that follows it, such as a weighted log probability and a
            bonus for length. It is part of the compiled program.

    Returns:
        ``(tokens, scores)``: int32 ``[B, W, N]``, filled up with ``blank``, best first; float32
        ``[B, W]``, log probability and bonus. Places that no prefix took score below -1e29.

    Raises:
        BatchError: shapes do not go together.
        ConfigError: ``beam_size`` or ``max_length`` is below 1.

    Examples:
        >>> logits = jnp.log(jnp.array([[[0.6, 0.4], [0.6, 0.4]]]))
        >>> tokens, scores = ctc_beam_search(logits, beam_size=2)
        >>> tokens[0].tolist(), [round(float(x), 2) for x in jnp.exp(scores[0])]
        ([[1, 0], [0, 0]], [0.64, 0.36])
    """
    logits, real = _checked(logits, mask, blank)
    length = logits.shape[1] if max_length is None else max_length
    if beam_size < 1 or length < 1:
        raise ConfigError(
            f"beam_size is {beam_size} and max_length {length}",
            expected="both at least 1",
            do="leave max_length out for the number of frames",
        )
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)

    def search(log_probs: jax.Array, real: jax.Array) -> tuple[jax.Array, jax.Array]:
        def body(beam: _Beam, frame: Any) -> tuple[_Beam, None]:
            probs, counts = frame
            new = _advanced(beam, probs, blank, extension_scores)
            return jax.tree.map(lambda a, b: jnp.where(counts, a, b), new, beam), None

        beam, _ = jax.lax.scan(body, _first(beam_size, length, blank), (log_probs, real))
        return beam.tokens, jnp.logaddexp(beam.in_blank, beam.in_label) + beam.bonus

    return jax.vmap(search)(log_probs, real)


def _first(width: int, length: int, blank: int) -> _Beam:
    never = jnp.full((width,), _NEVER)
    return _Beam(
        jnp.full((width, length), blank, jnp.int32),
        jnp.zeros((width,), jnp.int32),
        never.at[0].set(0.0),
        never,
        jnp.zeros((width,)),
    )


def _advanced(
    beam: _Beam, probs: jax.Array, blank: int, extension_scores: Callable[..., jax.Array] | None
) -> _Beam:
    """The beam after one more frame, whose log probabilities are ``probs [K]``."""
    width, length = beam.tokens.shape
    classes = probs.shape[0]
    total = jnp.logaddexp(beam.in_blank, beam.in_label)
    last = jnp.take_along_axis(beam.tokens, jnp.maximum(beam.lengths - 1, 0)[:, None], axis=1)
    last = jnp.where(beam.lengths > 0, last[:, 0], blank)
    # A label after itself needs a blank between, or it would be the same one, held.
    every = jnp.arange(classes)[None]
    same = every == last[:, None]
    longer = jnp.where(same, beam.in_blank[:, None], total[:, None]) + probs[None]
    open_end = (every != blank) & (beam.lengths < length)[:, None]
    longer = jnp.where(open_end, longer, _NEVER)
    in_blank = total + probs[blank]
    in_label = jnp.where(beam.lengths > 0, beam.in_label + probs[last], _NEVER)
    parent = _parents(beam, total > _NEVER / 2)
    joined = jnp.where(parent, longer[:, last], _NEVER)
    in_label = jnp.logaddexp(in_label, jnp.max(joined, axis=0))
    taken = jnp.any(parent[:, :, None] & same[None], axis=1)
    longer = jnp.where(taken, _NEVER, longer)
    bonus = jnp.zeros((width, classes))
    if extension_scores is not None:
        bonus = extension_scores(beam.tokens, beam.lengths)
    bonus = beam.bonus[:, None] + bonus
    stayed = jnp.logaddexp(in_blank, in_label) + beam.bonus
    scores = jnp.concatenate([stayed, (longer + bonus).reshape(-1)])
    _, chosen = jax.lax.top_k(scores, width)
    grown = chosen >= width
    source = jnp.where(grown, (chosen - width) // classes, chosen)
    label = jnp.where(grown, (chosen - width) % classes, blank).astype(jnp.int32)
    lengths = beam.lengths[source]
    place = (jnp.arange(length)[None] == lengths[:, None]) & grown[:, None]
    never = jnp.full((width,), _NEVER)
    return _Beam(
        jnp.where(place, label[:, None], beam.tokens[source]),
        lengths + grown,
        jnp.where(grown, never, in_blank[source]),
        jnp.where(grown, longer[source, label], in_label[source]),
        jnp.where(grown, bonus[source, label], beam.bonus[source]),
    )


def _parents(beam: _Beam, real: jax.Array) -> jax.Array:
    """``[i, j]``: prefix ``j`` is prefix ``i`` and a label, which a longer ``i`` then is too."""
    within = jnp.arange(beam.tokens.shape[1])[None] < beam.lengths[:, None]
    agree = jnp.all((beam.tokens[:, None] == beam.tokens[None]) | ~within[:, None], axis=-1)
    longer = beam.lengths[:, None] + 1 == beam.lengths[None]
    return agree & longer & real[:, None] & real[None]


def _checked(logits: Any, mask: Any, blank: int) -> tuple[jax.Array, jax.Array]:
    logits = jnp.asarray(logits)
    shape = logits.shape[:2]
    fits = logits.ndim == 3 and logits.shape[1] > 0 and 0 <= blank < logits.shape[-1]
    if not fits or (mask is not None and jnp.shape(mask) != shape):
        raise BatchError(
            f"logits have shape {list(logits.shape)}, the mask "
            f"{None if mask is None else list(jnp.shape(mask))}, the blank is {blank}",
            expected="[B, T, K] with at least one frame, [B, T] or None, and a class",
            do="pass what the model returned for a batch",
        )
    return logits, jnp.ones(shape, bool) if mask is None else jnp.asarray(mask) != 0
