"""Counts are equal to the bit over batch sizes, device counts and orders."""

from __future__ import annotations

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdl
from jaxdl import data, losses, metrics
from jaxdl.evaluation import evaluate, measure

ROWS, TIME, CLASSES = 53, 4, 6
COUNTS = {
    "accuracy": metrics.accuracy(),
    "top_2": metrics.top_k_accuracy(2),
    "confusion": metrics.confusion_matrix(CLASSES),
    "precision": metrics.precision(CLASSES),
    "recall": metrics.recall(CLASSES, average="weighted"),
    "f1": metrics.f1(CLASSES, average=None),
    "characters": metrics.token_error_rate(lambda scores: jnp.argmax(scores, -1)),
    "words": metrics.word_error_rate(lambda scores: jnp.argmax(scores, -1), separator=1),
}
CUTS = list(itertools.product([1, 3, 8, 13, 32, 64], [1, 2, 8]))
QUICK = [(3, 2), (8, 1), (13, 8)]


class Tagger(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(TIME * CLASSES)(x).reshape(-1, TIME, CLASSES)


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    columns = {
        "x": rng.normal(size=(ROWS, 5)).astype(np.float32),
        # The last class never occurs.
        "label": rng.integers(0, CLASSES - 1, (ROWS, TIME)).astype(np.int32),
    }
    objective = jaxdl.supervised(Tagger(), losses.softmax_cross_entropy, inputs="x")
    state = jaxdl.make_train_step(objective, optax.sgd(0.1)).init(jax.random.key(0), columns)
    step = jaxdl.make_eval_step(objective, COUNTS)
    return columns, step, state


def measured(problem, size, devices, *, backwards=False):
    columns, step, state = problem
    order = slice(None, None, -1 if backwards else 1)
    source = data.arrays({name: column[order] for name, column in columns.items()})
    placed = jaxdl.jit(step, devices=jax.devices()[:devices])
    batches = data.Batches(source, size, seed=size, shuffle=size % 2 == 1)
    return evaluate(placed, state, batches)


@pytest.fixture(scope="module")
def whole(problem):
    """By one device in one batch, and by plain numpy where that is a line."""
    values = measured(problem, ROWS, 1)
    columns, _, state = problem
    said = np.asarray(Tagger().apply({"params": state.params}, columns["x"])).argmax(-1)
    cells = columns["label"].reshape(-1) * CLASSES + said.reshape(-1)
    counts = np.bincount(cells, minlength=CLASSES**2).reshape(CLASSES, CLASSES)
    np.testing.assert_array_equal(values["confusion"], counts)
    assert values["accuracy"] == np.mean(said == columns["label"])
    return values


def same(values, whole):
    for name in COUNTS:
        np.testing.assert_array_equal(values[name], whole[name], err_msg=name)
    # Sums of floats round within a batch.
    assert values["loss"] == pytest.approx(whole["loss"], rel=1e-6)


@pytest.mark.parametrize(("size", "devices"), QUICK)
def test_some_cuts(problem, whole, size, devices):
    same(measured(problem, size, devices), whole)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "devices"), [cut for cut in CUTS if cut not in QUICK])
def test_every_cut(problem, whole, size, devices):
    same(measured(problem, size, devices), whole)


def test_the_order_does_not_matter(problem, whole):
    same(measured(problem, 13, 2, backwards=True), whole)


@pytest.mark.parametrize("size", [7, 53])
def test_a_plain_function_is_measured_alike(problem, whole, size):
    columns, _, state = problem

    def predict(batch):
        return Tagger().apply({"params": state.params}, batch["x"])

    for source in (columns, data.arrays(columns)):
        values = measure(predict, source, COUNTS, batch_size=size)
        same({**values, "loss": whole["loss"]}, whole)
