"""Metrics at their edges: scores on a bound, one row, empty sums, paddings other than 0."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as sk

from jaxdl import losses, metrics
from jaxdl.errors import BatchError, ConfigError
from jaxdl.protocols import Mean


def read(metric, outputs, batch):
    return metric.report(jax.device_get(jax.jit(metric.measure)(jnp.asarray(outputs), batch)))


def value(metric, outputs, batch):
    return next(iter(read(metric, outputs, batch).values()))


def test_certain_scores_lie_in_the_last_bin_and_in_the_first():
    logits = np.array([1e9, 1e9, -1e9, -1e9, 0.0], np.float32)
    labels = np.array([1, 0, 0, 1, 1])
    exact = sk.roc_auc_score(labels, logits)
    for outputs in (logits, logits[:, None]):
        assert value(metrics.auroc(bins=4), outputs, {"label": labels}) == pytest.approx(exact)
    sums = metrics.auroc(bins=4).measure(logits, {"label": labels})
    np.testing.assert_array_equal(sums.positive, [[1, 0, 1, 1]])
    np.testing.assert_array_equal(sums.negative, [[1, 0, 0, 1]])


def test_binary_sums_have_one_class_however_few_rows_and_whatever_the_last_axis():
    logits = np.array([0.5, -0.3, 0.1, 2.0, -1.0], np.float32)
    labels = np.array([1, 0, 1, 0, 1])
    measure = jax.jit(metrics.auroc(bins=8).measure)
    whole = measure(logits, {"label": labels})
    for cut in (1, 2):
        parts = [measure(logits[s], {"label": labels[s]}) for s in (slice(cut), slice(cut, 5))]
        added = jax.tree.map(jnp.add, *parts)
        jax.tree.map(np.testing.assert_array_equal, added, whole)
    column = measure(logits[:, None], {"label": labels})
    jax.tree.map(np.testing.assert_array_equal, column, whole)
    assert whole.positive.shape == (1, 8)
    two = measure(np.stack([-logits, logits], -1), {"label": labels})
    assert two.positive.shape == (2, 8)


def test_the_least_number_of_bins():
    labels, logits = np.array([1, 0]), np.array([1.0, -1.0], np.float32)
    assert value(metrics.auroc(bins=2), logits, {"label": labels}) == 1.0
    one = value(metrics.expected_calibration_error(bins=1), logits, {"label": labels})
    assert one == pytest.approx(1 - 1 / (1 + math.exp(-1)), rel=1e-6)
    for make, bins in ((metrics.auroc, 1), (metrics.expected_calibration_error, 0)):
        with pytest.raises(ConfigError, match=f"bins is {bins}"):
            make(bins=bins)


def test_calibration_bins_are_open_below_and_closed_above():
    # Confidences 0.5, 0.6 and 1 with 4 bins: the second, the third and the last.
    logits = np.log(np.array([[0.5, 0.5], [0.4, 0.6], [1e-30, 1.0]], np.float32))
    sums = metrics.expected_calibration_error(bins=4).measure(
        logits, {"label": np.array([1, 1, 1])}
    )
    np.testing.assert_array_equal(sums.count, [0, 1, 1, 1])
    np.testing.assert_array_equal(sums.right, [0, 0, 1, 1])
    np.testing.assert_allclose(sums.confidence, [0, 0.5, 0.6, 1.0], rtol=1e-6)


def test_weights_scale_the_confidence_too():
    logits = np.array([3.0, -1.0], np.float32)
    weighted = {"label": np.array([1, 1]), "mask": np.array([2.0, 0.5], np.float32)}
    sums = metrics.expected_calibration_error(bins=10).measure(logits, weighted)
    sure = 1 / (1 + np.exp([-3.0, -1.0]))
    assert float(sums.count.sum()) == 2.5
    assert float(sums.right.sum()) == 2.0
    assert float(sums.confidence.sum()) == pytest.approx(2 * sure[0] + 0.5 * sure[1], rel=1e-6)
    with pytest.raises(BatchError, match="do not go with targets"):
        metrics.auroc().measure(np.ones((3, 2), np.float32), weighted)


def test_a_logit_of_0_is_class_0():
    batch = {"label": np.array([0, 1, 1])}
    assert value(metrics.accuracy(), np.zeros(3, np.float32), batch) == pytest.approx(1 / 3)


def test_targets_out_of_range_are_in_no_cell():
    scores = np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 2]]
    matrix = value(metrics.confusion_matrix(3), scores, {"label": np.array([0, 2, 2, -1, 3])})
    np.testing.assert_array_equal(matrix, [[1, 0, 0], [0, 0, 0], [0, 1, 1]])


def test_all_classes_are_the_top_and_one_more_is_refused():
    scores = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    batch = {"label": np.arange(5) % 3}
    assert read(metrics.top_k_accuracy(3), scores, batch) == {"top_3_accuracy": 1.0}
    assert read(metrics.top_k_accuracy(1), scores, batch)["top_1_accuracy"] == value(
        metrics.accuracy(), scores, batch
    )
    with pytest.raises(BatchError, match="of 3 classes"):
        metrics.top_k_accuracy(4).measure(scores, batch)


def test_scores_of_other_numbers_of_classes_are_named_where_the_metric_has_one():
    scores = np.ones((4, 3), np.float32)
    assert value(metrics.accuracy(), scores, {"label": np.zeros(4, int)}) == 1.0
    with pytest.raises(BatchError, match="3 scores an example"):
        metrics.confusion_matrix(4).measure(scores, {"label": np.zeros(4, int)})
    with pytest.raises(BatchError, match="do not go with targets"):
        metrics.accuracy().measure(np.float32(1.0), {"label": np.zeros(4, int)})


@pytest.mark.parametrize("size", [1e-3, 1.0, 100.0])
def test_r2_of_targets_of_any_size(size):
    rng = np.random.default_rng(0)
    targets = (size * rng.normal(size=20)).astype(np.float32)
    outputs = (targets + 0.3 * size * rng.normal(size=20)).astype(np.float32)
    got = value(metrics.r2(), outputs, {"label": targets})
    assert got == pytest.approx(sk.r2_score(targets, outputs), abs=1e-5)


def test_masked_errors_may_be_anything():
    targets, outputs = np.array([1.0, np.nan, 3.0]), np.array([2.0, np.inf, 1.0])
    batch = {"label": targets, "mask": np.array([2.0, 0.0, 1.0])}
    assert value(metrics.mean_squared_error(), outputs, batch) == pytest.approx((2 * 1 + 4) / 3)
    assert value(metrics.mean_absolute_error(), outputs, batch) == pytest.approx((2 * 1 + 2) / 3)
    assert np.isnan(value(metrics.mean_squared_error(), outputs, {**batch, "mask": np.zeros(3)}))
    with pytest.raises(BatchError, match="targets of shape"):
        metrics.mean_squared_error().measure(np.ones((3, 2)), batch)


def test_perplexity_that_exp_cannot_hold_or_that_is_of_nothing():
    metric = metrics.perplexity(losses.softmax_cross_entropy)
    assert metric.report(Mean(np.float32(699.0), np.float32(1.0)))["perplexity"] == math.exp(699)
    assert metric.report(Mean(np.float32(1e4), np.float32(1.0)))["perplexity"] == math.inf
    assert math.isnan(metric.report(Mean(np.float32(0.0), np.float32(0.0)))["perplexity"])


def test_a_loss_is_reported_by_its_name_over_its_field():
    metric = metrics.loss(lambda out, y: (out - y) ** 2, target="y", name="error")
    batch = {"y": np.array([1.0, 2.0]), "mask": np.array([1.0, 0.0])}
    assert read(metric, np.array([3.0, 9.0], np.float32), batch) == {"error": 4.0}


def test_totals_are_wide_and_keep_whole_numbers_whole():
    small, big = np.float32(1.0), np.float32(2.0**24)
    added = metrics.total(
        [{"x": big, "n": np.True_}, {"x": small, "n": np.True_}, {"x": small, "n": np.False_}]
    )
    assert (added["x"], added["x"].dtype) == (2.0**24 + 2, np.float64)
    assert (added["n"], added["n"].dtype) == (2, np.int64)
    arrays = metrics.total([{"x": np.ones((2, 3), np.float32)}] * 4)
    np.testing.assert_array_equal(arrays["x"], np.full((2, 3), 4.0))


def test_a_quotient_of_nothing_is_what_it_is_told_to_be():
    top, bottom = np.array([1.0, 3.0, 0.0]), np.array([2.0, 0.0, 1.0])
    np.testing.assert_array_equal(metrics.sums.quotient(top, bottom), [0.5, np.nan, 0.0])
    np.testing.assert_array_equal(metrics.sums.quotient(top, bottom, -1.0), [0.5, -1.0, 0.0])
    assert metrics.sums.quotient(1, 3).dtype == np.float64


def test_a_report_holds_plain_numbers_and_arrays():
    report = metrics.report(
        {
            "n": jnp.int32(3),
            "each": jnp.arange(2.0),
            "m": Mean(jnp.arange(2.0), jnp.array([0.0, 2.0])),
        }
    )
    assert type(report["n"]) is int
    np.testing.assert_array_equal(report["each"], [0.0, 1.0])
    np.testing.assert_array_equal(report["m"], [np.nan, 0.5])


def distance(found, meant):
    """Levenshtein's table in plain Python."""
    row = list(range(len(meant) + 1))
    for i, a in enumerate(found, 1):
        before, row[0] = row[0], i
        for j, b in enumerate(meant, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]


@pytest.mark.parametrize("padding", [2, -1])
def test_edits_and_their_rates_with_any_padding(padding):
    rng = np.random.default_rng(0)
    found, meant = rng.integers(-1, 4, (12, 7)), rng.integers(-1, 4, (12, 5))

    def real(row):
        return [int(token) for token in row if token >= 0 and token != padding]

    pairs = [(real(a), real(b)) for a, b in zip(found, meant, strict=True)]
    expected = [distance(a, b) for a, b in pairs]
    assert (
        jax.jit(lambda a, b: metrics.edit_distance(a, b, padding=padding))(found, meant).tolist()
        == expected
    )
    mask = np.arange(12) % 3 > 0
    batch = {"label": meant, "mask": mask}
    words = sum(len(b) for (_, b), kept in zip(pairs, mask, strict=True) if kept)
    metric = metrics.token_error_rate(lambda x: x, padding=padding, name="rate")
    assert read(metric, found, batch) == {
        "rate": pytest.approx(sum(np.array(expected)[mask]) / words)
    }
    sums = jax.jit(metric.measure)(jnp.asarray(found), batch)
    assert {leaf.dtype.name for leaf in sums} == {"int32"}
    several = metrics.token_error_rate(lambda x, y: x + 0 * y, padding=padding)
    pair = (jnp.asarray(found), jnp.ones((12, 1), int))
    jax.tree.map(np.testing.assert_array_equal, jax.jit(several.measure)(pair, batch), sums)


@pytest.mark.parametrize("separator", [0, 9])
def test_edits_of_words(separator):
    rng = np.random.default_rng(1)
    found, meant = rng.integers(0, 5, (12, 8)), rng.integers(0, 5, (12, 6))

    def words(row):
        text = "".join(str(token) for token in row if token != 4)
        return [word for word in text.split(str(separator)) if word]

    pairs = [(words(a), words(b)) for a, b in zip(found, meant, strict=True)]
    metric = metrics.word_error_rate(lambda x: x, separator=separator, padding=4)
    edits, count = jax.jit(metric.measure)(jnp.asarray(found), {"label": meant})
    assert int(edits) == sum(distance(a, b) for a, b in pairs)
    assert int(count) == sum(len(b) for _, b in pairs)


@pytest.mark.parametrize(
    ("found", "meant"),
    [
        (np.zeros((2, 3)), np.zeros((2, 3), int)),
        (np.zeros((2, 3), int), np.zeros((2, 3, 1), int)),
        (np.zeros((2, 3), int), np.zeros((3, 3), int)),
    ],
    ids=["floats", "three axes", "other rows"],
)
def test_what_has_no_edits(found, meant):
    with pytest.raises(BatchError, match=r"integers \[B, N\] and \[B, M\]"):
        metrics.edit_distance(found, meant)


def test_targets_may_lie_elsewhere_and_a_mask_may_be_whole_numbers():
    scores = np.eye(2, dtype=np.float32)[[0, 1, 1]]
    batch = {"y": np.array([0, 0, 1]), "mask": np.array([1, 3, 0])}
    assert read(metrics.accuracy(target="y"), scores, batch) == {"accuracy": 0.25}
    sums = metrics.accuracy(target="y").measure(scores, batch)
    assert {leaf.dtype.name for leaf in sums} == {"int32"}
    assert sums.weight == 4


@pytest.mark.usefixtures("untyped")
def test_an_unknown_average_is_refused_when_the_metric_is_made():
    for make in (metrics.precision, metrics.recall, metrics.f1, metrics.classification_report):
        with pytest.raises(ConfigError, match="average is 'mean'"):
            make(3, average="mean")


def test_texts_of_either_score_go_together():
    pytest.importorskip("sacrebleu")
    for score in (metrics.bleu, metrics.chrf):
        assert score(["a b c d e"], ["a b c d e"]) == pytest.approx(100.0)
        for wrong in (([], []), (["a"], ["a", "b"]), ("a", ["a"]), (["a"], "a")):
            with pytest.raises(BatchError, match="hypotheses"):
                score(*wrong)


@pytest.mark.parametrize("classes", [3, 0], ids=["scores", "binary logits"])
def test_tokens_are_measured_as_so_many_rows(classes):
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(4, 5, classes) if classes else (4, 5)).astype(np.float32)
    labels, mask = rng.integers(0, classes or 2, (4, 5)), rng.integers(0, 2, (4, 5))
    flat = {"label": labels.reshape(-1), "mask": mask.reshape(-1)}
    for metric in (metrics.auroc(bins=8), metrics.expected_calibration_error(), metrics.accuracy()):
        got = jax.jit(metric.measure)(scores, {"label": labels, "mask": mask})
        expected = jax.jit(metric.measure)(scores.reshape(20, *scores.shape[2:]), flat)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), got, expected)
