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
from jaxdl.products import wide_logits


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


def test_wide_logits_multiply_narrow_factors_in_both_passes():
    keys = jax.random.split(jax.random.key(0), 3)
    x, table = jax.random.normal(keys[0], (2, 5, 16)), jax.random.normal(keys[1], (33, 16))
    towards = jax.random.normal(keys[2], (2, 5, 33))

    def of(product, dtype):
        return jax.value_and_grad(
            lambda x, table: jnp.sum(product(x.astype(dtype), table) * towards), argnums=(0, 1)
        )

    def plain(x, table):
        return jnp.einsum("btd,vd->btv", x, table.astype(x.dtype))

    wide, narrow = (of(wide_logits, dtype) for dtype in (jnp.float32, jnp.bfloat16))
    jax.tree.map(np.testing.assert_array_equal, wide(x, table), of(plain, jnp.float32)(x, table))
    for mine, exact in zip(narrow(x, table)[1], wide(x, table)[1], strict=True):
        assert 0 < float(jnp.max(jnp.abs(mine - exact))) < 0.02 * float(jnp.max(jnp.abs(exact)))
    assert wide_logits(x.astype(jnp.bfloat16), table).dtype == jnp.float32
    program = jax.make_jaxpr(jax.grad(lambda x: narrow(x, table)[0]))(x)
    factors = [
        {each.aval.dtype.name for each in equation.invars}
        for equation in program.eqns
        if equation.primitive.name == "dot_general"
    ]
    assert factors
    assert all(each == {"bfloat16"} for each in factors)


def test_wide_logits_of_a_state_in_forward_mode():
    x, table = jnp.ones((1, 2, 3)), jnp.arange(12.0).reshape(4, 3)
    out, moved = jax.jvp(wide_logits, (x, table), (x, jnp.zeros_like(table)))
    np.testing.assert_array_equal(out, moved)
