"""WaveNet's example: its rows, its histogram, and the digit that a run writes."""

from __future__ import annotations

import json
import runpy
import wave
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxdl.cli import main
from jaxdl.cli.files import load
from jaxdl.data import mu_law_decode, mu_law_encode
from jaxdl.data.audio import read_wav
from jaxdl.errors import ConfigError

FILE = Path(__file__).parents[2] / "examples" / "wavenet.py"
EXAMPLE, WAVENET = load(FILE), runpy.run_path(str(FILE))


def make(**settings):
    return EXAMPLE.build(EXAMPLE.config(**settings))


def parameters(recipe) -> int:
    params, _ = jax.eval_shape(recipe.objective.init, jax.random.key(0), recipe.train[0])
    return sum(x.size for x in jax.tree.leaves(params))


def test_it_fits_together():
    recipe = make(length=300)
    batch = recipe.train[0]
    assert batch["tokens"].shape == batch["mask"].shape == (8, 301)
    assert batch["condition"].shape == (8, 1)
    layer = 2 * 32 * 64 + 64 + 10 * 64 + 32 * 64 + 64 + 32 * 32 + 32
    heads = 64 * 64 + 64 + 64 * 256 + 256
    assert parameters(recipe) == 2 * 256 * 32 + 32 + 16 * layer + heads


def test_the_published_network_is_built_without_allocating_it():
    recipe = make(size="published", length=400, layout="fsdp", remat="full", dtype="bfloat16")
    # 30,054,912 without conditioning, and 30 times ten digits to gates of 2 x 256.
    assert parameters(recipe) == 30_054_912 + 30 * 10 * 512


def test_every_sample_is_asked_for_once():
    rng = np.random.default_rng(0)
    sounds = [(rng.uniform(-1, 1, size).astype(np.float32), size % 10) for size in (7, 10, 23)]
    columns = WAVENET["rows"](sounds, 10).columns
    assert columns["condition"].tolist() == [[7], [0], [3], [3], [3]]
    asked = columns["mask"][:, 1:] > 0
    codes = np.concatenate([mu_law_encode(sound) for sound, _ in sounds])
    np.testing.assert_array_equal(columns["tokens"][:, 1:][asked], codes)
    # What is read is silence at first, then the sample before.
    before = columns["tokens"][:, :-1][asked]
    starts = np.cumsum([0, 7, 10])
    np.testing.assert_array_equal(before[starts], 128)
    rest = np.setdiff1d(np.arange(40), starts)
    np.testing.assert_array_equal(before[rest], codes[rest - 1])


def test_the_histogram_is_of_real_samples():
    sound = np.array([-1.0, -1.0, -1.0, 1.0], np.float32)
    bits = WAVENET["surprise"](WAVENET["rows"]([(sound, 1)], 100))
    assert bits.shape == (256,)
    np.testing.assert_allclose(2.0 ** -bits[[0, 255, 128]], np.array([4, 2, 1]) / 260, rtol=1e-5)


def recordings(folder: Path) -> Path:
    """A few made recordings of every split."""
    rng = np.random.default_rng(0)
    for digit in (0, 7):
        for index in (2, 5, 12, 13):
            sound = rng.uniform(-1, 1, 1200 + 100 * index).astype(np.float32)
            WAVENET["write_wav"](folder / f"{digit}_someone_{index}.wav", sound)
    return folder


def test_recordings_are_cut_into_rows(tmp_path):
    recipe = make(data=recordings(tmp_path), length=500)
    # Of 1,400, 1,700, 2,400 and 2,500 samples.
    found = [len(x.source) for x in (recipe.test, recipe.validation, recipe.train)]
    assert found == [2 * 3, 2 * 4, 2 * 5 + 2 * 5]


def test_what_is_wrong_is_told():
    with pytest.raises(ConfigError, match="digit is 10") as caught:
        make(digit=10)
    assert caught.value.expected.startswith("a digit from 0 to 9")


def test_written_sound_is_read_back(tmp_path):
    codes = np.arange(256)
    WAVENET["write_wav"](tmp_path / "a.wav", mu_law_decode(codes))
    with wave.open(str(tmp_path / "a.wav")) as file:
        assert file.getparams()[:4] == (1, 2, 8000, 256)
    samples, _ = read_wav(tmp_path / "a.wav")
    np.testing.assert_array_equal(mu_law_encode(samples), codes)


@pytest.mark.slow
def test_the_command_trains_and_writes_the_digit(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settings = "--steps 6 --batch-size 2 --length 200 --digit 3 --seconds 0.02 --wav three.wav"
    run = ["--run-dir", "run", "--devices", "1", "--quiet"]
    assert main(["train", str(FILE), *settings.split(), *run]) == 0
    assert "unigram_bits" in capsys.readouterr().out
    with wave.open("three.wav") as file:
        assert file.getparams()[:4] == (1, 2, 8000, 160)
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    first, last = (next(x for x in rows if x["split"] == "train") for rows in (lines, lines[::-1]))
    assert last["step"] == 6
    assert 0 < last["bits_per_sample"] <= first["bits_per_sample"] < 10
