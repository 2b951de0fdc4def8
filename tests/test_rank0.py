"""Errors, masked sums and parameter paths: what every other part stands on."""

from __future__ import annotations

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.test_util import check_grads

from jaxdl import errors, reductions, tree_paths


def test_error_has_three_parts_and_survives_pickling():
    error = errors.BatchError("no field 'a'", expected="b", do="add it")
    assert str(error) == "no field 'a'\n  expected: b\n  do: add it"
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is errors.BatchError
    assert str(again) == str(error)
    assert isinstance(error, ValueError)


@pytest.mark.parametrize("name", [n for n in errors.__all__ if n.endswith("Error")])
def test_every_error_is_a_jaxdl_error(name):
    assert issubclass(getattr(errors, name), errors.JaxdlError)


def test_masked_sum_without_mask_counts_every_value():
    total, weight = reductions.masked_sum(jnp.arange(6.0).reshape(2, 3))
    assert (float(total), float(weight)) == (15.0, 6.0)


@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=8), st.data())
def test_masked_sum_adds_over_any_split(values, data):
    mask = data.draw(
        st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=len(values), max_size=len(values))
    )
    cut = data.draw(st.integers(0, len(values)))
    x, m = np.array(values, np.float32), np.array(mask, np.float32)
    whole = reductions.masked_sum(jnp.asarray(x), m)
    halves = [
        reductions.masked_sum(jnp.asarray(x[s]), m[s]) for s in (slice(cut), slice(cut, None))
    ]
    for i in range(2):
        np.testing.assert_allclose(halves[0][i] + halves[1][i], whole[i], rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(whole[0], np.sum(x * m), rtol=1e-4, atol=1e-3)


def test_masked_sum_gradient_is_the_mask_even_beside_nan():
    mask = jnp.array([1.0, 0.0, 0.25])
    grads = jax.grad(lambda x: reductions.masked_sum(jnp.log(x), mask)[0])(
        jnp.array([1.0, 0.5, 2.0])
    )
    np.testing.assert_allclose(grads, [1.0, 0.0, 0.125])
    check_grads(lambda x: reductions.masked_sum(x**2, mask)[0], (jnp.array([1.0, 2, 3]),), 1)
    total, _ = reductions.masked_sum(jnp.array([1.0, jnp.nan, 2.0]), mask)
    assert float(total) == 1.5


def test_mask_is_broadcast_from_the_left():
    wide = reductions.expand_mask(jnp.array([1, 0]), (2, 2))
    np.testing.assert_array_equal(wide, [[1, 1], [0, 0]])
    with pytest.raises(errors.BatchError, match=r"mask has shape \[3\], the values .* \[2, 3\]"):
        reductions.expand_mask(jnp.ones(3), (2, 3))


TREE = {"enc": {"kernel": 1, "bias": 2}, "head": [3, {"kernel": 4}]}


def test_paths_and_patterns():
    assert tree_paths.leaf_paths(TREE) == ["enc/bias", "enc/kernel", "head/0", "head/1/kernel"]
    mask = tree_paths.match_mask([r"^enc/", "0$"], TREE)
    assert mask == {"enc": {"kernel": True, "bias": True}, "head": [True, {"kernel": False}]}
    chosen, others = tree_paths.partition(TREE, mask)
    assert jax.tree.leaves(chosen) == [2, 1, 3]
    assert jax.tree.leaves(others) == [4]
    assert tree_paths.combine(chosen, others) == TREE


def test_pattern_that_finds_nothing_or_is_none():
    with pytest.raises(errors.PathError, match=r"'enc/kernal'(.|\n)*did you mean 'enc/kernel'"):
        tree_paths.match_mask("enc/kernal", TREE)
    with pytest.raises(errors.PathError, match="is no regular expression"):
        tree_paths.match_mask("enc/(", TREE)
