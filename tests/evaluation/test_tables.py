"""Tables, slices, calibration and folds equal scikit-learn's, in edge cases too."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from jaxdl import evaluation, metrics
from jaxdl.errors import BatchError, ConfigError

K = 4


def draw(seed, rows=80, present=K):
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(rows, K))
    labels = rng.integers(0, present, rows)
    scores[np.arange(rows), labels] += 1.0
    e = np.exp(scores)
    return e / e.sum(1, keepdims=True), labels


@pytest.mark.parametrize("present", [K, 2, 1], ids=["all", "two absent", "one class"])
@pytest.mark.parametrize("seed", range(4))
def test_confusion_and_classes_are_scikit_learns(present, seed):
    chances, labels = draw(seed, present=present)
    said = chances.argmax(1)
    counts = evaluation.confusion(labels, said, K)
    np.testing.assert_array_equal(counts, sk.confusion_matrix(labels, said, labels=range(K)))
    expected = sk.precision_recall_fscore_support(labels, said, labels=range(K), zero_division=0)
    rows = evaluation.class_table(counts, list("abcd"))
    got = np.array([row[1:5] for row in rows]).T
    np.testing.assert_allclose(got, np.array(expected), rtol=1e-12)
    assert [row.predicted for row in rows] == np.bincount(said, minlength=K).tolist()
    assert [row.name for row in rows] == list("abcd")


def test_no_rows_at_all():
    counts = evaluation.confusion(np.zeros(0, int), np.zeros(0, int), 2)
    assert counts.tolist() == [[0, 0], [0, 0]]
    assert evaluation.class_table(counts)[1] == ("1", 0.0, 0.0, 0.0, 0, 0)


def test_the_matrix_is_that_of_the_metric_on_the_device():
    chances, labels = draw(1)
    metric = metrics.confusion_matrix(K)
    on_device = metric.measure(jnp.asarray(chances, jnp.float32), {"label": jnp.asarray(labels)})
    counts = evaluation.confusion(labels, chances.argmax(1), K)
    np.testing.assert_array_equal(np.asarray(on_device), counts)


def test_slices_are_scikit_learns_of_the_chosen_rows():
    chances, labels = draw(2)
    said, where = chances.argmax(1), np.array(["sea", "land", "air"])[np.arange(80) % 3]

    def f1(true, guess):
        return sk.f1_score(true, guess, average="macro")

    rows = evaluation.by_slice(f1, labels, said, by=where)
    assert [row.slice for row in rows] == ["air", "land", "sea"]
    for part, count, value in rows:
        assert count == (where == part).sum()
        assert value == f1(labels[where == part], said[where == part])


def test_an_empty_slice_is_told_and_not_measured():
    rows = evaluation.by_slice(
        lambda x: 1 / len(x), [1.0, 2.0], by=[True, True], values=[True, False]
    )
    assert rows[0] == (True, 2, 0.5)
    assert rows[1][:2] == (False, 0)
    assert np.isnan(rows[1].value)


def test_rows_whose_field_is_nan_are_a_slice():
    rows = evaluation.by_slice(np.sum, [1, 2, 4], by=[0.5, np.nan, np.nan])
    assert [(row.rows, row.value) for row in rows] == [(1, 1.0), (2, 6.0)]
    assert np.isnan(rows[1].slice)


def test_a_quantity_is_sliced_by_edges():
    by = [1.5, 2.0, 2.4, 3.0, np.nan, np.inf]
    rows = evaluation.by_slice(np.sum, [1, 2, 4, 8, 16, 32], by=by, edges=[2, 2.5, 2.75])
    assert [(row.slice, row.rows) for row in rows] == [
        ("below 2", 1),
        ("2 to 2.5", 2),
        ("2.5 to 2.75", 0),
        ("from 2.75", 2),
    ]
    assert [row.value for row in rows if row.rows] == [1.0, 6.0, 40.0]


@pytest.mark.parametrize(("equal", "strategy"), [("width", "uniform"), ("count", "quantile")])
@pytest.mark.parametrize("seed", range(3))
def test_reliability_is_scikit_learns(equal, strategy, seed):
    confidence, right = evaluation.top_label(*draw(seed))
    # Ties, and both ends.
    confidence = np.round(confidence, 1)
    confidence[:4] = [0.0, 1.0, 0.0, 1.0]
    table = evaluation.reliability(confidence, right, bins=10, equal=equal)
    observed, predicted = calibration_curve(right, confidence, n_bins=10, strategy=strategy)
    some = table.rows > 0
    np.testing.assert_allclose(table.observed[some], observed, atol=1e-12)
    np.testing.assert_allclose(table.predicted[some], predicted, atol=1e-12)
    assert np.isnan(table.observed[~some]).all()
    assert table.rows.sum() == len(right)


def test_calibration_error_is_that_of_the_metric():
    chances, labels = draw(3)
    metric = metrics.expected_calibration_error(bins=15)
    scores = jnp.asarray(np.log(chances), jnp.float32)
    expected = metric.report(metric.measure(scores, {"label": jnp.asarray(labels)}))
    table = evaluation.reliability(*evaluation.top_label(chances, labels), bins=15)
    got = evaluation.calibration_error(table)
    assert got == pytest.approx(expected["expected_calibration_error"], abs=1e-6)
    always = evaluation.reliability([1.0, 1.0], [1, 1])
    assert evaluation.calibration_error(always) == 0.0


@pytest.mark.parametrize("present", [K, 1])
def test_brier_is_scikit_learns(present):
    chances, labels = draw(4, present=present)
    expected = sk.brier_score_loss(labels, chances, labels=range(K), scale_by_half=False)
    assert evaluation.brier_score(chances, labels) == pytest.approx(expected, abs=1e-12)
    event = chances[:, 0]
    assert evaluation.brier_score(event, labels == 0) == pytest.approx(
        sk.brier_score_loss(labels == 0, event, pos_label=True), abs=1e-12
    )
    both = np.stack([1 - event, event], 1)
    assert evaluation.brier_score(both, (labels == 0).astype(int)) == pytest.approx(
        2 * evaluation.brier_score(event, labels == 0)
    )


@pytest.mark.parametrize("grouped", [False, True])
def test_folds_hold_each_row_out_once_and_keep_shares(grouped):
    labels = np.repeat([0, 1, 2], [40, 20, 10])
    groups = np.arange(70) // 2 if grouped else None
    folds = evaluation.stratified_folds(labels, 5, seed=3, groups=groups)
    assert sorted(np.concatenate([fold.held_out for fold in folds])) == list(range(70))
    for train, held in folds:
        assert not set(train) & set(held)
        assert len(train) + len(held) == 70
        if groups is None:
            assert np.bincount(labels[held]).tolist() == [8, 4, 2]
        else:
            assert not set(groups[train]) & set(groups[held])
    again = evaluation.stratified_folds(labels, 5, seed=3, groups=groups)
    other = evaluation.stratified_folds(labels, 5, seed=4, groups=groups)
    same = [np.array_equal(a.held_out, b.held_out) for a, b in zip(folds, again, strict=True)]
    assert all(same)
    assert any(
        not np.array_equal(a.held_out, b.held_out) for a, b in zip(folds, other, strict=True)
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: evaluation.confusion([0, 1], [0], 2), r"shapes \[2\], \[1\]"),
        (lambda: evaluation.confusion([0, -1], [0, 1], 2), "labels are from -1 to 0"),
        (lambda: evaluation.confusion([0, 1], [0.2, 0.8], 2), "predictions are float64"),
        (lambda: evaluation.class_table([[1, 0], [0, 1]], ["a"]), "with 1 names"),
        (lambda: evaluation.by_slice(np.mean, [1.0], by=["a", "b"]), r"shapes \[2\], \[1\]"),
        (
            lambda: evaluation.by_slice(np.mean, [1.0], by=[1.0], edges=[3, 3]),
            "at least one, rising",
        ),
        (lambda: evaluation.by_slice(np.mean, [1.0], by=[1.0], edges=[]), "at least one, rising"),
        (
            lambda: evaluation.by_slice(np.mean, [1.0], by=[1.0], edges=[3], values=[1.0]),
            "and there are values",
        ),
        (lambda: evaluation.reliability([0.5], [1], bins=0), "bins is 0"),
        (lambda: evaluation.reliability([1.5], [1]), "probabilities are from 1.5"),
        (lambda: evaluation.reliability([np.nan], [1]), "none of them NaN"),
        (lambda: evaluation.reliability([], []), "at least 1 rows"),
        (lambda: evaluation.reliability([[0.5]], [1]), "one of each a row"),
        (lambda: evaluation.brier_score([[0.5, 0.2]], [0]), "sum to 0.7"),
        (lambda: evaluation.brier_score([[0.5, 0.5]], [2]), "labels are from 2 to 2"),
        (lambda: evaluation.top_label([0.5], [0]), r"probabilities \[B, K\]"),
        (lambda: evaluation.stratified_folds([0, 0, 1], 2, seed=0), "class 1 has 1 rows"),
        (lambda: evaluation.stratified_folds([0, 0], 1, seed=0), "at least 2 folds"),
        (lambda: evaluation.stratified_folds([0, 0], 2, seed=2**40), "seed is"),
        (
            lambda: evaluation.stratified_folds([0, 0], 2, seed=0, groups=["a", "a"]),
            "there are 1 groups",
        ),
    ],
)
def test_what_cannot_be_measured_is_said(call, message):
    with pytest.raises((BatchError, ConfigError), match=message):
        call()
