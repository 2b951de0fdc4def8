"""A state saved and restored is the same state."""

from __future__ import annotations

import jax
import numpy as np
import optax
import pytest

import jaxdl
from jaxdl import checkpoints, losses, models
from jaxdl.errors import CheckpointError

BATCH = {"x": np.ones((8, 4), np.float32), "label": np.zeros(8, np.int32)}


def make_placed(width: int, layout=None):
    objective = jaxdl.supervised(models.MLP((width, 2)), losses.softmax_cross_entropy, inputs="x")
    return jaxdl.jit(
        jaxdl.make_train_step(objective, optax.adam(0.1), ema_decay=0.9),
        layout=layout or jaxdl.single(),
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    placed = make_placed(3)
    state, _ = placed(placed.init(5, BATCH), BATCH)
    folder = checkpoints.save(tmp_path_factory.mktemp("run") / "checkpoint", state)
    return state, folder


@pytest.mark.parametrize("layout", [jaxdl.single(), jaxdl.data_parallel()])
def test_round_trip_is_exact_onto_any_layout(saved, layout):
    state, folder = saved
    placed = make_placed(3, layout)
    restored = checkpoints.restore(folder, placed.abstract_state(BATCH))
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(state), strict=True):
        assert a.dtype == b.dtype
        if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
            np.testing.assert_array_equal(jax.random.key_data(a), jax.random.key_data(b))
        else:
            np.testing.assert_array_equal(a, b)
    restored, _ = placed(restored, BATCH)
    assert int(restored.step) == 2


def test_a_folder_that_exists_is_not_overwritten(saved):
    state, folder = saved
    with pytest.raises(CheckpointError, match="exists"):
        checkpoints.save(folder, state)


def test_a_folder_that_cannot_be_written(saved, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="could not be written"):
        checkpoints.save(tmp_path / "file" / "checkpoint", saved[0])


def test_no_checkpoint(tmp_path):
    like = make_placed(3).abstract_state(BATCH)
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        checkpoints.restore(tmp_path / "checkpoint", like)


def test_another_model(saved):
    with pytest.raises(CheckpointError) as caught:
        checkpoints.restore(saved[1], make_placed(4).abstract_state(BATCH))
    assert "params/dense_0/kernel: float32[4, 3], not float32[4, 4]" in caught.value.what


def test_another_optimizer(saved):
    like = make_placed(3).abstract_state(BATCH).replace(opt_state=(), ema=None)
    with pytest.raises(CheckpointError, match="ema/dense_0/bias: not expected"):
        checkpoints.restore(saved[1], like)


def test_a_folder_that_is_no_checkpoint(tmp_path):
    (tmp_path / "checkpoint").mkdir()
    with pytest.raises(CheckpointError, match="is no checkpoint"):
        checkpoints.restore(tmp_path / "checkpoint", make_placed(3).abstract_state(BATCH))
