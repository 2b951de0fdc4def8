"""The example of attacks: it reads MNIST's files, fits together, and withstands them."""

from __future__ import annotations

import gzip
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import robustness
from jaxdl.cli.files import load
from jaxdl.errors import DataError
from jaxdl.recipe import place, train

EXAMPLE = load(Path(__file__).parents[2] / "examples" / "robust_mnist.py")


@pytest.fixture(autouse=True)
def data_folder(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.getbasetemp() / "jaxdl-data"
    monkeypatch.setenv("JAXDL_DATA_DIR", str(folder))


def build(**settings):
    return EXAMPLE.build(EXAMPLE.config(**settings))


@pytest.fixture
def files(tmp_path):
    """MNIST's four files, of few rows, two of them packed."""
    rng = np.random.default_rng(0)
    for part, rows in (("train", 5020), ("t10k", 12)):
        images = rng.integers(0, 256, (rows, 28, 28)).astype(np.uint8)
        labels = (np.arange(rows) % 10).astype(np.uint8)
        for name, values in (("images-idx3", images), ("labels-idx1", labels)):
            head = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
            content = head + values.tobytes()
            path = tmp_path / f"{part}-{name}-ubyte"
            if part == "train":
                path.with_name(path.name + ".gz").write_bytes(gzip.compress(content))
            else:
                path.write_bytes(content)
    return tmp_path


def test_it_reads_the_files_of_mnist(files):
    recipe = build(data=files, batch_size=10)
    assert [len(b.source) for b in (recipe.train, recipe.validation, recipe.test)] == [20, 5000, 12]
    batch = recipe.test[0]
    raw = (files / "t10k-images-idx3-ubyte").read_bytes()[16:]
    expected = np.frombuffer(raw, np.uint8).reshape(-1, 28, 28, 1)[:10] / np.float32(255)
    np.testing.assert_array_equal(batch["image"], expected)
    np.testing.assert_array_equal(batch["label"], np.arange(10))
    (files / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="has no t10k-labels-idx1-ubyte"):
        build(data=files)


@pytest.mark.parametrize("defence", ["pgd", "noise", "none"])
def test_it_fits_together(defence):
    assert place(build(defence=defence)).parameters == 22_406


def test_half_of_the_images_are_attacked_in_full():
    eased = runpy.run_path(str(EXAMPLE.path))["Eased"](robustness.fgsm(0.25))
    images = jnp.full((400, 1, 1, 1), 0.5)
    keys = jax.random.split(jax.random.key(0), 400)
    moved = np.ravel(eased(lambda x: jnp.sum(x), images, keys) - images)
    assert 0.4 < np.mean(moved > 0.2499) < 0.6
    rest = moved[moved <= 0.2499]
    assert np.mean(rest) == pytest.approx(0.125, abs=0.02)
    assert rest.min() >= 0


@pytest.mark.slow
def test_it_withstands_attacks():
    """Under PGD it keeps what an undefended model of the same size loses."""
    found = {}
    for defence in ("pgd", "none"):
        recipe = build(defence=defence, epochs=30)
        placed = place(recipe, devices=jax.devices()[:1])
        found[defence] = train(recipe, placed=placed, progress=False).scores["test"]["accuracy"]
    assert found["pgd"] > 0.7
    assert found["pgd"] > found["none"] + 0.1
