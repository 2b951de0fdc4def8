"""Classes and regression equal scikit-learn's where something is absent, tied or constant."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from jaxdl import metrics

SCORES = {"precision": sk.precision_score, "recall": sk.recall_score, "f1": sk.f1_score}


def value(metric, outputs, batch):
    sums = jax.device_get(jax.jit(metric.measure)(jnp.asarray(outputs), batch))
    return next(iter(metric.report(sums).values()))


def in_pieces(metric, outputs, batch, count):
    parts = [
        {
            "m": metric.measure(
                jnp.asarray(outputs[i::count]), {k: v[i::count] for k, v in batch.items()}
            )
        }
        for i in range(count)
    ]
    return next(iter(metric.report(metrics.total(parts)["m"]).values()))


@given(
    st.integers(0, 10_000),
    st.sampled_from(["macro", "weighted", "micro", None]),
    st.sampled_from([0.0, 1.0, np.nan]),
)
def test_nothing_to_divide_by(seed, average, zero_division):
    rng = np.random.default_rng(seed)
    classes, rows = int(rng.integers(2, 7)), int(rng.integers(1, 9))
    label, said = rng.integers(0, classes, (2, rows))
    scores = np.eye(classes, dtype=np.float32)[said]
    for name, function in SCORES.items():
        metric = getattr(metrics, name)(classes, average=average, zero_division=zero_division)
        got = metric.report(metric.measure(scores, {"label": label}))[name]
        labels = range(classes) if average is None else None
        expected = function(
            label, said, average=average, labels=labels, zero_division=zero_division
        )
        np.testing.assert_allclose(got, expected, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("classes", [2, 1000])
@pytest.mark.parametrize("rows", ["one", "all wrong", "all right"])
def test_few_classes_and_many(classes, rows):
    label = np.array([classes - 1]) if rows == "one" else np.arange(50) % classes
    said = label if rows != "all wrong" else (label + 1) % classes
    scores = np.eye(classes, dtype=np.float32)[said]
    for name, function in SCORES.items():
        for average in ("macro", "weighted", "micro"):
            got = value(getattr(metrics, name)(classes, average=average), scores, {"label": label})
            expected = function(label, said, average=average, zero_division=0)
            assert got == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_higher_class_comes_first_among_equal_scores(k):
    rng = np.random.default_rng(k)
    scores = np.round(rng.normal(size=(200, 4)), 0).astype(np.float32)
    label = rng.integers(0, 4, 200)
    expected = sk.top_k_accuracy_score(label, scores, k=k, labels=range(4))
    assert value(metrics.top_k_accuracy(k), scores, {"label": label}) == expected
    lower = value(metrics.top_k_accuracy(k, ties="lower"), scores, {"label": label})
    flipped = sk.top_k_accuracy_score(3 - label, scores[:, ::-1], k=k, labels=range(4))
    assert lower == flipped
    if k == 1:
        assert lower == value(metrics.accuracy(), scores, {"label": label})


@pytest.mark.parametrize(
    ("mean", "deviation"), [(0, 1), (2000, 10), (2000, 0.5), (1e4, 1), (-1e5, 3), (1e-5, 1e-6)]
)
def test_explained_variance_however_far_from_0(mean, deviation):
    rng = np.random.default_rng(0)
    target = (mean + deviation * rng.normal(size=300)).astype(np.float32)
    output = (target + deviation * (0.2 + 0.3 * rng.normal(size=300))).astype(np.float32)
    exact = [x.astype(np.float64) for x in (target, output)]
    for metric, function in (
        (metrics.r2(), sk.r2_score),
        (metrics.explained_variance(), sk.explained_variance_score),
    ):
        expected = pytest.approx(function(*exact), abs=1e-6)
        assert value(metric, output, {"label": target}) == expected
        assert in_pieces(metric, output, {"label": target}, 7) == expected


@pytest.mark.parametrize("constant", [2.3, 0.1, -7.77, 1e6])
@pytest.mark.parametrize("pieces", [1, 3])
def test_targets_that_do_not_vary(constant, pieces):
    target = np.full(101, constant, np.float32)
    noise = np.random.default_rng(0).normal(size=101).astype(np.float32)
    for output in (target, target + np.float32(abs(constant)), target + noise):
        exact = [x.astype(np.float64) for x in (target, output)]
        for metric, function in (
            (metrics.r2(), sk.r2_score),
            (metrics.explained_variance(), sk.explained_variance_score),
        ):
            assert in_pieces(metric, output, {"label": target}, pieces) == function(*exact)


def test_columns_by_themselves_weights_and_one_example():
    rng = np.random.default_rng(0)
    target = (rng.normal(size=(40, 3)) * [1, 10, 100] + [0, 50, -900]).astype(np.float32)
    output = (target + rng.normal(size=(40, 3))).astype(np.float32)
    weight = rng.random(40).astype(np.float32)
    batch = {"label": target, "mask": weight}
    exact = [x.astype(np.float64) for x in (target, output)]
    for make, function in (
        (metrics.r2, sk.r2_score),
        (metrics.explained_variance, sk.explained_variance_score),
    ):
        expected = function(*exact, sample_weight=weight)
        assert value(make(by_column=True), output, batch) == pytest.approx(expected, abs=1e-6)
        pooled = function(*(x.reshape(-1) for x in exact))
        assert value(make(), output, {"label": target}) == pytest.approx(pooled, abs=1e-6)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            single = function(target[:1, 0], output[:1, 0])
        got = value(make(), output[:1, 0], {"label": target[:1, 0]})
        np.testing.assert_equal(got, single)
        assert np.isnan(value(make(), output, {**batch, "mask": np.zeros(40, np.float32)}))


@pytest.mark.parametrize("classes", [40, 256, 300])
def test_labels_of_few_bits_name_any_class(classes):
    rng = np.random.default_rng(classes)
    label = rng.integers(0, min(classes, 256), 60).astype(np.uint8)
    scores = rng.normal(size=(60, classes)).astype(np.float32)
    scores[np.arange(60), label] += 1.0
    said = scores.argmax(1)
    got = value(metrics.confusion_matrix(classes), scores, {"label": label})
    expected = sk.confusion_matrix(label.astype(int), said, labels=range(classes))
    np.testing.assert_array_equal(got, expected)
    assert value(metrics.accuracy(), scores, {"label": label}) == pytest.approx(
        sk.accuracy_score(label.astype(int), said)
    )
