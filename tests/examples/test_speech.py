"""Spoken digits: the features, and that the made sounds are learned."""

from __future__ import annotations

import runpy
import wave
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxdl.cli.files import load
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


def test_recordings_are_spelled(tmp_path):
    recipe = make_recipe(data=recordings(tmp_path))
    assert [len(x.source) for x in (recipe.train, recipe.validation, recipe.test)] == [4, 2, 2]
    batch = recipe.test[0]
    # The seventh recording of 1,400 samples: 16 frames of 200, 80 apart.
    assert batch["mask"][:2].sum(1).tolist() == [16, 16]
    letters = {number: letter for letter, number in runpy.run_path(str(FILE))["LETTERS"].items()}
    spelled = ["".join(letters[int(t)] for t in row if t) for row in batch["label"][:2]]
    assert spelled == ["zero", "seven"]


@pytest.mark.slow
def test_made_sounds_are_spelled():
    recipe = make_recipe(steps=150)
    outcome = train(recipe, placed=place(recipe, devices=jax.devices()[:1]), progress=False)
    assert outcome.scores["test"]["words"] < 0.1
