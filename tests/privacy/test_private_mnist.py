"""The private example: MNIST's files as they were published, and a run on the digits."""

from __future__ import annotations

import gzip
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxdl.cli.files import load
from jaxdl.errors import DataError
from jaxdl.recipe import place, train

EXAMPLE = load(Path(__file__).parents[2] / "examples" / "private_mnist.py")


@pytest.fixture
def folder(tmp_path):
    """Files in the format of MNIST, of 5,016 and 4 images."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 5016), ("t10k", 4)):
        images = rng.integers(0, 256, (count, 28, 28)).astype(np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        header = np.array([2051, count, 28, 28], ">u4").tobytes()
        file = tmp_path / f"{split}-images-idx3-ubyte.gz"
        file.write_bytes(gzip.compress(header + images.tobytes(), 1))
        header = np.array([2049, count], ">u4").tobytes()
        file = tmp_path / f"{split}-labels-idx1-ubyte.gz"
        file.write_bytes(gzip.compress(header + labels.tobytes()))
    return tmp_path


def test_the_published_files_are_read(folder):
    recipe = EXAMPLE.build(EXAMPLE.config(data=folder))
    assert len(recipe.train.source) == 16
    assert recipe.train.expected_batch_size == 4
    np.testing.assert_array_equal(recipe.test.source.gather(np.arange(4))["label"], [0, 1, 2, 3])
    assert recipe.test.source.spec["image"].shape == (28, 28, 1)
    (ledger,) = recipe.hooks
    assert 2.9 < ledger.spent(recipe.steps) <= 3.0
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match="there is no .*t10k-labels") as caught:
        EXAMPLE.build(EXAMPLE.config(data=folder))
    assert "scikit-learn's digits" in caught.value.do


@pytest.mark.slow
def test_digits_are_learnt_at_epsilon_3(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXDL_DATA_DIR", str(tmp_path))
    recipe = EXAMPLE.build(EXAMPLE.config())
    placed = place(recipe, devices=jax.devices()[:1])
    outcome = train(recipe, placed=placed, progress=False)
    spent = [record for record in outcome.result.records if record.split == "privacy"]
    assert spent[-1].step == recipe.steps
    assert 2.9 < spent[-1].values["epsilon"] <= 3.0
    assert outcome.scores["test"]["accuracy"] > 0.8
