"""A checkpoint as a safetensors file: the same names and the same bits, or an error before it."""

from __future__ import annotations

import hashlib
import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from states import BATCH, alter, make_step

import jaxdl
from jaxdl.checkpoints import Checkpoints, export
from jaxdl.errors import CheckpointError, ConfigError, DamagedError

DTYPES = [
    "bfloat16",
    "float16",
    "float32",
    "float8_e4m3fn",
    "float8_e5m2",
    "int8",
    "uint32",
    "bool",
]
CODES = {"bfloat16": "BF16", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "bool": "BOOL"}


def saved(folder, state):
    store = Checkpoints(folder)
    store.save(1, state)
    store.close()
    return folder / "1"


def raw(path):
    """Shape, code of the dtype and bytes of every tensor, as the format itself has them."""
    found = safetensors.deserialize(path.read_bytes())
    return {name: (each["shape"], each["dtype"], bytes(each["data"])) for name, each in found}


@st.composite
def arrays(draw):
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=3)))
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    size = (*shape, dtype.itemsize)
    raw = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 256, size, np.uint8)
    # Orbax knows no scalars of the dtypes that ml_dtypes adds, only arrays.
    values = (raw % 2).astype(bool) if dtype.kind == "b" else raw.view(dtype)
    return np.asarray(values).reshape(shape)


@given(params=st.dictionaries(st.text("ab/.", min_size=1, max_size=3), arrays(), min_size=1))
@settings(max_examples=15)
def test_names_and_bits_come_back(params, tmp_path_factory):
    """Any bits, NaN too. As "ema": parameters that are not finite are not saved."""
    folder = tmp_path_factory.mktemp("export")
    made = export(saved(folder, {"ema": params}), folder / "x.safetensors", source="ema")
    found = raw(made.path)
    assert sorted(found) == sorted(name.replace("/", "%2F") for name in params)
    for name, values in params.items():
        shape, code, content = found[name.replace("/", "%2F")]
        assert (tuple(shape), content) == (values.shape, values.tobytes())
        assert code == CODES.get(str(values.dtype), code)
    assert made.sha256 == hashlib.sha256(made.path.read_bytes()).hexdigest()
    assert (made.step, made.tensors) == (1, len(params))
    assert made.bytes == made.path.stat().st_size


@pytest.fixture(scope="module")
def state():
    placed = jaxdl.jit(make_step(), layout=jaxdl.single())
    return placed(placed.init(5, BATCH), BATCH)[0]


@pytest.fixture(scope="module")
def checkpoint(state, tmp_path_factory):
    return saved(tmp_path_factory.mktemp("checkpoints"), state)


def test_numpy_reads_every_source(checkpoint, state, tmp_path):
    for source, tree in (("params", state.params), ("ema", state.ema)):
        made = export(checkpoint, tmp_path / f"{source}.safetensors", source=source)
        found = safetensors.numpy.load_file(made.path)
        assert sorted(found) == ["dense_0/bias", "dense_0/kernel", "dense_1/bias", "dense_1/kernel"]
        np.testing.assert_array_equal(found["dense_1/kernel"], tree["dense_1"]["kernel"])
    made = export(checkpoint, tmp_path / "state.safetensors", source="state")
    found = safetensors.numpy.load_file(made.path)
    assert {"step", "key", "params/dense_0/kernel", "ema/dense_0/bias"} <= found.keys()
    np.testing.assert_array_equal(found["key"], jax.random.key_data(state.key))
    assert found["step"].shape == ()
    with safetensors.safe_open(made.path, framework="np") as file:
        metadata = file.metadata()
    assert (metadata["step"], metadata["source"]) == ("1", "state")
    assert metadata["jaxdl"] == jaxdl.__version__
    assert json.loads(metadata["keys"]) == {"key": "threefry2x32"}
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".safetensors"] * 3


def test_a_file_is_not_written_over_unless_asked(checkpoint, tmp_path):
    out = tmp_path / "x.safetensors"
    out.write_text("precious")
    with pytest.raises(ConfigError, match="is there already"):
        export(checkpoint, out)
    assert out.read_text() == "precious"
    assert len(raw(export(checkpoint, out, overwrite=True).path)) == 4
    with pytest.raises(ConfigError, match="is not named as a safetensors file"):
        export(checkpoint, tmp_path / "x.npz")


def test_nothing_is_written_of_a_damaged_one(state, tmp_path):
    checkpoint = saved(tmp_path, state)
    alter(checkpoint, "state/params/dense_0/bias")
    with pytest.raises(DamagedError, match="dense_0/bias: its values were altered"):
        export(checkpoint, tmp_path / "x.safetensors")
    assert not list(tmp_path.glob("*x.safetensors*"))
    export(checkpoint, tmp_path / "x.safetensors", source="ema")


def test_what_cannot_be_exported(state, tmp_path):
    tree = {"params": {"a": np.ones(2, ml_dtypes.int4), "b": np.ones(2, np.float32)}}
    checkpoint = saved(tmp_path, tree)
    with pytest.raises(CheckpointError, match="a of the checkpoint .* is int4") as caught:
        export(checkpoint, tmp_path / "x.safetensors")
    assert "bfloat16" in caught.value.expected
    with pytest.raises(CheckpointError, match="holds no ema"):
        export(checkpoint, tmp_path / "x.safetensors", source="ema")


def test_a_disk_that_fails(checkpoint, tmp_path, monkeypatch):
    with pytest.raises(CheckpointError, match="gone/x.safetensors could not be written"):
        export(checkpoint, tmp_path / "gone" / "x.safetensors")
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="could not be written"):
        export(checkpoint, tmp_path / "file" / "x.safetensors")

    def fill(tensors, path, metadata):
        path.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.numpy, "save_file", fill)
    with pytest.raises(CheckpointError, match="No space left on device"):
        export(checkpoint, tmp_path / "x.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_lone_leaf(tmp_path):
    made = export(saved(tmp_path, {"params": jnp.asarray(2.0)}), tmp_path / "x.safetensors")
    assert raw(made.path) == {"params": ([], "F32", np.float32(2.0).tobytes())}
