"""Sampling against its definitions in NumPy, one row at a time, and against frequencies."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.errors import ConfigError
from jaxdl.generation import keep_top_k, keep_top_p, sample

LOGITS = np.random.default_rng(0).normal(scale=2.0, size=(5, 9)).astype(np.float32)


def softmax(x):
    weights = np.exp(x - x.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def likeliest_of(row, p):
    """Token after token, the likeliest first, until they have the probability."""
    kept, total = set(), 0.0
    shares = softmax(row.astype(np.float64))
    for token in np.argsort(-row):
        if kept and total >= p:
            break
        kept.add(int(token))
        total += shares[token]
    return kept


@pytest.mark.parametrize("k", [1, 4, 9, 20])
def test_top_k_keeps_the_k_likeliest(k):
    found = np.asarray(keep_top_k(LOGITS, k))
    for row, kept in zip(LOGITS, found, strict=True):
        assert set(np.flatnonzero(np.isfinite(kept))) == set(np.argsort(-row)[:k])
    np.testing.assert_array_equal(found[np.isfinite(found)], LOGITS[np.isfinite(found)])


@pytest.mark.parametrize("p", [1e-6, 0.3, 0.75, 0.95, 1.0])
def test_top_p_keeps_the_fewest_that_have_p(p):
    found = np.asarray(keep_top_p(LOGITS, p))
    for row, kept in zip(LOGITS, found, strict=True):
        assert set(np.flatnonzero(np.isfinite(kept))) == likeliest_of(row, p)
    np.testing.assert_array_equal(found[np.isfinite(found)], LOGITS[np.isfinite(found)])
    np.testing.assert_array_equal(jax.jit(keep_top_p)(LOGITS, p), found)


def test_equals_stay_together():
    even = jnp.array([1.0, 1.0, 0.0, 1.0])
    assert np.isfinite(keep_top_k(even, 2)).tolist() == [True, True, False, True]
    assert np.isfinite(keep_top_p(even, 0.1)).tolist() == [True, True, False, True]


def test_draws_are_as_frequent_as_they_should_be():
    draws = 20_000
    row = np.array([2.0, 1.0, 1.5, -1.0, 0.0], np.float32)
    wide = jnp.broadcast_to(row[None], (draws, 5))
    options = {"temperature": 0.7, "top_k": 4, "top_p": 0.9}
    found = jax.jit(lambda x: sample(jax.random.key(3), x, **options))(wide)
    # 0.7 sharpens; token 3 is out by top_k, and token 4 by top_p, of what is left.
    shares = softmax(np.where(np.isin(np.arange(5), [0, 1, 2]), row / 0.7, -np.inf))
    counts = np.bincount(np.asarray(found), minlength=5) / draws
    assert counts[3] == counts[4] == 0
    np.testing.assert_allclose(counts, shares, atol=4 * 0.5 / np.sqrt(draws))


def test_temperature_zero_takes_the_likeliest_traced_or_not():
    best, key = LOGITS.argmax(-1), jax.random.key(0)
    for zero in (0, np.float32(0), jnp.float32(0)):
        np.testing.assert_array_equal(sample(key, LOGITS, temperature=zero), best)
    np.testing.assert_array_equal(sample(key, LOGITS.astype(np.float16), temperature=0), best)
    np.testing.assert_array_equal(sample(key, LOGITS, top_k=1), best)
    drawn = jax.jit(lambda t: sample(key, LOGITS, temperature=t))
    np.testing.assert_array_equal(drawn(0.0), best)
    np.testing.assert_array_equal(drawn(3.0), sample(key, LOGITS, temperature=3.0))
    assert not np.array_equal(drawn(3.0), best)


@pytest.mark.slow
@pytest.mark.parametrize("p", [0.2, 0.8])
def test_it_cuts_where_transformers_cuts(p):
    torch = pytest.importorskip("torch")
    theirs = pytest.importorskip("transformers.generation.logits_process")
    given = torch.tensor(LOGITS)
    np.testing.assert_array_equal(
        keep_top_p(LOGITS, p), theirs.TopPLogitsWarper(p)(None, given).numpy()
    )
    np.testing.assert_array_equal(
        keep_top_k(LOGITS, 3), theirs.TopKLogitsWarper(3)(None, given).numpy()
    )


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_k": 0}, "top_k is 0"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        # Numbers of NumPy and JAX are checked as Python's are.
        ({"temperature": np.float32(-1)}, "temperature is -1.0"),
        ({"temperature": jnp.float32(-1)}, "temperature is -1.0"),
        ({"top_p": np.float32(0)}, "top_p is 0.0"),
        # As many as there are words: it would divide each word's logit by another number.
        ({"temperature": np.ones(9)}, r"temperature has the shape \[9\]"),
        ({"top_p": np.ones(5)}, r"top_p has the shape \[5\]"),
    ],
    ids=range(10),
)
def test_settings_out_of_range_are_named(options, told):
    with pytest.raises(ConfigError, match=told):
        sample(jax.random.key(0), LOGITS, **options)
