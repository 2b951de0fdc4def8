"""cifar10 and imagenet: what their settings build, their data, and a few steps."""

from __future__ import annotations

import io
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from jaxdl import data
from jaxdl.cli import main
from jaxdl.cli.files import load
from jaxdl.errors import ConfigError, DataError

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
    mean, std = np.float32(data.CIFAR10_MEAN), np.float32(data.CIFAR10_STD)
    expected = (whole / 255 - mean) / std
    np.testing.assert_allclose(recipe.test[0]["image"][0], expected, rtol=1e-5, atol=1e-6)


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


@pytest.fixture
def photographs(tmp_path):
    """JPEG files of all shapes in class folders."""
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


def prepared(root, name, *, version, features, splits):
    """Prepares made rows as the records of a stock set of TFDS, which its own builder then reads.

    ``splits`` are rows by split; images are encoded already, as TFDS encodes with TensorFlow.
    """
    tfds = pytest.importorskip("tensorflow_datasets")

    def info(self):
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features(tfds))
        )

    def generators(self, _):
        return {split: enumerate(rows) for split, rows in splits.items()}

    body = {
        "__module__": __name__,
        "name": name,
        "VERSION": tfds.core.Version(version),
        "_info": info,
        "_split_generators": generators,
        "_generate_examples": lambda self: iter(()),
    }
    kind = type("Made", (tfds.core.GeneratorBasedBuilder,), body, skip_registration=True)
    kind(data_dir=root, file_format="array_record").download_and_prepare()
    return root


def encoded(pixels, form):
    """The bytes of an image file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def tfds_cifar10(tmp_path_factory):
    """TFDS's cifar10 of 20 and 8 made images; image ``k`` of a split is all ``k``."""

    def features(tfds):
        image = tfds.features.Image(shape=(32, 32, 3))
        label = tfds.features.ClassLabel(num_classes=10)
        return {"id": tfds.features.Text(), "image": image, "label": label}

    def row(k):
        image = encoded(np.full((32, 32, 3), k, np.uint8), "PNG")
        return {"id": f"made_{k}", "image": image, "label": k % 10}

    splits = {"train": [row(k) for k in range(20)], "test": [row(k) for k in range(8)]}
    root = tmp_path_factory.mktemp("tfds-cifar10")
    return prepared(root, "cifar10", version="3.0.2", features=features, splits=splits)


@pytest.fixture(scope="module")
def tfds_imagenet(tmp_path_factory):
    """TFDS's imagenet2012 of 8 and 4 made JPEGs of all sizes, some of them grey."""

    def features(tfds):
        image = tfds.features.Image(encoding_format="jpeg")
        label = tfds.features.ClassLabel(num_classes=1000)
        return {"image": image, "label": label, "file_name": tfds.features.Text()}

    def row(k):
        shape = (40 + 8 * k, 60) if k % 4 == 3 else (40 + 8 * k, 60, 3)
        image = encoded(np.full(shape, 20 + 200 * (k % 2), np.uint8), "JPEG")
        return {"image": image, "label": k % 2, "file_name": f"n_{k}.JPEG"}

    splits = {"train": [row(k) for k in range(8)], "validation": [row(k) for k in range(4)]}
    root = tmp_path_factory.mktemp("tfds-imagenet")
    return prepared(root, "imagenet2012", version="5.1.0", features=features, splits=splits)


@pytest.mark.slow
def test_cifar10_reads_what_tfds_prepared(tfds_cifar10):
    recipe = make_recipe("cifar10", data=tfds_cifar10, batch_size=8)
    assert len(recipe.train.source) == 19
    assert len(recipe.validation.source) == 1
    batch, rows = recipe.test[0], np.arange(8)
    assert batch["image"].shape == (8, 32, 32, 3)
    order = np.argsort(batch["image"][:, 0, 0, 0])
    np.testing.assert_array_equal(batch["label"][order], rows)
    red = (rows / 255 - data.CIFAR10_MEAN[0]) / data.CIFAR10_STD[0]
    np.testing.assert_allclose(batch["image"][order, 9, 9, 0], red, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("cache", [False, True])
def test_imagenet_reads_what_tfds_prepared(tfds_imagenet, cache):
    settings = {"classes": 2, "image_size": 32, "batch_size": 4, "cache": cache}
    recipe = make_recipe("imagenet", data=tfds_imagenet, **settings)
    assert len(recipe.train.source) == 8
    batch = recipe.validation[0]
    assert batch["image"].shape == (4, 32, 32, 3)
    assert sorted(batch["label"]) == [0, 0, 1, 1]
    # Dark and light, the grey ones too: of the first channel.
    shade = (np.where(batch["label"] == 1, 220, 20) / 255 - data.IMAGENET_MEAN[0]) / (
        data.IMAGENET_STD[0]
    )
    np.testing.assert_allclose(batch["image"][:, 5, 5, 0], shade, atol=0.05)


TINY = ("--width", 4, "--dtype", "float32", "--batch-size", 4, "--devices", 1, "--quiet")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "data_fixture", "words"),
    [
        ("imagenet", "photographs", ("--model", "resnet18", "--image-size", 32, "--classes", 2)),
        ("imagenet", "tfds_imagenet", ("--model", "resnet18", "--image-size", 32, "--classes", 2)),
        ("cifar10", "tfds_cifar10", ("--model", "vgg11", "--epochs", 1, "--validation-share", 0.6)),
    ],
)
def test_it_trains_from_the_command_line(request, tmp_path, capsys, name, data_fixture, words):
    folder = request.getfixturevalue(data_fixture)
    if name == "imagenet":
        words = (*words, "--steps", 2)
    file, run = EXAMPLES / f"{name}.py", tmp_path / "run"
    command = ["train", file, "--data", folder, "--run-dir", run, *TINY, *words]
    assert main([str(word) for word in command]) == 0, capsys.readouterr().err
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["steps"], summary["stopped"]) == (2, None)
    assert np.isfinite(summary["scores"]["validation"]["loss"])


def test_imagenet_of_a_few_steps_falls_where_it_can():
    recipes = [
        make_recipe("imagenet", model="resnet18", batch_size=8, steps=steps) for steps in (1, 2, 20)
    ]
    assert [recipe.steps for recipe in recipes] == [1, 2, 20]
