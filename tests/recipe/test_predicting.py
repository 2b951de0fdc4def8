"""What a model says of every row of a split, and what is refused."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdl
from jaxdl import data, losses, metrics, models, objectives
from jaxdl.errors import ConfigError, HostError, ObjectiveError
from jaxdl.recipe import Recipe, place, predict_split, score


def batches(rows: int, size: int, **options) -> data.Batches:
    x = np.random.default_rng(rows).normal(size=(rows, 3)).astype(np.float32)
    columns = {"x": x, "label": (x[:, 0] > 0).astype(np.int32), "id": np.arange(rows)}
    return data.Batches(data.arrays(columns), size, **options)


def make_recipe(**changes) -> Recipe:
    given = {
        "name": "tiny",
        "objective": jaxdl.supervised(models.MLP((4, 2)), losses.softmax_cross_entropy, inputs="x"),
        "optimizer": optax.sgd(0.1),
        "train": batches(12, 8, seed=3),
        "test": batches(21, 8, seed=5),
        "steps": 1,
        "metrics": {"accuracy": metrics.accuracy()},
    }
    return Recipe(**{**given, **changes})


@pytest.fixture(scope="module")
def measured():
    recipe = make_recipe(ema_decay=0.5)
    placed = place(recipe)
    state = placed.train.init(1, recipe.train[0])
    state, _ = placed.train(state, recipe.train[0])
    return recipe, placed, state


def test_rows_come_in_the_order_of_the_source_without_padding(measured):
    recipe, placed, state = measured
    found = predict_split(recipe, placed, state, "test")
    assert found.batch["id"].tolist() == list(range(21))
    assert sorted(found.batch) == ["id", "label", "x"]
    expected = models.MLP((4, 2)).apply({"params": jax.device_get(state.ema)}, found.batch["x"])
    np.testing.assert_allclose(found.outputs, expected, rtol=1e-6, atol=1e-6)
    values = losses.softmax_cross_entropy(expected, found.batch["label"])
    np.testing.assert_allclose(found.loss, values, rtol=1e-5)
    assert found.weight.tolist() == [1.0] * 21


def test_what_is_kept_adds_up_to_the_scores(measured):
    recipe, placed, state = measured
    scores = score(recipe, placed, state, ["test"])["test"]
    found = predict_split(recipe, placed, state, "test", fields=["label"])
    assert list(found.batch) == ["label"]
    right = found.outputs.argmax(-1) == found.batch["label"]
    assert np.mean(right) == scores["accuracy"]
    assert found.loss.sum() / found.weight.sum() == pytest.approx(scores["loss"], rel=1e-6)


def test_other_devices_and_batches_say_the_same(measured):
    recipe, placed, state = measured
    other = dataclasses.replace(recipe, test=batches(21, 5, seed=9), layout=jaxdl.single())
    alone = place(other, devices=jax.devices()[:1])
    here = predict_split(recipe, placed, state, "test")
    there = predict_split(other, alone, jax.device_get(state), "test")
    np.testing.assert_array_equal(here.batch["id"], there.batch["id"])
    np.testing.assert_allclose(here.outputs, there.outputs, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(here.loss, there.loss, rtol=1e-5)


def tokens(**options) -> data.Batches:
    rng = np.random.default_rng(0)
    columns = {"tokens": rng.integers(1, 7, size=(5, 4)).astype(np.int32)}
    columns["mask"] = np.array([[1, 1, 1, 1], [1, 1, 1, 0], [0, 0, 0, 0], [1, 1, 0, 0], [1] * 4])
    return data.Batches(data.arrays(columns), 4, **options)


def test_a_sequence_weighs_its_tokens_and_a_masked_row_nothing():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, tokens):
            return nn.Dense(7)(nn.Embed(7, 4)(tokens))

    recipe = make_recipe(
        objective=objectives.language_model(Model()), train=tokens(), test=tokens(), metrics={}
    )
    placed = place(recipe)
    state = placed.train.init(0, recipe.train[0])
    found = predict_split(recipe, placed, state, "test", with_outputs=False)
    assert found.outputs is None
    assert found.weight.tolist() == [3, 2, 0, 1, 3]
    assert found.loss[2] == 0
    assert found.batch["mask"].shape == (5, 4)
    loss = score(recipe, placed, state, ["test"])["test"]["loss"]
    assert found.loss.sum() / found.weight.sum() == pytest.approx(loss, rel=1e-6)


def test_what_has_no_rows_of_its_own_is_refused(measured, monkeypatch):
    recipe, placed, state = measured
    with pytest.raises(ConfigError, match="no split 'tset'"):
        predict_split(recipe, placed, state, "tset")
    with pytest.raises(ConfigError, match="no field 'lable'"):
        predict_split(recipe, placed, state, "test", fields=["lable"])
    plain = recipe.objective

    def silent(*args, **options):
        total, aux = plain.loss(*args, **options)
        return total, aux._replace(outputs=None)

    def pooled(*args, **options):
        total, aux = plain.loss(*args, **options)
        return total, aux._replace(outputs=jnp.sum(aux.outputs, axis=0))

    for change, words in (
        ({"loss": silent}, "no Aux.outputs"),
        ({"loss": pooled}, r"outputs of shape \[2\] for 8 rows"),
        ({"mixes_rows": True}, "made of the other rows"),
    ):
        other = dataclasses.replace(recipe, objective=plain._replace(**change))
        with pytest.raises(ObjectiveError, match=words):
            predict_split(other, placed, state, "test")
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(HostError, match="on 2 hosts"):
        predict_split(recipe, placed, state, "test")


def test_without_the_loss_rows_may_mix(measured):
    recipe, placed, state = measured
    mixing = recipe.objective._replace(mixes_rows=True)
    other = dataclasses.replace(recipe, objective=mixing)
    found = predict_split(other, placed, state, "test", with_loss=False)
    assert found.loss is None
    assert found.weight is None
    assert found.outputs.shape == (21, 2)
