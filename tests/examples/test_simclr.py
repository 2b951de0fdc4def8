"""SimCLR's example: its views, its splits, its probes, and what a short run logs."""

from __future__ import annotations

import itertools
import json
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.cli.files import load
from jaxdl.errors import ConfigError, DataError
from jaxdl.recipe import place, train

FILE = Path(__file__).parents[2] / "examples" / "simclr.py"
EXAMPLE, SIMCLR = load(FILE), runpy.run_path(str(FILE))


@pytest.fixture(autouse=True)
def data_folder(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.getbasetemp() / "jaxdl-data"
    monkeypatch.setenv("JAXDL_DATA_DIR", str(folder))


def make(**settings):
    return EXAMPLE.build(EXAMPLE.config(**settings))


def test_it_fits_together():
    recipe = make(batch_size=100, epochs=5)
    batch = recipe.train[0]
    # No label, bytes, and full batches: 1,257 digits are 12 of 100.
    assert set(batch) == {"image"}
    assert batch["image"].shape == (100, 32, 32, 3)
    assert batch["image"].dtype == np.uint8
    assert recipe.steps == 5 * 12
    assert len(recipe.test.source) == 360
    params, _ = jax.eval_shape(recipe.objective.init, jax.random.key(0), batch)
    # ResNet-10 as stem, blocks (with a norm after each convolution), last layer; then the head.
    widths, wide = [16, 16, 32, 64, 128], 128
    expected = 27 * 16 + 2 * 16 + wide * wide + wide
    for stage, (read, made) in enumerate(itertools.pairwise(widths)):
        expected += 9 * read * made + 9 * made * made + 4 * made
        expected += (read * made + 2 * made) * (stage > 0)
    expected += wide * wide + wide + wide * 64 + 64
    assert sum(x.size for x in jax.tree.leaves(params)) == expected


def test_a_file_is_divided(tmp_path):
    rng = np.random.default_rng(0)
    columns = {}
    for part, rows in (("train", 40), ("test", 8)):
        columns[f"x_{part}"] = rng.integers(0, 256, (rows, 32, 32, 3), dtype=np.uint8)
        columns[f"y_{part}"] = np.arange(rows, dtype=np.int32) % 10
    np.savez(tmp_path / "photographs.npz", **columns)
    recipe = make(data=tmp_path / "photographs.npz", batch_size=8)
    assert [len(x.source) for x in (recipe.train, recipe.validation, recipe.test)] == [38, 2, 8]
    np.testing.assert_array_equal(recipe.test[0]["image"], columns["x_test"])
    np.testing.assert_array_equal(recipe.validation[0]["image"][:2], columns["x_train"][38:])


def test_wrong_settings_are_told(tmp_path):
    with pytest.raises(ConfigError, match="crop is 33") as caught:
        make(crop=33)
    assert caught.value.expected.startswith("a crop from 8 to 32")
    assert caught.value.do
    with pytest.raises(ConfigError, match="least 0"):
        make(least=0.0)
    with pytest.raises(DataError, match=r"absent\.npz"):
        make(data=tmp_path / "absent.npz")


def test_views_follow_from_their_keys():
    # Without changes of colour, which tests of their own hold, it compiles quickly.
    config = EXAMPLE.config(crop=16, strength=0.0)
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    view = jax.jit(lambda key, image: SIMCLR["viewed"](key, image, config=config, mirror=True))
    first, again, other = (np.asarray(view(jax.random.key(seed), image)) for seed in (1, 1, 2))
    assert first.shape == (16, 16, 3)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).mean() > 0.1
    # A view of nothing but white is white, whatever part and side it is.
    seen = view(jax.random.key(3), np.full((32, 32, 3), 255, np.uint8))
    np.testing.assert_allclose(seen, SIMCLR["plain"](jnp.ones((16, 16, 3))), atol=1e-4)


def test_the_probe_is_a_ridge_regression_chosen_by_validation():
    rng = np.random.default_rng(0)
    centres = 3 * rng.normal(size=(10, 6)).astype(np.float32)
    labels = {name: rng.integers(0, 10, rows).astype(np.int32) for name, rows in SIZES.items()}
    inputs = {
        name: centres[label] + rng.normal(size=(len(label), 6)).astype(np.float32)
        for name, label in labels.items()
    }
    found = SIMCLR["probe"](inputs, labels)
    # By hand, for each weight: the one that validation likes decides.
    mean, std = inputs["train"].mean(0), inputs["train"].std(0)
    given = {name: (x - mean) / std for name, x in inputs.items()}
    hot = np.eye(10)[labels["train"]]
    right = {}
    for ridge in SIMCLR["RIDGES"]:
        x = given["train"]
        weight = np.linalg.solve(x.T @ x + len(x) * ridge * np.eye(6), x.T @ (hot - hot.mean(0)))
        right[ridge] = {
            name: np.mean((given[name] @ weight + hot.mean(0)).argmax(1) == label)
            for name, label in labels.items()
        }
    best = max(right, key=lambda ridge: right[ridge]["validation"])
    assert found == pytest.approx(right[best]["test"], abs=0.011)
    assert found > 0.5


SIZES = {"train": 400, "validation": 100, "test": 200}


@pytest.mark.slow
def test_a_short_run_logs_its_probes(tmp_path):
    recipe = make(width=4, crop=8, epochs=1, batch_size=128)
    placed = place(recipe, devices=jax.devices()[:1])
    train(recipe, tmp_path, placed=placed, progress=False)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    (probe,) = [line for line in lines if line["split"] == "probe"]
    assert probe["step"] == recipe.steps == 9
    assert probe["pixels_accuracy"] > 0.85
    assert probe["trained_accuracy"] != probe["untrained_accuracy"]
    assert min(probe["trained_accuracy"], probe["untrained_accuracy"]) > 0.3
