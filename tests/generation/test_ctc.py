"""CTC decoding: the best path by hand, the beam against the sum over all alignments."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.errors import BatchError, ConfigError
from jaxdl.generation.ctc import ctc_beam_search, ctc_greedy


def collapsed(path, blank):
    merged = [label for label, _ in itertools.groupby(path)]
    return tuple(label for label in merged if label != blank)


def enumerated(log_probs, blank):
    """The log probability of every row of labels, by all paths."""
    found = {}
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(log_probs)):
        score = sum(log_probs[t, k] for t, k in enumerate(path))
        row = collapsed(path, blank)
        found[row] = np.logaddexp(found.get(row, -np.inf), score)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("blank", [0, 2])
def test_a_wide_beam_finds_every_row_with_its_whole_probability(blank):
    logits = 2 * np.random.default_rng(blank).normal(size=(3, 4, 3)).astype(np.float32)
    lengths = np.array([4, 3, 1])
    mask = np.arange(4)[None] < lengths[:, None]
    tokens, scores = jax.jit(lambda x, m: ctc_beam_search(x, m, beam_size=40, blank=blank))(
        logits, mask
    )
    for row in range(3):
        log_probs = np.asarray(jax.nn.log_softmax(logits[row, : lengths[row]]), np.float64)
        expected = enumerated(log_probs, blank)
        real = np.asarray(scores[row]) > -1e29
        got = {
            tuple(int(t) for t in prefix if t != blank): float(score)
            for prefix, score in zip(tokens[row][real], scores[row][real], strict=True)
        }
        assert len(got) == real.sum()
        assert got.keys() == expected.keys()
        for prefix, score in got.items():
            assert score == pytest.approx(expected[prefix], abs=1e-4)
        assert (np.diff(scores[row]) <= 0).all()


def test_greedy_is_the_collapsed_best_path():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(6, 12, 3)).astype(np.float32)
    mask = np.arange(12)[None] < rng.integers(0, 13, 6)[:, None]
    got = ctc_greedy(logits, mask, blank=1)
    for row in range(6):
        best = logits[row].argmax(-1)[mask[row]]
        expected = collapsed(best.tolist(), 1)
        assert tuple(int(t) for t in got[row] if t != 1) == expected
        assert (np.asarray(got[row, len(expected) :]) == 1).all()


def test_the_beam_adds_up_what_the_best_path_misses():
    logits = jnp.log(jnp.array([[[0.6, 0.4], [0.6, 0.4]]]))
    assert ctc_greedy(logits)[0].tolist() == [0, 0]
    tokens, _ = ctc_beam_search(logits, beam_size=3)
    assert tokens[0, 0].tolist() == [1, 0]


def test_scores_of_extensions_change_the_choice_and_are_counted_once():
    logits = jnp.log(jnp.array([[[0.1, 0.5, 0.4], [0.8, 0.1, 0.1]]]))
    favour = jnp.array([0.0, 0.0, 3.0])

    def scores_of(tokens, lengths):
        return jnp.broadcast_to(favour[None], (tokens.shape[0], 3))

    plain = dict(zip(*paired(ctc_beam_search(logits, beam_size=30)), strict=True))
    tokens, scores = paired(ctc_beam_search(logits, beam_size=30, extension_scores=scores_of))
    assert tokens[0] == (2,)
    for row, score in zip(tokens, scores, strict=True):
        assert score == pytest.approx(plain[row] + 3.0 * row.count(2), abs=1e-4)


def paired(found):
    tokens, scores = found
    real = np.asarray(scores[0]) > -1e29
    rows = [tuple(int(t) for t in row if t) for row in tokens[0][real]]
    return rows, [float(s) for s in scores[0][real]]


def test_rows_are_at_most_as_long_as_asked():
    logits = np.random.default_rng(0).normal(size=(2, 6, 4)).astype(np.float32)
    tokens, scores = ctc_beam_search(logits, beam_size=5, max_length=2)
    assert tokens.shape == (2, 5, 2)
    assert np.isfinite(scores).all()


def test_wrong_arguments_are_told():
    with pytest.raises(BatchError, match="the blank is 3"):
        ctc_greedy(jnp.zeros((1, 2, 3)), blank=3)
    with pytest.raises(BatchError, match="at least one frame"):
        ctc_greedy(jnp.zeros((2, 0, 3)))
    with pytest.raises(BatchError, match="the mask"):
        ctc_greedy(jnp.zeros((1, 2, 3)), jnp.ones((1, 3)))
    with pytest.raises(ConfigError, match="beam_size is 0"):
        ctc_beam_search(jnp.zeros((1, 2, 3)), beam_size=0)
