"""CartPole and the mixture of experts as examples: they fit together, and CartPole is solved."""

from __future__ import annotations

import dataclasses
import runpy
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxdl.cli.files import load
from jaxdl.errors import ConfigError
from jaxdl.recipe import place

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def cartpole():
    return runpy.run_path(str(EXAMPLES / "cartpole.py"))


@pytest.mark.parametrize("layout", ["data", "expert"])
def test_moe_fits_together(layout):
    example = load(EXAMPLES / "moe.py")
    recipe = example.build(example.config(layout=layout))
    params = jax.eval_shape(recipe.objective.init, jax.random.key(0), recipe.train[0])[0]
    block = 4 * 96 * 97 + 4 * 96 + 96 * 8 + 8 * 2 * 96 * 192
    count = sum(x.size for x in jax.tree.leaves(params))
    assert count == 96 * (256 + 64) + 2 * block + 2 * 96
    if layout == "expert":
        assert dict(recipe.layout.abstract_mesh(8).shape) == {"data": 2, "expert": 4}
        assert place(recipe).parameters == count


def test_every_row_is_read_once_an_epoch(cartpole):
    config = cartpole["Config"](batch_size=4, epochs=3)
    rows = {"action": np.arange(12)}
    read = [batch["action"] for batch in cartpole["batches"](rows, config, 0)]
    assert len(read) == 9
    for epoch in range(3):
        seen = np.concatenate(read[3 * epoch : 3 * epoch + 3])
        np.testing.assert_array_equal(np.sort(seen), np.arange(12))


def test_a_batch_that_leaves_rows_is_told(cartpole):
    with pytest.raises(ConfigError, match="batch_size 7 does not divide"):
        cartpole["updates"](cartpole["Config"](batch_size=7))


@pytest.mark.slow
def test_a_run_is_replayable(cartpole):
    config = cartpole["Config"](steps=512, count=4, length=32, batch_size=32, epochs=2)
    score = cartpole["main"](config)
    assert score == cartpole["main"](config)
    assert score != cartpole["main"](dataclasses.replace(config, seed=1))


@pytest.mark.slow
def test_cartpole_is_solved(cartpole):
    assert cartpole["main"](cartpole["Config"]()) >= 475
