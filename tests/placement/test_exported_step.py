"""What an exported step says of itself, gives back, and refuses."""

from __future__ import annotations

import importlib.util
import json
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdl
from jaxdl import gradients
from jaxdl.errors import MissingExtraError, ProgramError
from jaxdl.objectives import from_mean
from jaxdl.placement import export_program, load_program
from jaxdl.protocols import Mean

pytest.importorskip("flatbuffers")

BATCH = {"x": np.arange(8, dtype=np.float32)}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A step over two devices whose gradient reads ``batch_sharding``."""
    objective = from_mean(lambda p, b: jnp.mean((p - b["x"]) ** 2), lambda k, b: jnp.zeros(()))
    pure = jaxdl.make_train_step(
        objective,
        optax.sgd(0.1),
        gradient=gradients.reproducible(shards=2),
        nonfinite="skip",
    )
    step = jaxdl.jit(pure, devices=jax.devices()[:2])
    path = tmp_path_factory.mktemp("exported") / "step"
    given = export_program(step, step.init(0, BATCH), BATCH, str(path))
    assert given == path
    return step, path


def test_the_state_is_kept_and_each_sum_has_its_name(exported):
    step, path = exported
    loaded = load_program(str(path))
    state = step.init(0, BATCH)
    new, sums = loaded(state, step.put(BATCH))
    assert not state.params.is_deleted()
    assert isinstance(new, jaxdl.TrainState)
    ours, expected = step(state, BATCH)
    assert set(sums) == set(expected) == {"loss", "skipped"}
    assert isinstance(sums["loss"], Mean)
    assert jaxdl.report(sums) == pytest.approx(jaxdl.report(expected), rel=1e-6)
    assert float(new.params) == pytest.approx(float(ours.params), rel=1e-6)
    assert int(new.step) == 1


def test_the_manifest_says_what_is_taken(exported):
    _, path = exported
    manifest = load_program(path).manifest
    assert manifest["platforms"] == ["cpu"]
    assert manifest["devices"] == 2
    assert manifest["jax"] == jax.__version__
    assert manifest["batch"] == [["x", [8], "float32"]]
    assert ["step", [], "int32"] in manifest["state"]
    with zipfile.ZipFile(path) as file:
        assert set(file.namelist()) == {"manifest.json", "program"}
        assert json.loads(file.read("manifest.json")) == manifest


def test_what_does_not_fit_is_named(exported):
    step, path = exported
    loaded, state, batch = load_program(path), step.init(0, BATCH), step.put(BATCH)
    with pytest.raises(ProgramError, match=r"the batch .* x is \[\[9\], 'float32'\]"):
        loaded(state, {"x": np.zeros(9, np.float32)})
    with pytest.raises(ProgramError, match=r"the state .* params is \[\[\], 'float16'\]"):
        loaded(state.replace(params=np.float16(1.0)), batch)
    with pytest.raises(ProgramError, match="it lacks leaves") as caught:
        loaded(state, {})
    assert caught.value.expected == "x: [[8], 'float32']"
    with pytest.raises(ProgramError, match=r"y is \[\[8\], 'float32'\]"):
        loaded(state, {**batch, "y": batch["x"]})


@pytest.mark.parametrize(("devices", "loads"), [(8, True), (9, False)])
def test_as_many_devices_as_there_are_will_do(exported, tmp_path, devices, loads):
    with zipfile.ZipFile(exported[1]) as file:
        manifest, program = json.loads(file.read("manifest.json")), file.read("program")
    with zipfile.ZipFile(tmp_path / "step", "w") as file:
        file.writestr("manifest.json", json.dumps({**manifest, "devices": devices}))
        file.writestr("program", program)
    if loads:
        assert load_program(tmp_path / "step").manifest["devices"] == devices
    else:
        with pytest.raises(ProgramError, match="at most 8"):
            load_program(tmp_path / "step")


def test_the_package_that_is_missing_is_named_before_anything_is_done(
    exported, tmp_path, monkeypatch
):
    step, path = exported
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="flatbuffers"):
        export_program(step, {}, {}, tmp_path / "never")
    with pytest.raises(MissingExtraError, match="flatbuffers"):
        load_program(path)
