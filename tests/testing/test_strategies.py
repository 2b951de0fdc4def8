"""The strategies give what their docstrings promise, and use the freedom that they have."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from hypothesis import find, given
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample
from jax.sharding import Mesh, PartitionSpec

from jaxdl.protocols import MASK
from jaxdl.testing import strategies

# The rig's checker of types looks at one item of a sequence, which it draws.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")

FIELDS = {"x": ((2, 3), "float32"), "label": ((), "int32")}
RULES = [("kernel", PartitionSpec(None, "tensor"))]


@given(strategies.arrays(dtypes=["float16", "uint8", "bool"], max_rank=2, max_side=3))
def test_arrays_keep_to_their_bounds_and_hold_small_exact_numbers(array):
    assert str(array.dtype) in {"float16", "uint8", "bool"}
    assert array.ndim <= 2
    assert all(side <= 3 for side in array.shape)
    wide = array.astype(np.float64)
    assert np.all(np.abs(wide) <= 8)
    if array.dtype == np.float16:
        np.testing.assert_array_equal(wide * 2, np.round(wide * 2))
    if array.dtype == np.uint8:
        # A negative number that is made unsigned would be near 255.
        assert np.all(array <= 8)


@given(strategies.arrays(shape=(2, 0, 3)))
def test_arrays_of_a_fixed_shape(array):
    assert array.shape == (2, 0, 3)


@pytest.mark.parametrize("dtype", ["bfloat16", "int32", "bool"])
def test_arrays_of_every_dtype_and_of_no_elements_are_found(dtype):
    found = find(strategies.arrays(), lambda x: str(x.dtype) == dtype and x.size > 1)
    assert np.isfinite(found.astype(np.float32)).all()
    assert find(strategies.arrays(), lambda x: x.ndim > 1 and not x.size).size == 0


@given(strategies.pytrees())
def test_trees_are_containers_of_arrays(tree):
    def check(node):
        if isinstance(node, dict):
            assert all(isinstance(name, str) and name for name in node)
            node = list(node.values())
        if isinstance(node, list | tuple):
            for part in node:
                check(part)
        else:
            assert isinstance(node, np.ndarray)

    check(tree)


@pytest.mark.parametrize("kind", [dict, list, tuple])
def test_trees_nest_every_kind_of_container(kind):
    def deep(tree):
        return isinstance(tree, kind) and any(
            isinstance(part, kind) for part in (tree.values() if kind is dict else tree)
        )

    assert isinstance(find(strategies.pytrees(st.just(1)), deep), kind)
    assert find(strategies.pytrees(), lambda tree: isinstance(tree, kind) and not tree) == kind()


@given(strategies.batches(FIELDS, rows=(2, 5), classes=3))
def test_batches_agree_on_their_rows_and_have_a_real_one(batch):
    rows = len(batch["x"])
    assert 2 <= rows <= 5
    assert {name: (value.shape, str(value.dtype)) for name, value in batch.items()} == {
        "x": ((rows, 2, 3), "float32"),
        "label": ((rows,), "int32"),
        MASK: ((rows,), "int32"),
    }
    assert set(batch["label"]) <= {0, 1, 2}
    assert set(batch[MASK]) <= {0, 1}
    assert batch[MASK].sum() >= 1


def test_batches_have_padding_only_where_they_have_a_mask():
    assert find(strategies.batches(FIELDS), lambda batch: not batch[MASK].all())[MASK].any()
    assert MASK not in find(strategies.batches(FIELDS, masked=False), lambda _: True)
    labels = find(strategies.batches(FIELDS, classes=3), lambda batch: (batch["label"] == 2).any())
    assert labels["label"].max() == 2


@given(st.data(), st.tuples(*[st.sampled_from([1, 2, 3, 4, 8])] * 2))
def test_shardings_divide_their_shape(data, shape):
    mesh = Mesh(np.array(jax.devices()[:8]).reshape(4, 2), ("data", "model"))
    sharding = data.draw(strategies.shardings(mesh, shape))
    names = [name for name in sharding.spec if name is not None]
    assert len(names) == len(set(names))
    parts = [1 if name is None else mesh.shape[name] for name in sharding.spec]
    whole = tuple(
        side * part for side, part in zip(sharding.shard_shape(shape), parts, strict=True)
    )
    assert whole == shape


def test_shardings_use_each_axis_of_the_mesh_or_none():
    mesh = Mesh(np.array(jax.devices()[:8]).reshape(4, 2), ("data", "model"))
    every = strategies.shardings(mesh, (8, 8))
    assert set(find(every, lambda each: None not in each.spec).spec) == {"data", "model"}
    assert set(find(every, lambda each: not any(each.spec)).spec) <= {None}


def has_tensor(layout):
    return any(name == "tensor" for name, _ in layout.axes)


@given(strategies.layouts_of(tensor_rules=RULES))
def test_layouts_are_for_eight_devices(layout):
    assert layout.make_mesh(jax.devices()[:8]).size == 8


def test_every_layout_is_found_and_tensor_parallel_only_with_rules():
    assert find(strategies.layouts_of(), lambda each: each.shard_axis is None).batch_axes
    assert find(strategies.layouts_of(), lambda each: each.sharded == "optimizer").shard_axis
    assert find(
        strategies.layouts_of(), lambda each: each.shard_axis and each.sharded == "state"
    ).axes
    assert find(strategies.layouts_of(tensor_rules=RULES), has_tensor).rules[0][0] == "kernel"
    with pytest.raises(NoSuchExample):
        find(strategies.layouts_of(), has_tensor)
