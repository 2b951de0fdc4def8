"""A state saved and restored is the same state, or the error says why not."""

from __future__ import annotations

import errno
import json
import os
import shutil
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from states import BATCH, assert_same, like, make_step

import jaxdl
from jaxdl import checkpoints
from jaxdl.checkpoints import Checkpoints, Keep, handler
from jaxdl.checkpoints.manifest import digest_of_record
from jaxdl.errors import CheckpointError, ConfigError, DamagedError, NonFiniteError


@pytest.fixture(scope="module")
def placed():
    return jaxdl.jit(make_step(), layout=jaxdl.single())


@pytest.fixture(scope="module")
def state(placed):
    return placed(placed.init(5, BATCH), BATCH)[0]


@pytest.fixture
def store(tmp_path):
    made = Checkpoints(tmp_path / "checkpoints")
    yield made
    made.close()


def test_what_is_saved_comes_back_with_its_record(store, placed, state):
    window = [np.arange(3), np.float32(2.5)]
    assert store.save(1, state, record={"seed": 7}, window=window, metrics={"a/b": 0.5})
    store.wait()
    restored = store.restore(placed.abstract_state(BATCH))
    assert_same(restored.state, state)
    assert (restored.step, restored.record["seed"], restored.passed_over) == (1, 7, ())
    assert restored.record["metrics"] == {"a/b": 0.5}
    for a, b in zip(restored.window, window, strict=True):
        np.testing.assert_array_equal(a, b)
    again, _ = placed(restored.state, BATCH)
    assert int(again.step) == 2


def test_the_state_may_be_consumed_as_soon_as_save_returns(store):
    """The next steps write into the memory that is being saved, or would without care."""
    add = jax.jit(lambda x: x + 1, donate_argnums=0)
    x = add(jnp.zeros(2_000_000))
    assert store.save(1, {"x": x})
    for _ in range(5):
        x = add(x)
    store.wait()
    restored = store.restore({"x": jax.ShapeDtypeStruct(x.shape, x.dtype)})
    np.testing.assert_array_equal(restored.state["x"], np.ones(2_000_000, np.float32))


def test_a_step_is_saved_once(store, state):
    assert store.save(1, state)
    assert not store.save(1, state)


def test_another_model_or_optimizer_is_named_and_not_passed_over(store, state):
    store.save(1, state)
    store.wait()
    other = jaxdl.jit(make_step(4), layout=jaxdl.single()).abstract_state(BATCH)
    with pytest.raises(CheckpointError) as caught:
        store.restore(other)
    assert not isinstance(caught.value, DamagedError)
    assert "params/dense_0/kernel: stored as float32[4, 3], not float32[4, 4]" in caught.value.what
    with pytest.raises(CheckpointError, match="ema/dense_0/bias: stored, but not expected"):
        store.restore(like(state).replace(ema=None))


def test_there_is_none(store, state):
    with pytest.raises(CheckpointError, match="there is no checkpoint in"):
        store.restore(like(state))
    store.save(3, state)
    store.wait()
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 4 .*\n.*\[3\]"):
        store.restore(like(state), step=4)


@pytest.mark.parametrize("item", ["manifest/process_0-of-1.json", "record/metadata"])
def test_the_newest_whole_one_is_taken_loudly(store, state, item):
    for step in (1, 2):
        store.save(step, state, record={"n": step})
    store.wait()
    path = store.folder / "2" / item
    path.write_text(path.read_text().replace("2", "3", 1))
    with pytest.warns(UserWarning, match=r"passed over: the checkpoint .*/2 is damaged"):
        restored = store.restore(like(state), set_aside=True)
    assert restored.step == 1
    assert len(restored.passed_over) == 1
    assert store.steps() == [1]
    assert len(list((store.folder / "damaged").iterdir())) == 1
    store.close()
    assert store.save(2, state)


def test_no_whole_one_is_an_error_that_lists_them_all(store, state):
    for step in (1, 2):
        store.save(step, state)
    store.wait()
    for step in (1, 2):
        (store.folder / str(step) / "manifest" / "process_0-of-1.json").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(DamagedError) as caught:
            store.restore(like(state))
    assert caught.value.what.count("it has no manifest: it was never finished") == 2
    assert "--overwrite" in caught.value.do


def test_another_format_is_said_to_be_one(store, state):
    store.save(1, state)
    store.wait()
    path = store.folder / "1" / "manifest" / "process_0-of-1.json"
    body = json.loads(path.read_text())
    body.pop("checksum")
    body["format"] = 2
    path.write_text(json.dumps({**body, "checksum": digest_of_record(body)}))
    with pytest.raises(CheckpointError, match="is of format 2"):
        store.restore(like(state))


def test_parameters_that_are_not_finite_are_not_saved(store, state):
    store.save(1, state)
    store.wait()
    bad = state.replace(params=jax.tree.map(lambda x: x * jnp.nan, state.params))
    store.save(2, bad)
    with pytest.raises(NonFiniteError, match="after step 2"):
        store.wait()
    assert store.steps() == [1]


def test_what_is_kept(tmp_path, state):
    keep = Keep(latest=2, every=4, best=1, metric="validation/loss")
    store = Checkpoints(tmp_path, keep=keep)
    for step in range(1, 10):
        store.save(step, state, metrics={"validation/loss": abs(step - 3) + 0.5})
    store.close()
    assert store.steps() == [3, 4, 8, 9]
    # The metrics of those that were there are read back.
    again = Checkpoints(tmp_path, keep=keep)
    again.save(10, state, metrics={"validation/loss": 9.0})
    again.close()
    assert again.steps() == [3, 4, 8, 9, 10]


@given(
    st.dictionaries(st.integers(1, 200), st.one_of(st.none(), st.floats()), min_size=1),
    st.integers(1, 3),
    st.integers(0, 3),
)
def test_the_newest_always_stays(metrics, latest, best):
    kept = Keep(latest=latest, best=best).kept(metrics)
    assert max(metrics) in kept
    assert len(kept) <= latest + best
    assert kept <= metrics.keys()


def test_wrong_rules_are_refused():
    with pytest.raises(ConfigError, match="latest=0"):
        Keep(latest=0)


def test_one_process_holds_a_folder(tmp_path):
    told = "is being trained by process .*\n.*\n.*give another folder"
    with checkpoints.lock(tmp_path), pytest.raises(CheckpointError, match=told):
        checkpoints.lock(tmp_path).__enter__()
    with checkpoints.lock(tmp_path):
        pass


def failing(code):
    def fail(*args):
        raise OSError(code, os.strerror(code))

    return fail


def test_a_full_disk_is_named_before_anything_is_written(store, state, monkeypatch):
    store.save(1, state)
    store.wait()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 10))
    with pytest.raises(CheckpointError, match="the disk is full") as caught:
        store.save(2, state)
    assert "goes on from the checkpoint of step 1" in caught.value.do
    assert store.steps() == [1]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EROFS, "the file system is read-only"),
        (errno.ESTALE, "the network file system is gone"),
        (errno.EACCES, "permission is denied"),
    ],
)
def test_a_disk_that_fails_meanwhile(store, state, monkeypatch, code, message):
    store.save(1, state)
    store.wait()
    monkeypatch.setattr(handler, "part_text", failing(code))
    store.save(2, state)
    with pytest.raises(CheckpointError, match=message):
        store.wait()
    monkeypatch.undo()
    assert store.steps() == [1]
    assert_same(store.restore(like(state)).state, state)


def test_a_folder_that_cannot_be_made(tmp_path, state):
    (tmp_path / "file").write_text("")
    store = Checkpoints(tmp_path / "file" / "checkpoints")
    with pytest.raises(CheckpointError, match="could not be written into"):
        store.save(1, state)
