"""Save, then restore: the identity on any tree, dtype, key and sharding, onto any devices."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from states import BATCH, assert_same, like, make_step, numbers

import jaxdl
from jaxdl.checkpoints import Checkpoints
from jaxdl.checkpoints.tensors import named
from jaxdl.errors import CheckpointError

DTYPES = ["bfloat16", "float16", "float32", "int8", "uint8", "int4", "bool", "int32", "complex64",
          "float8_e4m3fn", "key"]  # fmt: skip


@st.composite
def leaves(draw):
    shape = tuple(draw(st.lists(st.sampled_from([0, 1, 2, 4, 8]), max_size=3)))
    where = draw(st.sampled_from(["whole", "rows", "columns"]))
    return draw(st.sampled_from(DTYPES)), shape, draw(st.integers(0, 2**16)), where


def make_leaf(spec, mesh):
    dtype, shape, seed, where = spec
    axis = {"whole": None, "rows": 0, "columns": 1}[where]
    parts = [None] * len(shape)
    if axis is not None and axis < len(shape) and shape[axis] and shape[axis] % mesh.size == 0:
        parts[axis] = "x"
    sharding = NamedSharding(mesh, PartitionSpec(*parts))
    rng = np.random.default_rng(seed)
    if dtype == "key":
        keys = jax.random.split(jax.random.key(seed), max(1, int(np.prod(shape, dtype=int))))
        return jax.device_put(keys[: np.prod(shape, dtype=int)].reshape(shape), sharding)
    if dtype == "bool":
        values = rng.integers(0, 2, shape).astype(bool)
    elif dtype == "int4":
        values = rng.integers(-8, 8, shape).astype(ml_dtypes.int4)
    else:
        raw = rng.integers(0, 256, (*shape, jnp.dtype(dtype).itemsize), dtype=np.uint8)
        values = raw.view(jnp.dtype(dtype)).reshape(shape)
    return jax.device_put(values, sharding)


KEYS = st.one_of(st.text("ab./%0 ", max_size=3), st.integers(0, 2))
TREES = st.recursive(
    leaves(),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(lambda many: dict(enumerate(many))),
        st.dictionaries(st.text("ab./% ", max_size=3), inner, max_size=3),
    ),
    max_leaves=6,
)


def is_spec(x):
    return isinstance(x, tuple) and len(x) == 4 and x[0] in DTYPES


@given(tree=TREES)
@settings(max_examples=40)
def test_any_tree(tree, tmp_path_factory, devices):
    """NaN payloads, keys, empty and scalar leaves, and shardings; onto the same and others."""
    mesh = Mesh(np.asarray(devices[:4], dtype=object), ("x",))
    state = jax.tree.map(lambda spec: make_leaf(spec, mesh), tree, is_leaf=is_spec)
    store = Checkpoints(tmp_path_factory.mktemp("identity"))
    store.save(1, state)
    store.close()
    assert_same(store.restore(like(state)).state, state)
    whole = NamedSharding(mesh, PartitionSpec())
    assert_same(store.restore(like(state, whole)).state, state)


def test_names_do_not_clash():
    clash = {"a": {"b": 1.0}, "a/b": 2.0, "a%2Fb": 3.0, "": 4.0, "%": 5.0, "a.b": 6.0}
    assert len(named(jax.tree.map(np.asarray, clash))) == len(clash)


def test_names_that_do_are_refused():
    class Number(str):
        __slots__ = ()

    tree = ({"0": np.ones(1)}, [np.ones(1)])
    assert list(named(tree)) == ["0/0", "1/0"]
    with pytest.raises(CheckpointError, match="is a float"):
        named({"f": 1.0})


PLACES = {
    "1 device": lambda step, devices: jaxdl.jit(step, devices=devices[:1]),
    "2 devices": lambda step, devices: jaxdl.jit(step, devices=devices[:2]),
    "4 devices": lambda step, devices: jaxdl.jit(step, devices=devices[:4]),
    "8 devices": lambda step, devices: jaxdl.jit(step, devices=devices),
    "pmap": lambda step, devices: jaxdl.pmap(step),
    "sharded": lambda step, devices: jaxdl.jit(
        step,
        layout=jaxdl.layout(
            mesh={"data": 2, "tensor": 4}, rules=[("dense_0/kernel", PartitionSpec(None, "tensor"))]
        ),
    ),
}


@pytest.fixture(scope="module")
def places(devices):
    return {name: make(make_step(4), devices) for name, make in PLACES.items()}


@pytest.fixture(scope="module")
def saved(places, tmp_path_factory):
    folders = {}
    for name, placed in places.items():
        state, _ = placed(placed.init(3, BATCH), BATCH)
        store = Checkpoints(tmp_path_factory.mktemp("matrix"))
        store.save(1, placed.logical(state))
        store.close()
        folders[name] = store, placed.logical(state)
    return folders


@pytest.mark.parametrize("there", PLACES)
@pytest.mark.parametrize("here", PLACES)
def test_saved_here_restored_there(saved, places, here, there):
    store, state = saved[here]
    placed = places[there]
    restored = store.restore(placed.abstract_state(BATCH)).state
    assert jax.tree.map(lambda x: numbers(x).tobytes(), restored) == jax.tree.map(
        lambda x: numbers(x).tobytes(), state
    )
    if there == "pmap":
        restored = placed.place(restored)
    again, _ = placed(restored, BATCH)
    assert int(np.max(jax.device_get(again.step))) == 2
