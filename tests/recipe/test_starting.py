"""A new run that begins with the parameters of another: a new head on a frozen trunk."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import optax
import pytest

import jaxdl
from jaxdl import data, losses, models
from jaxdl.checkpoints import InitFrom
from jaxdl.errors import CheckpointError
from jaxdl.hooks import Every
from jaxdl.recipe import Recipe, train


def make_recipe(classes: int, **changes):
    x = np.random.default_rng(classes).normal(size=(24, 4)).astype(np.float32)
    label = (np.abs(x[:, 0]) * classes).astype(np.int32) % classes
    batches = data.Batches(data.arrays({"x": x, "label": label}), 8)
    options = {
        "name": "start",
        "objective": jaxdl.supervised(
            models.MLP((6, classes)), losses.softmax_cross_entropy, inputs="x"
        ),
        "optimizer": optax.adam(0.05),
        "train": batches,
        "steps": 6,
        "ema_decay": 0.5,
        "layout": jaxdl.single(),
    }
    return Recipe(**{**options, **changes})


@pytest.fixture(scope="module")
def trunk(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trunk")
    return folder, train(make_recipe(2), folder, progress=False).result.state


def test_a_new_head_on_a_frozen_trunk(trunk, tmp_path, capsys):
    folder, before = trunk
    start = InitFrom(folder, new="dense_1", ignore="dense_1")
    recipe = make_recipe(5, init_from=start, freeze="dense_0")
    state = train(recipe, tmp_path, progress=False).result.state
    np.testing.assert_array_equal(
        state.params["dense_0"]["kernel"], before.params["dense_0"]["kernel"]
    )
    assert state.params["dense_1"]["kernel"].shape == (6, 5)
    told = capsys.readouterr().err
    assert "dense_0/kernel" in told
    assert "loaded" in told
    # Going on with it does not need the other run.
    gone = dataclasses.replace(recipe, init_from=InitFrom(tmp_path / "gone"), steps=9)
    assert train(gone, tmp_path, progress=False).started == 6


def test_the_first_step_begins_there(trunk):
    folder, before = trunk
    seen = []
    hook = Every(1, lambda m: seen.append(jax.device_get(m.state.params)))
    recipe = make_recipe(2, init_from=InitFrom(folder), optimizer=optax.sgd(0.0), hooks=[hook])
    train(recipe, None, progress=False)
    jax.tree.map(np.testing.assert_array_equal, seen[0], jax.device_get(before.params))


def test_it_is_strict(trunk):
    with pytest.raises(CheckpointError) as caught:
        train(make_recipe(5, init_from=InitFrom(trunk[0])), None, progress=False)
    assert "dense_1/kernel" in str(caught.value)
    assert "[6, 2]" in str(caught.value)
    assert "[6, 5]" in str(caught.value)
