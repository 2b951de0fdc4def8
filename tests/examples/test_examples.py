"""The examples: each builds, each says what it needs, each learns what its docstring promises."""

from __future__ import annotations

import ast
import runpy
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
    """One folder for all tests here, so that digits are prepared once."""
    folder = tmp_path_factory.getbasetemp() / "jaxdl-data"
    monkeypatch.setenv("JAXDL_DATA_DIR", str(folder))
    return folder


def make_recipe(name: str, **settings):
    example = load(EXAMPLES / f"{name}.py")
    return example.build(example.config(**settings))


def train_on_one_device(name: str):
    recipe = make_recipe(name)
    return train(recipe, placed=place(recipe, devices=jax.devices()[:1]), progress=False)


@pytest.mark.parametrize(("name", "parameters"), [("digits", 21_408), ("regression", 385)])
def test_it_fits_together(name, parameters):
    assert place(make_recipe(name)).parameters == parameters


def test_every_example_says_what_to_expect():
    for path in EXAMPLES.glob("*.py"):
        about = load_docstring(path)
        assert "Measured" in about, path.name
        assert " s on " in about, path.name


def load_docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text())) or ""


def test_mnist_that_is_not_prepared_says_how_to():
    with pytest.raises(DataError, match="'mnist' is not prepared") as caught:
        make_recipe("mnist")
    assert "jaxdl data prepare mnist --from FOLDER" in caught.value.do


def test_shifted_digits_are_digits_moved_by_a_pixel():
    shifted = runpy.run_path(str(EXAMPLES / "digits.py"))["shifted"]
    image = np.arange(1, 1 + 200 * 12, dtype=np.uint16).reshape(200, 4, 3, 1)
    moved = shifted({"image": image, "label": np.arange(200)}, np.random.default_rng(0))
    np.testing.assert_array_equal(moved["label"], np.arange(200))
    seen = set()
    for before, after in zip(image, moved["image"], strict=True):
        found = [
            (down, right)
            for down in (-1, 0, 1)
            for right in (-1, 0, 1)
            if np.array_equal(after, move(before, down, right))
        ]
        assert len(found) == 1
        seen |= set(found)
    assert len(seen) == 9


def move(image, down: int, right: int):
    """The same by loops: pixel (i, j) comes from (i - down, j - right), or is 0."""
    height, width, _ = image.shape
    out = np.zeros_like(image)
    for i in range(height):
        for j in range(width):
            if 0 <= i - down < height and 0 <= j - right < width:
                out[i, j] = image[i - down, j - right]
    return out


def test_regression_learns():
    outcome = train_on_one_device("regression")
    assert outcome.scores["validation"]["r2"] > 0.45
    assert outcome.scores["validation"]["loss"] < 0.5


@pytest.mark.parametrize(
    ("name", "settings", "parameters"),
    [
        ("gpt", {}, 96 * (256 + 64) + 2 * (12 * 96**2 + 13 * 96) + 2 * 96),
        ("gpt", {"layout": "fsdp_tensor", "parts": 2, "scan_layers": True}, 254_592),
        ("gpt", {"layout": "sequence", "remat": "dots", "batch_size": 8}, 254_592),
        ("resnet", {}, 701_178),
        pytest.param(
            *("resnet", {"images": "random", "image_size": 96, "batch_size": 8}, 11_689_512),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_its_settings_fit_together(name, settings, parameters):
    assert place(make_recipe(name, **settings)).parameters == parameters


@pytest.mark.parametrize(("size", "parameters"), [("124m", 124_475_904), ("1.5b", 1_557_686_400)])
def test_published_sizes_are_built_without_allocating_them(size, parameters):
    recipe = make_recipe("gpt", size=size, batch_size=8)
    state = jax.eval_shape(recipe.objective.init, jax.random.key(0), recipe.train[0])[0]
    assert sum(x.size for x in jax.tree.leaves(state)) == parameters
    assert recipe.train[0]["tokens"].shape == (8, 1025)
    np.testing.assert_array_equal(recipe.train[0]["tokens"], recipe.train[0]["tokens"])


def test_resnet50_of_imagenets_shape():
    recipe = make_recipe("resnet", images="random", depth=50, batch_size=8)
    state = jax.eval_shape(recipe.objective.init, jax.random.key(0), recipe.train[0])[0]
    assert sum(x.size for x in jax.tree.leaves(state)) == 25_557_032
    assert recipe.train[0]["image"].shape == (8, 224, 224, 3)


def test_digits_cannot_be_drawn_at_any_size():
    with pytest.raises(ConfigError, match="image_size is 20"):
        make_recipe("resnet", image_size=20)


def test_gpt_asks_for_every_byte_of_its_text_once():
    cut = runpy.run_path(str(EXAMPLES / "gpt.py"))["cut"]
    rows = cut(bytes(range(100)), 11)
    np.testing.assert_array_equal(rows[:, 1:].ravel(), np.arange(1, 91))
    np.testing.assert_array_equal(rows[:, 0], np.arange(0, 90, 10))


@pytest.mark.slow
def test_gpt_learns_to_spell():
    outcome = train_on_one_device("gpt")
    assert outcome.scores["test"]["perplexity"] < 9


@pytest.mark.slow
def test_resnet_reaches_95_percent():
    outcome = train_on_one_device("resnet")
    assert outcome.scores["test"]["accuracy"] >= 0.95


@pytest.mark.slow
def test_digits_reach_97_percent():
    outcome = train_on_one_device("digits")
    assert outcome.scores["test"]["accuracy"] >= 0.97


@pytest.mark.slow
def test_an_own_objective_learns():
    assert runpy.run_path(str(EXAMPLES / "own_objective.py"))["main"]() > 0.9
