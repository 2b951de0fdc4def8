"""Every recipe of the examples is proved, on its own data where that is made or comes with it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import jaxdl
from jaxdl import data
from jaxdl.cli.files import load
from jaxdl.testing.recipes import few_rows, prove_recipe

EXAMPLES = Path(__file__).parents[2] / "examples"
# Smaller than their defaults: fewer layers compile in less time, and a step is the same.
SETTINGS = {
    "cifar10": {"width": 8},
    "imagenet": {"model": "resnet18"},
    "shakespeare": {"num_layers": 2},
}
RECIPES = sorted(path.stem for path in EXAMPLES.glob("*.py") if "\ndef recipe(" in path.read_text())


@pytest.fixture(autouse=True)
def data_folder(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.getbasetemp() / "jaxdl-data"
    monkeypatch.setenv("JAXDL_DATA_DIR", str(folder))
    return folder


def made_digits(name, *, split, data_dir=None):
    """What TFDS would read, were it prepared."""
    rng = np.random.default_rng(0)
    return data.arrays(
        {
            "image": rng.integers(0, 256, (64, 28, 28, 1)).astype(np.uint8),
            "label": rng.integers(0, 10, 64).astype(np.int32),
        }
    )


def recipe_of(name, monkeypatch, **settings):
    if name == "mnist":
        monkeypatch.setattr(data, "tfds", made_digits)
        settings["batch_size"] = 8
    example = load(EXAMPLES / f"{name}.py")
    return example.build(example.config(**{**SETTINGS.get(name, {}), **settings}))


def test_there_are_recipes():
    assert len(RECIPES) >= 14


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_has_no_findings(name, monkeypatch):
    report = prove_recipe(recipe_of(name, monkeypatch), rows=8, fast=True)
    assert report.ok, str(report)


@pytest.mark.slow
def test_a_stack_of_layers_is_the_same_scanned_and_unrolled_in_parts_and_recomputed(monkeypatch):
    recipe = recipe_of("gpt", monkeypatch)
    scanned = recipe_of("gpt", monkeypatch, scan_layers=True)
    report = prove_recipe(recipe, rows=8, devices=(1, 2), scanned=scanned, skip=("eager",))
    assert report.ok, str(report)
    outcomes = {outcome.check: outcome for outcome in report.outcomes}
    for name in ("everything recomputed", "2 microbatches", "layers scanned or unrolled"):
        assert name in outcomes["variants"].note
    assert outcomes["gradient"].made


@pytest.mark.slow
def test_a_scanned_stack_that_is_another_model_is_found(monkeypatch):
    recipe = recipe_of("gpt", monkeypatch)
    other = recipe_of("gpt", monkeypatch, scan_layers=True)
    loss = other.objective.loss

    def doubled(*given, train):
        total, aux = loss(*given, train=train)
        return 2 * total, aux

    wrong = dataclasses.replace(other, objective=other.objective._replace(loss=doubled))
    only = [name for name in jaxdl.testing.CHECKS if name != "variants"]
    report = prove_recipe(recipe, rows=8, scanned=wrong, skip=only)
    assert report.names == {"variant-differs"}
    assert "scanned" in str(report)


def test_a_few_rows_have_a_mask_and_their_own_fields(monkeypatch):
    batches = few_rows(recipe_of("digits", monkeypatch), rows=16, batches=2)
    assert len(batches) == 2
    assert {len(value) for batch in batches for value in batch.values()} == {16}
    assert batches[0]["mask"].sum() == 16
    assert not np.array_equal(batches[0]["image"], batches[1]["image"])
