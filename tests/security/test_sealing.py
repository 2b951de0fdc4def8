"""What was sealed comes back to the bit: a checkpoint, a file, a state."""

from __future__ import annotations

import json
import tracemalloc

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from jaxdl import checkpoints, security
from jaxdl.errors import CheckpointError, ConfigError, DamagedError


def test_a_checkpoint_comes_back_to_the_bit(sealed, keys, checkpoint, tmp_path):
    found = security.open_sealed(sealed, keys.train, trust=keys.trust)
    made = security.write_checkpoint(found, tmp_path / "out")
    assert made == tmp_path / "out" / "12"
    assert not checkpoints.diff(checkpoint, made).differing()
    before, after = (checkpoints.open_step(path.parent, 12) for path in (checkpoint, made))
    assert before[1] == after[1]
    assert before[0].tensors == after[0].tensors
    with pytest.raises(ConfigError, match="has a checkpoint of step 12 already"):
        security.write_checkpoint(found, tmp_path / "out")


def test_a_lesser_role_gets_parameters(sealed, keys, state, tmp_path):
    found = security.open_sealed(sealed, keys.evaluate, trust=keys.trust)
    security.write_checkpoint(found, tmp_path)
    like = jax.eval_shape(lambda: state["params"])
    loaded = checkpoints.load_partial(tmp_path, like, model_state=state["model_state"])
    jax.tree.map(np.testing.assert_array_equal, loaded.params, state["params"])
    manifest, record = checkpoints.open_step(tmp_path, 12)
    assert not [name for name in manifest.tensors if "opt_state" in name or "key" in name]
    assert "position" not in record


@pytest.mark.parametrize("source", ["params", "ema"])
def test_parameters_of_a_checkpoint_as_a_file(sealed, keys, checkpoint, tmp_path, source):
    found = security.open_sealed(sealed, keys.export, trust=keys.trust)
    out = security.write_file(found, tmp_path / "x.safetensors", source=source)
    plain = checkpoints.export(checkpoint, tmp_path / "y.safetensors", source=source)
    ours, theirs = (safetensors.numpy.load_file(path) for path in (out, plain.path))
    assert ours.keys() == theirs.keys()
    assert all(ours[name].tobytes() == theirs[name].tobytes() for name in ours)
    assert out.stat().st_mode & 0o077 == 0
    with pytest.raises(ConfigError, match="is there already"):
        security.write_file(found, out)
    with pytest.raises(ConfigError, match="not named as"):
        security.write_file(found, tmp_path / "x.bin")


def write_file(path, **metadata):
    rng = np.random.default_rng(0)
    tensors = {
        "record": rng.normal(size=(30, 70)).astype(np.float32),
        "b": np.ones(7, ml_dtypes.bfloat16),
        "empty": np.zeros((0, 3), np.float16),
        "scalar": np.array(3, np.int64),
    }
    safetensors.numpy.save_file(tensors, path, metadata=metadata or None)
    return path


def test_a_file_comes_back_to_the_bit(keys, tmp_path):
    plain = write_file(tmp_path / "x.safetensors", step="9", source="params")
    made = security.seal(plain, tmp_path / "s", keys.holders, signer=keys.signer, chunk=100)
    assert made.envelope.about == {"kind": "export", "step": 9}
    assert made.tensors == 5
    for key in (keys.train, keys.evaluate, keys.export):
        found = security.open_sealed(made.path, key, trust=keys.trust)
        out = security.write_file(found, tmp_path / "y.safetensors", overwrite=True)
        assert out.read_bytes() == plain.read_bytes()
    with pytest.raises(ConfigError, match="holds an exported file"):
        security.write_checkpoint(found, tmp_path / "out")


def test_nothing_is_written_of_a_file_that_was_altered(keys, tmp_path):
    """The last chunk is wrong: what came before it is not left behind."""
    plain = write_file(tmp_path / "x.safetensors")
    out = security.seal(plain, tmp_path / "s", keys.holders, signer=keys.signer, chunk=100).path
    content = (out / "params-1.bin").read_bytes()
    (out / "params-1.bin").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    found = security.open_sealed(out, keys.train, trust=keys.trust)
    with pytest.raises(DamagedError):
        security.write_file(found, tmp_path / "y.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s", "x.safetensors"]


def test_a_state_from_memory_and_back(state, keys, tmp_path):
    source = security.state_source(state, 12, record={"position": 34})
    out = security.seal(source, tmp_path / "s", keys.holders, signer=keys.signer, chunk=512).path
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
    found = security.open_sealed(out, keys.train, trust=keys.trust)
    back = security.restore(found, like)
    assert jax.tree.structure(back) == jax.tree.structure(state)
    for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(state), strict=True):
        assert (a.dtype, a.sharding) == (b.dtype, b.sharding)
        a, b = (jax.random.key_data(x) if x.dtype == like["key"].dtype else x for x in (a, b))
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    assert json.loads(found.read("record").tobytes())["position"] == 34
    lesser = security.open_sealed(out, keys.evaluate, trust=keys.trust)
    with pytest.raises(CheckpointError, match="key: not stored"):
        security.restore(lesser, like)


def test_what_is_not_sealed(checkpoint, keys, tmp_path):
    with pytest.raises(ConfigError, match="no checkpoint and no .safetensors file"):
        security.seal(tmp_path / "x", tmp_path / "s", keys.holders, signer=None)
    with pytest.raises(DamagedError, match="has no manifest"):
        security.seal(tmp_path, tmp_path / "s", keys.holders, signer=None)
    whole = checkpoints.export(checkpoint, tmp_path / "x.safetensors", source="state").path
    with pytest.raises(ConfigError, match="holds a whole state"):
        security.seal(whole, tmp_path / "s", keys.holders, signer=None)
    whole.write_bytes(whole.read_bytes()[:-1])
    with pytest.raises(DamagedError, match="cannot be read as safetensors"):
        security.seal(whole, tmp_path / "s", keys.holders, signer=None)
    with pytest.raises(ConfigError, match="no key has the role train"):
        security.seal(checkpoint, tmp_path / "s", keys.holders[1:], signer=None)
    with pytest.raises(CheckpointError, match="no parameters to seal"):
        nothing = security.state_source({"a": np.ones(2)}, 1)
        security.seal(nothing, tmp_path / "s", keys.holders, signer=None)
    assert not (tmp_path / "s").exists()
    (tmp_path / "s").mkdir()
    with pytest.raises(ConfigError, match="is there already"):
        security.seal(checkpoint, tmp_path / "s", keys.holders, signer=None)
    with pytest.raises(CheckpointError, match="nothing sealed in"):
        security.open_sealed(tmp_path / "s", keys.train, trust=keys.trust)


def test_one_chunk_of_a_file_is_in_memory(keys, tmp_path):
    plain = tmp_path / "x.safetensors"
    safetensors.numpy.save_file({"a": np.zeros(1 << 24, np.uint8)}, plain)
    tracemalloc.start()
    out = security.seal(plain, tmp_path / "s", keys.holders, signer=None, chunk=1 << 16).path
    trust = security.Trust(unsigned=True)
    found = security.open_sealed(out, keys.train, trust=trust)
    security.write_file(found, tmp_path / "y.safetensors")
    security.verify_sealed(out, trust=trust)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 22
