"""Checkpoints of a run that are never on disk in the clear."""

from __future__ import annotations

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import security
from jaxdl.checkpoints import Checkpoints, Keep
from jaxdl.checkpoints.tensors import named, words
from jaxdl.errors import CheckpointError, ConfigError, DamagedError, NonFiniteError, SealError


def abstract(state):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


def numbers(state):
    return {name: np.asarray(words(leaf)).tobytes() for name, leaf in named(state).items()}


@pytest.fixture
def store(tmp_path, keys):
    made = security.SealedCheckpoints(
        tmp_path / "checkpoints",
        key=keys.train,
        trust=keys.trust,
        holders=keys.holders,
        signer=keys.signer,
        keep=Keep(latest=1, best=1),
    )
    yield made
    made.close()


def test_what_is_saved_comes_back_and_nothing_is_in_the_clear(store, state):
    record, window = {"position": 34, "note": "é"}, [np.arange(5.0)]
    assert store.save(12, state, record=record, window=window, metrics={"validation/loss": 0.25})
    assert not store.save(12, state)
    store.close()
    found = store.restore(abstract(state))
    assert numbers(found.state) == numbers(state)
    assert found.step == 12
    assert found.record.items() >= {**record, "metrics": {"validation/loss": 0.25}}.items()
    np.testing.assert_array_equal(found.window[0], window[0])
    written = b"".join(p.read_bytes() for p in store.folder.rglob("*") if p.is_file())
    clear = [value for value in numbers(state).values() if len(value) >= 8]
    assert not [value for value in clear if value[:8] in written]
    assert b"dense_0" not in written
    assert b"position" not in written


def test_the_state_may_be_consumed_at_once(store):
    step = jax.jit(lambda s: jax.tree.map(lambda x: x * 0, s), donate_argnums=0)
    state = {"params": {"w": jnp.arange(4096.0)}}
    like, before = abstract(state), numbers(state)
    store.save(1, state)
    step(state)
    store.close()
    assert numbers(store.restore(like).state) == before


def test_those_stay_that_the_rule_keeps(store, keys):
    state = {"params": {"w": jnp.ones(3)}}
    for step, loss in ((1, 0.5), (2, 0.1)):
        store.save(step, state, metrics={"validation/loss": loss})
    store.close()
    again = security.SealedCheckpoints(
        store.folder, key=keys.train, trust=keys.trust, holders=keys.holders, keep=store.keep
    )
    (store.folder / ".3.77").mkdir()
    for step in (3, 4):
        again.save(step, state, metrics={"validation/loss": 0.3})
    again.close()
    # The second store learns from the first one's records which is the best.
    assert again.steps() == [2, 4]
    assert sorted(path.name for path in store.folder.iterdir()) == ["2", "4"]


def test_a_damaged_one_is_passed_over_and_a_wrong_key_is_no_damage(store, keys):
    state = {"params": {"w": jnp.ones(3)}, "step": jnp.int32(0)}
    like = abstract(state)
    store.keep = Keep(latest=5)
    for step in (1, 2, 3):
        store.save(step, {**state, "step": jnp.int32(step)})
    store.close()
    file = store.folder / "3" / "params-1.bin"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    (store.folder / "2" / "seal").unlink()
    with pytest.warns(UserWarning, match="passed over"):
        found = store.restore(like, set_aside=True)
    assert (found.step, int(found.state["step"])) == (1, 1)
    assert store.steps() == [1]
    with pytest.raises(DamagedError, match="holds step 1"):
        shutil.copytree(store.folder / "1", store.folder / "9")
        store.restore(like, step=9)
    stranger = security.SealedCheckpoints(store.folder, key=keys.other, trust=keys.trust)
    with pytest.raises(SealError):
        stranger.restore(like)
    forged = security.Trust([security.public_half(keys.stranger)])
    with pytest.raises(SealError):
        security.SealedCheckpoints(store.folder, key=keys.train, trust=forged).restore(like)


def test_a_lesser_role_measures_and_does_not_go_on(store, state, keys):
    store.save(12, state, record={"position": 34})
    store.close()
    options = {"key": keys.evaluate, "trust": keys.trust}
    with pytest.raises(ConfigError, match="opens only params, model"):
        security.SealedCheckpoints(store.folder, **options).restore(abstract(state))
    reading = security.SealedCheckpoints(store.folder, **options, partly=True)
    found = reading.restore(abstract(state))
    numbers_of, wanted = numbers(found.state), numbers(state)
    opened = {n for n in wanted if n.startswith(("params", "ema", "model_state"))}
    assert {n: numbers_of[n] for n in opened} == {n: wanted[n] for n in opened}
    assert not any(any(numbers_of[n]) for n in set(wanted) - opened)
    assert (found.record, found.window) == ({}, ())
    with pytest.raises(ConfigError, match="opened to be read"):
        reading.save(13, state)


def test_clear_and_sealed_are_not_taken_for_each_other(store, state, tmp_path, checkpoint, keys):
    store.save(12, state)
    store.close()
    with pytest.raises(CheckpointError, match="is sealed"):
        Checkpoints(store.folder).restore(abstract(state))
    clear = security.SealedCheckpoints(checkpoint.parent, key=keys.train, trust=keys.trust)
    with pytest.raises(CheckpointError, match="is not sealed"):
        clear.restore(abstract(state))
    with pytest.raises(CheckpointError, match="another state"):
        store.restore({"params": jax.ShapeDtypeStruct((2,), jnp.float32)})


def test_numbers_that_are_not_finite_are_not_saved(store):
    store.save(1, {"params": {"w": jnp.array([1.0, jnp.nan])}, "opt_state": jnp.array(jnp.inf)})
    with pytest.raises(NonFiniteError, match="after step 1 "):
        store.wait()
    store.save(2, {"params": {"w": jnp.ones(2)}, "opt_state": jnp.array(jnp.inf)})
    store.close()
    assert store.steps() == [2]
    assert not store.go_back_before(2)
    assert [path.name[:2] for path in (store.folder / "damaged").iterdir()] == ["2-"]


def test_somebody_must_be_able_to_go_on(keys, tmp_path):
    with pytest.raises(ConfigError, match="no key has the role train"):
        security.SealedCheckpoints(
            tmp_path, key=keys.export, trust=keys.trust, holders=[("export", keys.export)]
        )
