"""Losses against numpy, scikit-learn and finite differences, and the laws they keep."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.test_util import check_grads
from sklearn import metrics as sklearn_metrics

from jaxdl import losses
from jaxdl.errors import BatchError, ConfigError

RNG = np.random.default_rng(11)
LOGITS = RNG.normal(size=(6, 5)).astype(np.float32) * 2
LABELS = RNG.integers(0, 5, 6).astype(np.int32)
Q = RNG.dirichlet(np.ones(5), 6).astype(np.float32)
BINARY = RNG.normal(size=6).astype(np.float32) * 2
BITS = RNG.integers(0, 2, 6).astype(np.float32)


def softmax(x):
    e = np.exp(x.astype(np.float64) - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def sigmoid(x):
    return 1 / (1 + np.exp(-x.astype(np.float64)))


def one_hot(labels, classes=5):
    return np.eye(classes)[labels]


P = softmax(LOGITS)
LOG_P = np.log(P)
P1 = sigmoid(BINARY)
LOG_Z = np.log(np.exp(LOGITS.astype(np.float64)).sum(-1))
WEIGHTS = np.array([0.5, 1.0, 2.0, 3.0, 0.1])
PT = P[np.arange(6), LABELS]

CASES = {
    "labels": (losses.softmax_cross_entropy, LOGITS, LABELS, -np.log(PT)),
    "distribution": (losses.softmax_cross_entropy, LOGITS, Q, -(Q * LOG_P).sum(-1)),
    "smoothed": (
        functools.partial(losses.softmax_cross_entropy, label_smoothing=0.1),
        LOGITS,
        LABELS,
        -((0.9 * one_hot(LABELS) + 0.02) * LOG_P).sum(-1),
    ),
    "class weights": (
        functools.partial(losses.softmax_cross_entropy, class_weights=WEIGHTS),
        LOGITS,
        LABELS,
        -WEIGHTS[LABELS] * np.log(PT),
    ),
    "class weights of a distribution": (
        functools.partial(losses.softmax_cross_entropy, class_weights=WEIGHTS),
        LOGITS,
        Q,
        -(Q @ WEIGHTS) * (Q * LOG_P).sum(-1),
    ),
    "z": (
        functools.partial(losses.softmax_cross_entropy, z_loss=0.01),
        LOGITS,
        LABELS,
        -np.log(PT) + 0.01 * LOG_Z**2,
    ),
    "probabilities": (
        losses.cross_entropy_from_probabilities,
        P.astype(np.float32),
        LABELS,
        -np.log(PT),
    ),
    "binary": (
        losses.binary_cross_entropy,
        BINARY,
        BITS,
        -(BITS * np.log(P1) + (1 - BITS) * np.log(1 - P1)),
    ),
    "binary weighted": (
        functools.partial(losses.binary_cross_entropy, positive_weight=3.0),
        BINARY,
        BITS,
        -(3 * BITS * np.log(P1) + (1 - BITS) * np.log(1 - P1)),
    ),
    "binary probabilities": (
        losses.binary_cross_entropy_from_probabilities,
        P1.astype(np.float32),
        BITS,
        -(BITS * np.log(P1) + (1 - BITS) * np.log(1 - P1)),
    ),
    "focal": (losses.focal, LOGITS, LABELS, -((1 - PT) ** 2) * np.log(PT)),
    "binary focal": (
        losses.binary_focal,
        BINARY,
        BITS,
        -(np.where(BITS > 0, 1 - P1, P1) ** 2) * np.log(np.where(BITS > 0, P1, 1 - P1)),
    ),
    "hinge": (losses.hinge, BINARY, BITS, np.maximum(0, 1 - (2 * BITS - 1) * BINARY)),
    "kl": (losses.kl_divergence, LOGITS, Q, (Q * (np.log(Q) - LOG_P)).sum(-1)),
    "squared": (losses.mean_squared_error, LOGITS, Q, ((LOGITS - Q) ** 2).mean(-1)),
    "absolute": (losses.mean_absolute_error, LOGITS, Q, np.abs(LOGITS - Q).mean(-1)),
    "huber": (
        functools.partial(losses.huber, delta=0.7),
        LOGITS,
        Q,
        np.where(
            np.abs(LOGITS - Q) <= 0.7,
            0.5 * (LOGITS - Q) ** 2,
            0.7 * (np.abs(LOGITS - Q) - 0.35),
        ).mean(-1),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_value_by_numpy_and_gradient_by_differences(name):
    loss, outputs, targets, expected = CASES[name]
    values = loss(jnp.asarray(outputs), jnp.asarray(targets))
    assert values.shape == (6,)
    np.testing.assert_allclose(values, expected, rtol=2e-5, atol=1e-6)
    check_grads(
        lambda x: loss(x, jnp.asarray(targets)), (outputs,), order=1, modes=["rev"], rtol=0.03
    )


@pytest.mark.parametrize("name", CASES)
def test_rows_are_independent(name):
    """A row's loss is the same whatever the other rows are, and in any order."""
    loss, outputs, targets, _ = CASES[name]
    order = np.array([3, 0, 5, 1, 4, 2])
    whole = loss(jnp.asarray(outputs), jnp.asarray(targets))
    np.testing.assert_allclose(
        loss(jnp.asarray(outputs[order]), jnp.asarray(targets[order])), whole[order], rtol=1e-6
    )


def test_multiclass_hinge():
    margins = LOGITS - LOGITS[np.arange(6), LABELS][:, None] + 1 - one_hot(LABELS)
    np.testing.assert_allclose(
        losses.multiclass_hinge(LOGITS, LABELS), np.maximum(margins.max(-1), 0), rtol=1e-5
    )
    expected = sklearn_metrics.hinge_loss(LABELS, LOGITS, labels=np.arange(5))
    assert float(jnp.mean(losses.multiclass_hinge(LOGITS, LABELS))) == pytest.approx(expected, 1e-5)


def test_mean_over_rows_is_scikit_learns_log_loss():
    mean = float(jnp.mean(losses.softmax_cross_entropy(LOGITS, LABELS)))
    assert mean == pytest.approx(sklearn_metrics.log_loss(LABELS, P, labels=range(5)), rel=1e-5)


@given(st.floats(-50, 50, width=32))
def test_cross_entropy_does_not_see_a_shift(shift):
    moved = losses.softmax_cross_entropy(LOGITS + np.float32(shift), LABELS)
    np.testing.assert_allclose(moved, -np.log(PT), rtol=1e-4, atol=1e-4)


def test_focal_with_gamma_zero_is_cross_entropy():
    np.testing.assert_allclose(
        losses.focal(LOGITS, LABELS, gamma=0.0),
        losses.softmax_cross_entropy(LOGITS, LABELS),
        rtol=1e-5,
    )


def test_labels_and_one_hot_agree_over_tokens():
    logits, labels = LOGITS.reshape(2, 3, 5), LABELS.reshape(2, 3)
    a = losses.softmax_cross_entropy(logits, labels)
    b = losses.softmax_cross_entropy(logits, one_hot(labels).astype(np.float32))
    assert a.shape == (2, 3)
    np.testing.assert_allclose(a, b, rtol=1e-5)


@pytest.mark.parametrize("label", [-1, 5, 100])
def test_label_outside_the_classes_gives_nan_not_a_guess(label):
    labels = jnp.array([0, label])
    for loss in (losses.softmax_cross_entropy, losses.focal, losses.multiclass_hinge):
        values = loss(jnp.ones((2, 5)), labels)
        assert np.isfinite(values[0])
        assert np.isnan(values[1])


@pytest.mark.parametrize(
    "loss", [losses.softmax_cross_entropy, losses.focal, losses.multiclass_hinge]
)
@pytest.mark.parametrize(("dtype", "classes"), [(np.uint8, 256), (np.uint8, 300), (np.int8, 200)])
def test_labels_of_few_bits_name_any_class(loss, dtype, classes):
    scores = np.random.default_rng(0).normal(size=(4, classes)).astype(np.float32)
    labels = np.array([0, 9, 100, 127])
    expected = loss(scores, labels)
    np.testing.assert_array_equal(loss(scores, labels.astype(dtype)), expected)
    assert np.isfinite(expected).all()


def test_half_precision_logits_are_summed_in_float32():
    values = losses.softmax_cross_entropy(jnp.asarray(LOGITS, jnp.bfloat16), LABELS)
    assert values.dtype == jnp.float32
    np.testing.assert_allclose(values, -np.log(PT), rtol=0.05, atol=0.05)


def test_extreme_logits_stay_finite():
    logits = jnp.array([[1e4, -1e4, 0.0]])
    for target in (0, 1):
        value, grad = jax.value_and_grad(
            lambda x, t=target: losses.softmax_cross_entropy(x, jnp.array([t]))[0]
        )(logits)
        assert np.isfinite(value)
        assert np.all(np.isfinite(grad))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: losses.softmax_cross_entropy(LOGITS, LABELS[:, None]),
            r"int32 targets of shape \[6, 1\]",
        ),
        (lambda: losses.softmax_cross_entropy(LOGITS, BITS), "float32 targets"),
        (lambda: losses.softmax_cross_entropy(LABELS, LOGITS), "outputs of dtype int32"),
        (lambda: losses.softmax_cross_entropy(LOGITS[0], 3), r"shape \[5\]"),
        (
            lambda: losses.mean_squared_error(LOGITS[:, :1], BITS),
            r"\[6, 1\] and targets of shape \[6\]",
        ),
        (lambda: losses.binary_cross_entropy(LOGITS, BITS), r"\[6, 5\] and targets"),
    ],
)
def test_wrong_shapes_and_dtypes_are_named(call, message):
    with pytest.raises(BatchError, match=message):
        call()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_smoothing": 1.0}, "label_smoothing is 1.0"),
        ({"class_weights": [1.0, 2.0]}, r"class_weights has shape \[2\]"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        losses.softmax_cross_entropy(LOGITS, LABELS, **options)
