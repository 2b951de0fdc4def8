"""What the hosts of a recipe compare: the same for the same run, and another for any other."""

from __future__ import annotations

import dataclasses

import numpy as np
import optax
import pytest

from jaxdl import Recipe, data, losses, models, supervised
from jaxdl.hooks import LossSpike
from jaxdl.recipe import place
from jaxdl.recipe.agreeing import agree, facts


def recipe(rate: float = 0.1, rows: int = 8, value: float = 1.0) -> Recipe:
    x = np.full((24, 3), value, np.float32)
    source = data.arrays({"x": x, "label": np.zeros(24, np.int32)})
    return Recipe(
        name="r",
        objective=supervised(models.MLP((4, 2)), losses.softmax_cross_entropy, inputs="x"),
        optimizer=optax.sgd(rate),
        train=data.Batches(source, rows),
        steps=9,
        spike=LossSpike(),
    )


def of(made: Recipe, source=None, **settings):
    return facts(made, place(made), settings, source)


def test_the_same_run_gives_the_same_facts(tmp_path):
    path = tmp_path / "recipe.py"
    path.write_text("x = 1\n")
    first, second = of(recipe(), path, steps=9), of(recipe(), path, steps=9)
    changing = {k for k in first if first[k] != second[k]}
    # The object's place in memory is left out when facts are compared.
    assert changing <= {"recipe.spike"}
    assert first["global batch.x"] == "('float32', 8, 3)"
    assert len(first["the train step's program"]) == 16


@pytest.mark.parametrize(
    ("other", "fact"),
    [
        (recipe(rate=0.2), "the train step's program"),
        (recipe(rows=16), "global batch.x"),
        (recipe(value=2.0), "recipe.data"),
        (dataclasses.replace(recipe(), steps=10), "recipe.steps"),
        (dataclasses.replace(recipe(), seed=1), "recipe.seed"),
        (dataclasses.replace(recipe(), ema_decay=0.9), "recipe.ema_decay"),
    ],
)
def test_another_run_gives_other_facts(other, fact):
    assert of(recipe())[fact] != of(other)[fact]


def test_another_file_and_another_setting_are_other_facts(tmp_path):
    one, two = tmp_path / "one.py", tmp_path / "two.py"
    one.write_text("x = 1\n")
    two.write_text("x = 2\n")
    assert of(recipe(), one)["the recipe file"] != of(recipe(), two)["the recipe file"]
    assert of(recipe(), None, optimizer={"name": "adam"})["setting.optimizer.name"] == "'adam'"


def test_one_process_compares_nothing():
    made = recipe()
    agree(made, place(made), {}, None)
