"""Beam search against a search through every row of a tiny vocabulary, and its laws."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.errors import BatchError, ConfigError
from jaxdl.generation.beam import beam_search, row_axis
from jaxdl.generation.translating import translate
from jaxdl.models.transformer import Transformer

V, END, START = 3, 1, 0
RNG = np.random.default_rng(0)
# The logits of a token depend on the row, the time and the two tokens before it.
TABLE = 2.0 * RNG.normal(size=(5, 4, V, V, V)).astype(np.float32)


def step(tokens, state):
    rows = state["row"]
    logits = jnp.asarray(TABLE)[rows, state["time"], state["last"], tokens]
    return logits, {"row": rows, "time": state["time"] + 1, "last": tokens}


def begin(rows):
    rows = jnp.asarray(rows)
    return {"row": rows, "time": jnp.int32(0), "last": jnp.zeros(len(rows), jnp.int32)}


@functools.cache
def compiled(count, options):
    given = {"max_length": 3, "beams": 4, **dict(options)}
    return jax.jit(
        functools.partial(beam_search, step, rows=count, start_token=START, end_token=END, **given)
    )


def search(rows, **options):
    run = compiled(len(rows), tuple(sorted(options.items())))
    return jax.tree.map(np.asarray, run(begin(rows)))


def log_probs(row, tokens):
    total, before, last = 0.0, START, 0
    for time, token in enumerate(tokens):
        logits = TABLE[row, time, last, before].astype(np.float64)
        total += logits[token] - np.log(np.exp(logits).sum())
        last, before = before, token
    return total


def every_row(row, length, alpha):
    """All that can be written: ended within the length, or of that length; the best first."""
    found = []
    for size in range(1, length + 1):
        for tokens in itertools.product(range(V), repeat=size):
            ended = tokens[-1] == END
            if END in tokens[:-1] or not (ended or size == length):
                continue
            score = log_probs(row, tokens) / ((5 + size) / 6) ** alpha
            found.append((ended, score, tokens))
    return sorted(found, reverse=True)


@pytest.mark.parametrize(("alpha", "early_stopping"), [(0.0, False), (0.6, True), (2.0, False)])
def test_enough_beams_find_what_a_full_search_finds(alpha, early_stopping):
    rows = [0, 1, 2, 3, 4]
    options = {"beams": 27, "length_penalty": alpha, "early_stopping": early_stopping}
    found = search(rows, **options, pad_token=2)
    for place, row in enumerate(rows):
        expected = every_row(row, 3, alpha)
        for rank, (ended, score, tokens) in enumerate(expected):
            size = found.lengths[place, rank]
            assert tuple(found.tokens[place, rank, :size]) == tokens
            assert np.all(found.tokens[place, rank, size:] == 2)
            assert found.ended[place, rank] == ended
            np.testing.assert_allclose(found.scores[place, rank], score, rtol=1e-4)
        # Fewer rows can be written than there are beams.
        assert np.all(found.scores[place, len(expected) :] == -np.inf)
        assert not np.any(found.lengths[place, len(expected) :])


def greedy(row, length):
    tokens = []
    while len(tokens) < length and END not in tokens:
        tokens.append(max(range(V), key=lambda word: log_probs(row, [*tokens, word])))
    return tokens


@pytest.mark.parametrize("alpha", [0.0, 3.0])
def test_one_beam_is_greedy(alpha):
    found = search([0, 1, 2, 3, 4], beams=1, max_length=4, length_penalty=alpha)
    for row in range(5):
        expected = greedy(row, 4)
        assert found.tokens[row, 0, : found.lengths[row, 0]].tolist() == expected
        assert found.ended[row, 0] == (END in expected)


@pytest.mark.parametrize("early_stopping", [False, True])
def test_a_row_does_not_depend_on_the_others(early_stopping):
    together = search([0, 1, 2, 3, 4, 1], beams=2, max_length=4, early_stopping=early_stopping)
    for row in range(5):
        alone = search([row], beams=2, max_length=4, early_stopping=early_stopping)
        jax.tree.map(lambda a, b, r=row: np.testing.assert_array_equal(a[r], b[0]), together, alone)
    jax.tree.map(lambda x: np.testing.assert_array_equal(x[1], x[5]), together)


def test_going_on_finds_nothing_worse():
    stopped, on = (
        search([0, 1, 2, 3, 4], beams=2, max_length=4, early_stopping=e) for e in (True, False)
    )
    assert np.all(on.scores[:, 0] >= stopped.scores[:, 0] - 1e-6)


def test_poor_results_do_not_end_a_search():
    """A sure step: whatever else is kept is improbable, ended or not."""

    def sure(tokens, state):
        likely = jnp.where(state["time"] < 4, 2, END)
        logits = jnp.where(jnp.arange(V) == likely, 9.0, jnp.array([0.0, 1.0, 0.0]))
        return jnp.broadcast_to(logits, (len(tokens), V)), {**state, "time": state["time"] + 1}

    given = {"rows": 1, "start_token": 0, "end_token": END, "max_length": 6, "beams": 2}
    run = functools.partial(beam_search, sure, begin([0]), **given)
    assert run().tokens[0, 0].tolist() == [2, 2, 2, 2, END, 0]
    assert run(early_stopping=True).lengths[0, 0] < 5


def test_the_loop_ends_early():
    """A step that is asked once too often gives what would win."""

    def short(tokens, state):
        first = jnp.log(jnp.array([[0.01, 0.98, 0.01]]))
        later = jnp.array([[jnp.nan] * V])
        logits = jnp.where(state["time"] == 0, first, later)
        return jnp.repeat(logits, len(tokens), 0), {**state, "time": state["time"] + 1}

    given = {"rows": 2, "start_token": 0, "end_token": END, "max_length": 4, "beams": 1}
    for early_stopping in (True, False):
        found = beam_search(short, begin([0, 1]), **given, early_stopping=early_stopping)
        assert found.tokens[:, 0].tolist() == [[END, 0, 0, 0]] * 2
        assert np.all(np.isfinite(found.scores))


def test_where_rows_are():
    assert row_axis("decoder/index", jnp.zeros(())) is None
    assert row_axis("blocks/attention/cached_key", jnp.zeros((2, 3, 4))) == 1
    assert row_axis("blocks/attention/index", jnp.zeros(2)) is None


@pytest.mark.slow
def test_translation_is_the_search_over_the_whole_model():
    model = Transformer(7, 1, 2, 8, tie="none")
    source = np.random.default_rng(1).integers(3, 7, (2, 5))
    mask = np.arange(5)[None] < np.array([[5], [3]])
    params = model.init(jax.random.key(3), source, target=source)["params"]
    params = jax.tree.map(lambda x: 2.0 * x, params)

    @jax.jit
    def full(rows, tokens):
        """The log-probabilities of a model without a cache."""
        read, real = jnp.asarray(source), jnp.asarray(mask)
        logits = model.apply({"params": params}, read[rows], target=tokens, source_mask=real[rows])
        return jax.nn.log_softmax(logits)

    run = functools.partial(translate, model, start_token=1, end_token=2, max_length=4, beams=3)
    found = jax.jit(run)(params, source, source_mask=mask)
    for row in range(2):
        for rank in range(3):
            size = int(found.lengths[row, rank])
            tokens = np.asarray(found.tokens[row, rank])
            read = np.concatenate([[1], tokens[:3]])[None]
            each = np.asarray(full(np.array([row]), read))[0]
            total = sum(each[t, tokens[t]] for t in range(size))
            np.testing.assert_allclose(
                found.scores[row, rank], total / ((5 + size) / 6) ** 0.6, rtol=1e-4
            )


def test_wrong_settings_are_named():
    for name, value in (("beams", 0), ("max_length", 0)):
        with pytest.raises(ConfigError, match=f"{name} is 0"):
            search([0], **{name: value})
    for penalty in (-1.0, float("inf"), float("nan")):
        with pytest.raises(ConfigError, match=f"length_penalty is {penalty}"):
            search([0], length_penalty=penalty)
    given = {"start_token": 0, "max_length": 3}
    with pytest.raises(ConfigError, match=r"end_token is 3(.|\n)*from 0 to 2"):
        beam_search(step, begin([0]), rows=1, end_token=3, **given)
    with pytest.raises(BatchError, match=r"'last' has shape \[2\](.|\n)*3 rows on axis 0"):
        beam_search(step, {"last": jnp.zeros(2, int)}, rows=3, end_token=1, **given)
    with pytest.raises(BatchError, match=r"logits of shape \[4, 1, 3\]"):
        beam_search(
            lambda t, s: (jnp.zeros((4, 1, 3)), s), begin([0]), rows=1, end_token=1, **given
        )
