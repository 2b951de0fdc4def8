"""States for the tests of checkpoints, and what it means that two are the same."""

from __future__ import annotations

import jax
import numpy as np
import optax
import tensorstore

import jaxdl
from jaxdl import losses, models

BATCH = {"x": np.ones((8, 4), np.float32), "label": np.zeros(8, np.int32)}


def make_step(width: int = 3):
    """A small network with Adam and a moving average."""
    objective = jaxdl.supervised(models.MLP((width, 2)), losses.softmax_cross_entropy, inputs="x")
    return jaxdl.make_train_step(objective, optax.adam(0.1), ema_decay=0.9)


def numbers(leaf):
    """A leaf, or the words of a key, on the host."""
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf)


def assert_same(tree, other):
    """Structure, shapes, dtypes and every bit."""
    assert jax.tree.structure(tree) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert numbers(a).tobytes() == numbers(b).tobytes()


def like(tree, sharding=None):
    """The abstract state of a state, where it lies or elsewhere."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding or x.sharding), tree
    )


def alter(folder, name):
    """Gives a tensor of a checkpoint other values, which can be read as before."""
    where = {"driver": "ocdbt", "base": f"file://{folder}/state/", "path": f"{name}/"}
    store = tensorstore.open({"driver": "zarr", "kvstore": where}, open=True).result()
    store.write(np.asarray(store.read().result()) + 1).result()
