"""Spoken digits: the features, the files, and that the made sounds are learned."""

from __future__ import annotations

import runpy
import tarfile
import wave
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxdl.cli.files import load
from jaxdl.errors import DataError
from jaxdl.recipe import place, train

FILE = Path(__file__).parents[2] / "examples" / "speech.py"


def recordings(folder: Path) -> Path:
    """A few made recordings of every split."""
    rng = np.random.default_rng(0)
    for digit in (0, 7):
        for index in (2, 5, 12, 13):
            with wave.open(str(folder / f"{digit}_someone_{index}.wav"), "wb") as out:
                out.setnchannels(1)
                out.setsampwidth(2)
                out.setframerate(8000)
                count = 1200 + 100 * index
                out.writeframes(rng.integers(-9999, 9999, count).astype("<i2").tobytes())
    return folder


def make_recipe(**settings):
    example = load(FILE)
    return example.build(example.config(**settings))


@pytest.mark.slow
def test_a_folder_and_its_tar_are_the_same(tmp_path):
    folder = recordings(tmp_path)
    with tarfile.open(tmp_path / "all.tar", "w") as archive:
        for path in sorted(folder.glob("*.wav")):
            archive.add(path, f"recordings/{path.name}")
    first, second = (make_recipe(data=path) for path in (folder, tmp_path / "all.tar"))
    assert [len(x.source) for x in (first.train, first.validation, first.test)] == [4, 2, 2]
    for name, value in first.test[0].items():
        np.testing.assert_array_equal(value, second.test[0][name])
    batch = first.test[0]
    # The seventh recording of 1,400 samples: 16 frames of 200, 80 apart.
    assert batch["mask"][:2].sum(1).tolist() == [16, 16]
    letters = {number: letter for letter, number in runpy.run_path(str(FILE))["LETTERS"].items()}
    spelled = ["".join(letters[int(t)] for t in row if t) for row in batch["label"][:2]]
    assert spelled == ["zero", "seven"]


def test_what_is_no_data_set_is_told(tmp_path):
    with pytest.raises(DataError, match="0 test recordings"):
        make_recipe(data=tmp_path)
    with pytest.raises(DataError, match="no folder and no tar"):
        make_recipe(data=tmp_path / "absent.tar")
    (tmp_path / "hello.wav").write_bytes(b"")
    with pytest.raises(DataError, match=r"holds hello\.wav"):
        make_recipe(data=tmp_path)


@pytest.mark.slow
def test_made_sounds_are_spelled():
    recipe = make_recipe(steps=150)
    outcome = train(recipe, placed=place(recipe, devices=jax.devices()[:1]), progress=False)
    assert outcome.scores["test"]["words"] < 0.1
