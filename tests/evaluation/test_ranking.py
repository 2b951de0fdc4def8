"""Areas and log loss equal scikit-learn's, with ties and absent classes; comparisons of systems."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from jaxdl import evaluation
from jaxdl.errors import BatchError


def draw(seed, rows, classes, present=None):
    rng = np.random.default_rng(seed)
    # Few different scores: many ties.
    scores = np.round(rng.normal(size=(rows, classes)), 1)
    return scores, rng.integers(0, present or classes, rows)


@given(st.integers(0, 10_000), st.integers(2, 40))
def test_areas_of_an_event_are_scikit_learns(seed, rows):
    scores, labels = draw(seed, rows, 2)
    event = scores[:, 0]
    got = evaluation.auroc(event, labels), evaluation.average_precision(event, labels)
    if len(np.unique(labels)) < 2:
        assert np.isnan(got[0])
        assert (got[1] == 1.0) if labels.all() else np.isnan(got[1])
        return
    expected = sk.roc_auc_score(labels, event), sk.average_precision_score(labels, event)
    assert got == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("classes", [2, 5, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("average", ["macro", "weighted", None])
def test_areas_of_classes_are_one_against_the_rest(classes, average):
    scores, labels = draw(0, 2 * classes, classes)
    labels[:classes] = np.arange(classes)
    chances = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    got = evaluation.auroc(chances, labels, average=average)
    onehot = labels[:, None] == np.arange(classes)
    expected = sk.roc_auc_score(onehot, chances, average=average)
    np.testing.assert_allclose(got, expected, atol=1e-12)
    got = evaluation.average_precision(chances, labels, average=average)
    np.testing.assert_allclose(
        got, sk.average_precision_score(onehot, chances, average=average), atol=1e-12
    )


def test_a_class_without_rows_is_in_no_average():
    scores, labels = draw(1, 30, 4, present=3)
    by_class = evaluation.auroc(scores, labels, average=None)
    assert np.isnan(by_class).tolist() == [False, False, False, True]
    assert evaluation.auroc(scores, labels) == pytest.approx(by_class[:3].mean())
    one = np.zeros(5, int)
    assert np.isnan(evaluation.auroc(scores[:5], one))
    assert evaluation.average_precision(scores[:5], one) == 1.0


@pytest.mark.parametrize("present", [4, 1])
def test_log_loss_is_scikit_learns(present):
    scores, labels = draw(2, 50, 4, present=present)
    chances = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    chances[0] = np.eye(4)[(labels[0] + 1) % 4]
    expected = sk.log_loss(labels, chances, labels=range(4))
    assert evaluation.log_loss(chances, labels) == pytest.approx(expected, abs=1e-12)
    event = chances[:, 0]
    expected = sk.log_loss(labels == 0, event, labels=[False, True])
    assert evaluation.log_loss(event, labels == 0) == pytest.approx(expected, abs=1e-12)


def test_comparisons_are_those_of_the_single_tests():
    rng = np.random.default_rng(0)
    a, b = rng.random(60) < 0.8, rng.random(60) < 0.6
    found = evaluation.compare(a, b, seed=3, resamples=200, level=0.9)
    options = {"seed": 3, "resamples": 200, "level": 0.9}
    single = evaluation.bootstrap(np.mean, a, method="percentile", **options)
    assert found.a == pytest.approx(single, abs=1e-12)
    assert found.b.value == b.mean()
    gap = evaluation.paired_bootstrap(a, b, **options)
    assert found.difference == pytest.approx(gap, abs=1e-12)
    assert found.permutation == evaluation.permutation_test(a, b, seed=3, resamples=999)[1]
    assert found.mcnemar == evaluation.mcnemar(a, b)


def test_weights_count_and_rows_of_none_do_not():
    rng = np.random.default_rng(1)
    a, b, weight = rng.random(20), rng.random(20), rng.integers(0, 3, 20)
    a[weight == 0] = np.nan
    found = evaluation.compare(a, b, weight, seed=0, resamples=50)
    some = weight > 0
    assert found.a.value == pytest.approx(np.average(a[some], weights=weight[some]))
    assert found.mcnemar is None
    again = evaluation.compare(a[some], b[some], weight[some], seed=0, resamples=50)
    assert found == again


def test_a_system_against_itself_and_one_that_is_always_right():
    right = np.array([True, False, True, True])
    found = evaluation.compare(right, right, seed=0, resamples=50)
    assert (found.difference, found.permutation) == ((0.0, 0.0, 0.0, 1.0), 1.0)
    always = np.ones(8, bool)
    # 299 of them: enough to try all 256 exchanges.
    found = evaluation.compare(always, ~always, seed=0, resamples=60)
    assert found.a == (1.0, 1.0, 1.0)
    assert found.difference.value == 1.0
    assert found.permutation == found.mcnemar.p_value == 2 / 2**8


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: evaluation.auroc([[0.5, np.nan]], [0]), "finite scores"),
        (lambda: evaluation.auroc([0.5, 0.1], [0, 2]), "labels are from 0 to 2"),
        (lambda: evaluation.auroc([0.5, 0.1], [0.0, 1.0]), "labels float64"),
        (lambda: evaluation.average_precision([], []), "at least 1 rows"),
        (lambda: evaluation.log_loss([[0.5, 0.6]], [0]), "sum to 1.1"),
        (lambda: evaluation.compare([1.0], [1.0], seed=0), "at least 2 rows"),
        (lambda: evaluation.compare([1.0, 2.0], [1.0, 2.0], [-1, 1], seed=0), "from -1"),
        (lambda: evaluation.compare([1.0, 2.0], [1.0], seed=0), "equally many rows"),
        (lambda: evaluation.compare([1.0, np.nan], [1.0, 2.0], seed=0), "not finite"),
        (lambda: evaluation.holm([0.5, 1.5]), "p-values"),
    ],
)
def test_what_cannot_be_ranked_or_compared_is_said(call, message):
    with pytest.raises(BatchError, match=message):
        call()


def test_a_mean_over_no_weight_is_none():
    assert np.isnan(evaluation.weighted_mean(np.array([1.0]), np.array([0.0])))
    assert evaluation.holm([]).tolist() == []
