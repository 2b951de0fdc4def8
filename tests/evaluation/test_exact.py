"""Exact evaluation: the figures of the data set, however it is cut."""

from __future__ import annotations

import jax
import numpy as np
import optax
import pytest
from sklearn.metrics import accuracy_score, f1_score, log_loss

import jaxdl
from jaxdl import data, losses, metrics, models
from jaxdl.errors import ConfigError
from jaxdl.evaluation import evaluate

ROWS, CLASSES = 23, 3


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    columns = {
        "x": rng.normal(size=(ROWS, 4)).astype(np.float32),
        "label": rng.integers(0, CLASSES, ROWS).astype(np.int32),
    }
    model = models.MLP((5, CLASSES))
    objective = jaxdl.supervised(model, losses.softmax_cross_entropy, inputs="x")
    step = jaxdl.make_train_step(objective, optax.sgd(0.1))
    state = step.init(jax.random.key(0), columns)
    function = jaxdl.make_eval_step(objective, {"": metrics.classification_report(CLASSES)})
    logits = np.asarray(model.apply({"params": state.params}, columns["x"]), np.float64)
    return columns, state, function, logits


@pytest.mark.parametrize("size", [1, 7, 23, 64])
@pytest.mark.parametrize("shuffle", [False, True])
def test_any_batch_size_gives_scikit_learns_figures(problem, size, shuffle):
    columns, state, function, logits = problem
    placed = jaxdl.jit(function, layout=jaxdl.single())
    batches = data.Batches(data.arrays(columns), size, shuffle=shuffle)
    values = evaluate(placed, state, batches)
    labels, guesses = columns["label"], logits.argmax(-1)
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    assert values["/accuracy"] == accuracy_score(labels, guesses)
    assert values["/f1"] == pytest.approx(f1_score(labels, guesses, average="macro"), abs=1e-12)
    assert values["loss"] == pytest.approx(log_loss(labels, probabilities), rel=1e-6)


def test_splits_of_any_size_share_one_program(problem):
    columns, state, function, _ = problem
    placed = jaxdl.jit(function)
    whole = {name: column[:16] for name, column in columns.items()}
    figures = [
        evaluate(placed, state, data.Batches(data.arrays(part), size), rows=8)
        for part, size in ((columns, 8), (whole, 8), (columns, 5), (whole, 4))
    ]
    assert figures[0] == pytest.approx(figures[2])
    assert figures[1] == pytest.approx(figures[3])


def test_many_batches_are_added_in_pieces(problem):
    columns, state, function, _ = problem
    repeated = {name: np.concatenate([column] * 6) for name, column in columns.items()}
    placed = jaxdl.jit(function, layout=jaxdl.single())
    few = evaluate(placed, state, data.Batches(data.arrays(columns), 4))
    many = evaluate(placed, state, data.Batches(data.arrays(repeated), 4))
    assert many == pytest.approx(few)


def test_batches_that_leave_examples_out(problem):
    columns, state, function, _ = problem
    batches = data.Batches(data.arrays(columns), 5, remainder="drop")
    with pytest.raises(ConfigError, match="leaves out some of 23 examples"):
        evaluate(jaxdl.jit(function, layout=jaxdl.single()), state, batches)


def test_fewer_rows_than_the_batches_have(problem):
    columns, state, function, _ = problem
    with pytest.raises(ConfigError, match="rows is 4, the batches have 5"):
        evaluate(
            jaxdl.jit(function, layout=jaxdl.single()),
            state,
            data.Batches(data.arrays(columns), 5),
            rows=4,
        )
