"""cifar10 and imagenet: what their settings build, their data, and a few steps."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest

from jaxdl.cli.files import load
from jaxdl.errors import ConfigError, DataError
from jaxdl.recipe import place, train

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(autouse=True)
def data_folder(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.getbasetemp() / "jaxdl-data"
    monkeypatch.setenv("JAXDL_DATA_DIR", str(folder))


def make_recipe(name, **settings):
    example = load(EXAMPLES / f"{name}.py")
    return example.build(example.config(**settings))


def parameters(recipe) -> int:
    params, _ = jax.eval_shape(recipe.objective.init, jax.random.key(0), recipe.train[0])
    return sum(x.size for x in jax.tree.leaves(params))


@pytest.fixture
def npz(tmp_path):
    """A file as CIFAR-10's, of 40 and 8 images."""
    rng = np.random.default_rng(0)
    fields = {}
    for part, rows in (("train", 40), ("test", 8)):
        fields[f"x_{part}"] = rng.integers(0, 256, (rows, 32, 32, 3), dtype=np.uint8)
        fields[f"y_{part}"] = np.arange(rows, dtype=np.int32) % 10
    np.savez(tmp_path / "cifar10.npz", **fields)
    return tmp_path / "cifar10.npz"


def test_cifar10_reads_its_file(npz):
    recipe = make_recipe("cifar10", data=npz, batch_size=8)
    assert parameters(recipe) == 701_466
    assert len(recipe.train.source) == 38
    assert len(recipe.validation.source) == 2
    batch, again = recipe.train[1], recipe.train[1]
    assert batch["image"].shape == (8, 24, 24, 3)
    assert batch["image"].dtype == np.float32
    np.testing.assert_array_equal(batch["image"], again["image"])
    assert recipe.test[0]["image"].shape == (8, 32, 32, 3)
    whole = np.load(npz)["x_test"][0].astype(np.float32)
    mean, deviation = np.float32((125.3, 123.0, 113.9)), np.float32((63.0, 62.1, 66.7))
    np.testing.assert_allclose(recipe.test[0]["image"][0], (whole - mean) / deviation, rtol=1e-5)


def test_cifar10_crops_and_mirrors(npz):
    recipe = make_recipe("cifar10", data=npz, batch_size=40, validation_share=0.0, crop=36)
    plain = make_recipe(
        "cifar10", data=npz, batch_size=40, validation_share=0.0, crop=36, flip=False
    )
    rows = recipe.train.rows(0)
    changed, same = recipe.train[0]["image"], plain.train[0]["image"]
    mirrored = [np.array_equal(a, b[:, ::-1]) for a, b in zip(changed, same, strict=False)]
    kept = [np.array_equal(a, b) for a, b in zip(changed, same, strict=False)]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True))
    assert 5 < sum(mirrored) < len(rows) - 5


def test_cifar10_without_a_file_shows_digits():
    recipe = make_recipe("cifar10", model="vgg11_bn", width=4)
    assert recipe.train[0]["image"].shape == (64, 24, 24, 3)
    assert len(recipe.test.source) == 360
    with pytest.raises(ConfigError, match="crop is 37"):
        make_recipe("cifar10", crop=37)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("resnet50", 25_557_032),
        ("vgg16", 138_357_544),
        ("inception_v3", 27_161_264),
        ("vit_s16", 22_050_664),
    ],
)
def test_imagenet_builds_the_published_networks(model, expected):
    settings = {"classes": 1000, "batch_size": 2, "width": 64 if model[0] != "v" else None}
    side = 299 if model == "inception_v3" else 224
    assert parameters(make_recipe("imagenet", model=model, image_size=side, **settings)) == expected


@pytest.fixture
def photographs(tmp_path):
    """JPEG files of all shapes in class folders."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for part in ("train", "validation"):
        for label, name in enumerate(("cat", "dog")):
            folder = tmp_path / part / name
            folder.mkdir(parents=True)
            for index in range(3):
                size = (90 + 30 * index, 120, 3)
                pixels = rng.integers(0, 60, size, dtype=np.uint8) + np.uint8(150 * label)
                Image.fromarray(pixels).save(folder / f"{index}.jpg")
    return tmp_path


def test_imagenet_reads_a_folder_of_photographs(photographs):
    recipe = make_recipe("imagenet", data=photographs, image_size=80, classes=2, batch_size=4)
    batch = recipe.validation[0]
    assert batch["image"].shape == (4, 80, 80, 3)
    dark, light = (batch["image"][batch["label"] == k].mean() for k in (0, 1))
    assert light - dark > 1
    assert recipe.train[0]["image"].shape == (4, 80, 80, 3)
    for file in (photographs / "validation" / "dog").iterdir():
        file.write_bytes(b"no image")
    with pytest.raises(DataError, match="cannot be read"):
        recipe.validation[1]


def test_imagenet_says_when_there_are_no_photographs(tmp_path):
    (tmp_path / "train" / "cat").mkdir(parents=True)
    with pytest.raises(DataError, match="there are no photographs"):
        make_recipe("imagenet", data=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("cifar10", {"width": 4, "epochs": 1}),
        ("imagenet", {"model": "resnet18", "width": 4, "epochs": 1, "batch_size": 8}),
    ],
)
def test_a_short_run_trains(name, settings):
    recipe = make_recipe(name, **settings)
    outcome = train(recipe, placed=place(recipe, devices=jax.devices()[:1]), progress=False)
    assert np.isfinite(outcome.scores["validation"]["loss"])
