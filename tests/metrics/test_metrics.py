"""Metrics equal scikit-learn's, whole or summed from pieces, with masks and absent classes."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from jaxdl import losses, metrics
from jaxdl.errors import BatchError, ConfigError, ObjectiveError
from jaxdl.protocols import Mean

K = 4


def draw(seed: int, rows: int = 60, classes: int = K, present: int = K):
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(rows, classes)).astype(np.float32)
    labels = rng.integers(0, present, rows).astype(np.int32)
    scores[np.arange(rows), labels] += 1.0
    return scores, labels


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def value(metric, outputs, batch):
    return next(
        iter(metric.report(jax.device_get(metric.measure(jnp.asarray(outputs), batch))).values())
    )


def reference(name, average, labels, predicted):
    function = {"precision": sk.precision_score, "recall": sk.recall_score, "f1": sk.f1_score}[name]
    labels_of = list(range(K)) if average is None else None
    return function(labels, predicted, average=average, labels=labels_of, zero_division=0)


@pytest.mark.parametrize("present", [K, 2, 1], ids=["all", "two absent", "one class"])
@pytest.mark.parametrize("average", ["micro", "macro", "weighted", None])
@pytest.mark.parametrize("name", ["precision", "recall", "f1"])
def test_scores_equal_scikit_learn(name, average, present):
    metric = getattr(metrics, name)(K, average=average)
    for seed in range(5):
        scores, labels = draw(seed, present=present)
        got = value(metric, scores, {"label": labels})
        expected = reference(name, average, labels, scores.argmax(-1))
        np.testing.assert_allclose(got, expected, rtol=1e-9)


def test_scores_where_every_prediction_is_wrong():
    scores, labels = np.eye(K, dtype=np.float32)[[1, 1, 0]], np.array([0, 0, 1])
    for name in ("precision", "recall", "f1"):
        assert value(getattr(metrics, name)(K), scores, {"label": labels}) == 0.0


def test_confusion_accuracy_and_report():
    scores, labels = draw(3)
    batch = {"label": labels}
    predicted = scores.argmax(-1)
    np.testing.assert_array_equal(
        value(metrics.confusion_matrix(K), scores, batch),
        sk.confusion_matrix(labels, predicted, labels=range(K)),
    )
    assert value(metrics.accuracy(), scores, batch) == sk.accuracy_score(labels, predicted)
    metric = metrics.classification_report(K)
    report = metric.report(jax.device_get(metric.measure(scores, batch)))
    assert list(report) == ["accuracy", "precision", "recall", "f1"]
    assert report["f1"] == pytest.approx(sk.f1_score(labels, predicted, average="macro"))
    assert report["accuracy"] == sk.accuracy_score(labels, predicted)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_top_k(k):
    scores, labels = draw(4)
    expected = sk.top_k_accuracy_score(labels, scores, k=k, labels=range(K))
    assert value(metrics.top_k_accuracy(k), scores, {"label": labels}) == pytest.approx(expected)


def test_top_k_counts_no_more_than_k_among_ties():
    scores = np.zeros((4, K), np.float32)
    assert value(metrics.top_k_accuracy(2), scores, {"label": np.arange(4)}) == 0.5


def test_binary_logits():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=50).astype(np.float32), rng.integers(0, 2, 50)
    batch = {"label": labels}
    predicted = logits > 0
    assert value(metrics.accuracy(), logits, batch) == sk.accuracy_score(labels, predicted)
    got = value(metrics.f1(2, average=None), logits[:, None], batch)
    np.testing.assert_allclose(got, sk.f1_score(labels, predicted, average=None))


FACTORIES = {
    "accuracy": metrics.accuracy,
    "top": functools.partial(metrics.top_k_accuracy, 2),
    "confusion": functools.partial(metrics.confusion_matrix, K),
    "report": functools.partial(metrics.classification_report, K),
    "auroc": metrics.auroc,
    "ece": metrics.expected_calibration_error,
    "perplexity": functools.partial(metrics.perplexity, losses.softmax_cross_entropy),
    "loss": functools.partial(metrics.loss, losses.softmax_cross_entropy),
}


@pytest.mark.parametrize("name", FACTORIES)
def test_sums_of_pieces_are_the_sums_of_the_whole_in_any_order(name):
    metric = FACTORIES[name]()
    scores, labels = draw(5)
    order = np.random.default_rng(1).permutation(60)

    def measured(rows):
        return metrics.measure_all(
            {"m": metric}, jnp.asarray(scores[rows]), {"label": labels[rows]}
        )

    pieces = metrics.total([measured(order[:13]), measured(order[13:40]), measured(order[40:])])
    by_device = functools.reduce(metrics.add, [measured(order[:20]), measured(order[20:])])
    whole = metrics.report(measured(np.arange(60)))
    for other in (pieces, by_device):
        for key, got in metrics.report(other).items():
            np.testing.assert_allclose(got, whole[key], rtol=1e-5, err_msg=key)


@pytest.mark.parametrize("name", FACTORIES)
@pytest.mark.parametrize("dtype", [np.float32, bool])
def test_masked_rows_count_nowhere(name, dtype):
    metric = FACTORIES[name]()
    scores, labels = draw(6)
    mask = (np.arange(60) < 41).astype(dtype)
    junk = scores.copy()
    junk[41:] = np.nan
    kept = metric.report(jax.device_get(metric.measure(scores[:41], {"label": labels[:41]})))
    got = metric.report(
        jax.device_get(metric.measure(jnp.asarray(junk), {"label": labels, "mask": mask}))
    )
    for key in kept:
        np.testing.assert_allclose(got[key], kept[key], rtol=1e-5)


def test_float_mask_is_scikit_learns_sample_weight():
    scores, labels = draw(7)
    weights = np.random.default_rng(2).random(60).astype(np.float32)
    got = value(metrics.f1(K), scores, {"label": labels, "mask": weights})
    expected = sk.f1_score(labels, scores.argmax(-1), average="macro", sample_weight=weights)
    assert got == pytest.approx(expected, rel=1e-5)


def test_tokens_with_a_mask():
    scores, labels = draw(8)
    mask = np.random.default_rng(3).integers(0, 2, (12, 5))
    batch = {"label": labels.reshape(12, 5), "mask": mask}
    kept = mask.reshape(-1) > 0
    got = value(metrics.accuracy(), scores.reshape(12, 5, K), batch)
    assert got == sk.accuracy_score(labels[kept], scores.argmax(-1)[kept])


@pytest.mark.parametrize("bins", [32, 1024])
def test_auroc_is_within_its_bound(bins):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 400)
    logits = (rng.normal(size=400) + labels).astype(np.float32)
    metric = metrics.auroc(bins=bins)
    sums = jax.device_get(metric.measure(jnp.asarray(logits), {"label": labels}))
    positive, negative = sums.positive[0], sums.negative[0]
    bound = 0.5 * np.sum(positive * negative) / (positive.sum() * negative.sum())
    exact = sk.roc_auc_score(labels, logits)
    assert abs(metric.report(sums)["auroc"] - exact) <= bound + 1e-12
    assert bound < 0.05


def test_auroc_of_many_classes_is_one_against_the_rest():
    scores, labels = draw(9, rows=300)
    exact = sk.roc_auc_score(labels, softmax(scores), multi_class="ovr", average="macro")
    assert value(metrics.auroc(bins=4096), scores, {"label": labels}) == pytest.approx(
        exact, abs=2e-3
    )
    assert np.isnan(value(metrics.auroc(), scores, {"label": np.full(300, 9)}))


def test_auroc_of_ties_is_one_half():
    assert value(metrics.auroc(), np.zeros(10, np.float32), {"label": np.arange(10) % 2}) == 0.5


def test_calibration_error_by_guo():
    scores, labels = draw(10, rows=500)
    probabilities = softmax(scores.astype(np.float64))
    confidence, right = probabilities.max(-1), probabilities.argmax(-1) == labels
    edges, expected = np.linspace(0, 1, 16), 0.0
    for low, high in itertools.pairwise(edges):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    got = value(metrics.expected_calibration_error(), scores, {"label": labels})
    assert got == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("origin", [0.0, 9.0])
def test_regression_equals_scikit_learn(origin):
    rng = np.random.default_rng(0)
    targets = (rng.normal(size=80) + 9).astype(np.float32)
    outputs = (targets + rng.normal(size=80) * 0.3).astype(np.float32)
    batch = {"label": targets}
    assert value(metrics.r2(origin=origin), outputs[:, None], batch) == pytest.approx(
        sk.r2_score(targets, outputs), abs=1e-5
    )
    assert value(metrics.mean_squared_error(), outputs, batch) == pytest.approx(
        sk.mean_squared_error(targets, outputs), rel=1e-5
    )
    assert value(metrics.mean_absolute_error(), outputs, batch) == pytest.approx(
        sk.mean_absolute_error(targets, outputs), rel=1e-5
    )


def test_r2_of_constant_targets_as_scikit_learn():
    batch = {"label": np.full(4, 2.0, np.float32)}
    assert value(metrics.r2(), np.full(4, 2.0, np.float32), batch) == 1.0
    assert value(metrics.r2(), np.full(4, 3.0, np.float32), batch) == 0.0


def test_perplexity_is_exp_of_the_mean_loss():
    scores, labels = draw(12)
    mean = sk.log_loss(labels, softmax(scores.astype(np.float64)), labels=range(K))
    metric = metrics.perplexity(losses.softmax_cross_entropy)
    assert value(metric, scores, {"label": labels}) == pytest.approx(np.exp(mean), rel=1e-5)


@given(st.integers(1, 40), st.integers(0, 10_000))
def test_counts_add_exactly_past_float32(batches, seed):
    big = np.int32(2**30 - seed)
    added = metrics.total([{"n": big}] * batches)
    assert added["n"] == int(big) * batches
    assert added["n"].dtype == np.int64


def test_report_names():
    scores, labels = draw(13)
    sums = metrics.measure_all(
        {"acc": metrics.accuracy(), "all": metrics.classification_report(K)},
        scores,
        {"label": labels},
    )
    sums = {**sums, "loss": Mean(jnp.float32(3.0), jnp.float32(0.0)), "skipped": jnp.int32(2)}
    report = metrics.report(sums)
    assert list(report) == [
        "acc", "all/accuracy", "all/precision", "all/recall", "all/f1", "loss", "skipped",
    ]  # fmt: skip
    assert np.isnan(report["loss"])
    assert report["skipped"] == 2


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda b: value(metrics.accuracy(target="labels"), draw(0)[0], b),
            BatchError,
            "did you mean 'label'",
        ),
        (
            lambda b: value(metrics.accuracy(), np.ones((3, K)), b),
            BatchError,
            "do not go with targets",
        ),
        (lambda b: value(metrics.f1(7), draw(0)[0], b), BatchError, "4 scores an example"),
        (lambda b: value(metrics.top_k_accuracy(9), draw(0)[0], b), BatchError, "of 4 classes"),
        (lambda b: metrics.top_k_accuracy(0), ConfigError, r"top_k_accuracy\(0\)"),
        (lambda b: metrics.auroc(bins=1), ConfigError, "bins is 1"),
        (lambda b: metrics.total([]), ObjectiveError, "no sums to add"),
        (lambda b: value(metrics.r2(), np.ones((3, 2)), b), BatchError, "expected: one shape"),
    ],
)
def test_wrong_use_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call({"label": draw(0)[1]})


@pytest.mark.usefixtures("untyped")
def test_a_metric_that_was_not_made_and_an_unknown_average():
    with pytest.raises(ObjectiveError, match=r"metrics.accuracy\(\)"):
        metrics.measure_all({"a": metrics.accuracy}, np.ones((2, 2)), {"label": np.ones(2)})
    with pytest.raises(ConfigError, match="average is 'mean'"):
        metrics.f1(3, average="mean")
