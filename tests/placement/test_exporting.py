"""A step as a file: the same numbers again, and words for what does not fit."""

from __future__ import annotations

import importlib.util
import json
import zipfile

import jax
import numpy as np
import optax
import pytest

import jaxdl
from jaxdl import losses, metrics, models
from jaxdl.errors import MissingExtraError, ProgramError
from jaxdl.objectives import supervised
from jaxdl.placement.exporting import export_program, load_program

RNG = np.random.default_rng(0)
BATCH = {
    "image": RNG.normal(size=(16, 4)).astype(np.float32),
    "label": RNG.integers(0, 3, 16).astype(np.int32),
}
HAS_FLATBUFFERS = importlib.util.find_spec("flatbuffers") is not None
needs_flatbuffers = pytest.mark.skipif(not HAS_FLATBUFFERS, reason="flatbuffers is not installed")


def placed():
    objective = supervised(
        models.MLP((8, 3), dropout_rate=0.2),
        losses.softmax_cross_entropy,
        metrics={"accuracy": metrics.accuracy()},
    )
    step = jaxdl.make_train_step(objective, optax.adam(1e-2), ema_decay=0.9)
    return jaxdl.jit(step, layout=jaxdl.fsdp(min_size=1))


@needs_flatbuffers
def test_a_program_from_a_file_gives_the_numbers_of_the_live_one(tmp_path):
    step = placed()
    path = export_program(
        step, step.abstract_state(BATCH), BATCH, tmp_path / "step", platforms=("cpu", "tpu")
    )
    loaded = load_program(path)
    assert loaded.manifest["platforms"] == ["cpu", "tpu"]
    assert loaded.manifest["devices"] == 8
    batch = step.put(BATCH)
    theirs = step.init(0, BATCH)
    for _ in range(2):
        theirs, again = loaded(theirs, batch)
    ours = step.init(0, BATCH)
    for _ in range(2):
        ours, sums = step(ours, batch)
    got, expected = (
        jax.tree.map(np.asarray, state.replace(key=jax.random.key_data(state.key)))
        for state in (theirs, ours)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), got, expected)
    assert jaxdl.report({"loss": again["loss"]})["loss"] == pytest.approx(
        jaxdl.report({"loss": sums["loss"]})["loss"], rel=1e-6
    )
    with pytest.raises(ProgramError, match=r"image is \[\[8, 4\], 'float32'\]"):
        loaded(theirs, {name: x[:8] for name, x in BATCH.items()})
    with pytest.raises(ProgramError, match="lacks leaves"):
        loaded(theirs, {"image": BATCH["image"]})


def altered(path, **changes):
    with zipfile.ZipFile(path) as file:
        manifest, program = json.loads(file.read("manifest.json")), file.read("program")
    manifest |= changes
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("manifest.json", json.dumps(manifest))
        file.writestr("program", program if "jax" not in changes else b"nothing" * 9)


@needs_flatbuffers
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"platforms": ["tpu"]}, "is a program for tpu"),
        ({"devices": 9}, "for 9 devices"),
        ({"format": 2}, "has the format 2"),
        ({"jax": "0.1"}, "written by jax 0.1, cannot be read"),
    ],
)
def test_a_program_for_elsewhere(tmp_path, changes, message):
    path = tmp_path / "step"
    manifest = {"format": 1, "jax": jax.__version__, "platforms": ["cpu"], "devices": 1}
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("manifest.json", json.dumps(manifest))
        file.writestr("program", b"")
    altered(path, **changes)
    with pytest.raises(ProgramError, match=message):
        load_program(path)


@needs_flatbuffers
def test_what_is_no_program(tmp_path):
    (tmp_path / "text").write_text("text")
    for name in ("text", "absent"):
        with pytest.raises(ProgramError, match="cannot be read as an exported program"):
            load_program(tmp_path / name)


@pytest.mark.skipif(HAS_FLATBUFFERS, reason="flatbuffers is installed")
def test_the_missing_package_is_named(tmp_path):
    with pytest.raises(MissingExtraError, match="flatbuffers"):
        load_program(tmp_path / "step")
