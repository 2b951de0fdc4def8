"""Randomised smoothing: bounds against scipy, radii against the distance to a hyperplane."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxdl.errors import BatchError, ConfigError
from jaxdl.robustness import (
    ABSTAIN,
    Certificates,
    GaussianNoise,
    certificates,
    certified_accuracy,
    certified_radius,
    certify,
    lower_bound,
    noisy_labels,
    smoothed_labels,
)

WEIGHTS, BIAS = np.array([3.0, -4.0, 12.0], np.float32), 0.7
KEY = jax.random.key(0)


def halves(x):
    """A linear classifier: label 1 where ``w x + b`` is above 0."""
    value = x @ jnp.asarray(WEIGHTS) + BIAS
    return jnp.stack([jnp.zeros_like(value), value], axis=1)


def distance(x) -> np.ndarray:
    return np.abs(x @ WEIGHTS + BIAS) / np.linalg.norm(WEIGHTS)


POINTS = np.float32([[0, 0, 0.2], [1.5, 0, -0.1], [0, 1, 0.05], [1, 1, 1], [0, 0, -0.06]])


def test_of_a_hyperplane_the_radius_is_the_distance():
    """With exact probabilities to the last digits; with samples from below, and ever closer."""
    sigma = 0.5
    exact = certified_radius(sigma, stats.norm.cdf(distance(POINTS) / sigma))
    np.testing.assert_allclose(exact, distance(POINTS), rtol=1e-6)
    gaps = []
    for samples in (500, 20_000):
        found = certify(halves, POINTS[:4], KEY, sigma=sigma, samples=samples)
        np.testing.assert_array_equal(found.labels, np.argmax(halves(POINTS[:4]), axis=1))
        gap = distance(POINTS[:4]) - found.radii
        assert np.all(gap > 0)
        gaps.append(gap)
    assert np.all(gaps[1] < gaps[0])
    assert np.all(gaps[1][:3] < 0.025)
    on_it = certify(halves, POINTS[4:], KEY, sigma=sigma, samples=500)
    assert on_it.labels[0] == ABSTAIN
    assert on_it.radii[0] == 0


def test_what_samples_can_show_at_most():
    found = certify(lambda x: jnp.stack([x[:, 0], -x[:, 0]], 1), [[100.0]], KEY, sigma=0.25)
    most = 0.25 * stats.norm.ppf(0.001 ** (1 / 1000))
    assert found.radii[0] == pytest.approx(most, rel=1e-9)
    assert most == pytest.approx(0.25 * 2.46, rel=0.01)


def test_radius_is_the_formula_of_the_paper():
    top, second = np.array([0.9, 0.6, 0.999]), np.array([0.05, 0.3, 1e-4])
    expected = 0.25 / 2 * (stats.norm.ppf(top) - stats.norm.ppf(second))
    np.testing.assert_allclose(certified_radius(0.25, top, second), expected, rtol=1e-12)
    np.testing.assert_allclose(certified_radius(0.5, 0.8), 0.5 * stats.norm.ppf(0.8), rtol=1e-12)
    assert certified_radius(0.5, [0.5, 0.2, 0.0]).tolist() == [0, 0, 0]
    assert certified_radius(0.5, 0.3, 0.4) == 0
    assert certified_radius(0.5, 1.0) == np.inf


def test_the_bound_is_clopper_and_pearson():
    for trials, alpha in ((10, 0.05), (1000, 0.001)):
        counts = np.unique(np.linspace(0, trials, 8).astype(int))
        expected = [
            stats.binomtest(int(k), trials, alternative="greater")
            .proportion_ci(1 - alpha, method="exact")
            .low
            for k in counts
        ]
        np.testing.assert_allclose(lower_bound(counts, trials, alpha), expected, atol=1e-9)
    assert lower_bound(100, 100, 0.001) == pytest.approx(0.001 ** (1 / 100))


def test_the_bound_covers():
    """Of many estimates of a known proportion at most ``alpha`` lie above it."""
    counts = np.random.default_rng(0).binomial(200, 0.7, 20_000)
    assert np.mean(lower_bound(counts, 200, 0.05) > 0.7) <= 0.05
    assert np.mean(lower_bound(counts, 200, 0.05) > 0.7) > 0.02


def test_predict_is_the_binomial_test():
    counts = np.array([[60, 40, 0], [75, 25, 0], [50, 50, 0], [1, 98, 1], [0, 0, 0]])
    expected = []
    for row in counts:
        first, second = sorted(row)[::-1][:2]
        sure = first and stats.binomtest(int(first), int(first + second)).pvalue <= 0.001
        expected.append(int(np.argmax(row)) if sure else ABSTAIN)
    assert smoothed_labels(counts).tolist() == expected == [-1, 0, -1, 1, -1]
    assert smoothed_labels(np.array([[20], [2]])).tolist() == [0, -1]


def test_labels_come_from_other_draws_than_bounds():
    found = certificates(np.array([[9, 1], [9, 1]]), np.array([[10, 990], [990, 10]]), 1000, 0.5)
    assert found.labels.tolist() == [ABSTAIN, 0]
    assert found.radii[0] == 0
    # A label that was never said again.
    assert certificates(np.array([[0, 0, 9]]), np.array([[100]]), 100, 0.5).labels == [ABSTAIN]


def test_the_same_draws_in_any_batches():
    keys = jax.vmap(lambda row: jax.random.fold_in(KEY, row))(jnp.arange(4))
    whole = noisy_labels(halves, POINTS[:4], keys, np.arange(50), sigma=1.0)
    part = noisy_labels(halves, POINTS[2:4], keys[2:4], np.arange(20, 50), sigma=1.0)
    np.testing.assert_array_equal(part, whole[2:4, 20:])
    options = {"sigma": 1.0, "samples": 300, "selection": 40}
    one = certify(halves, POINTS, KEY, batch_size=10_000, **options)
    for batch_size in (1, 77, 700):
        if batch_size == 1:
            other = certify(halves, POINTS[:1], KEY, batch_size=1, **options)
            assert other.lower[0] == one.lower[0]
        else:
            other = certify(halves, POINTS, KEY, batch_size=batch_size, **options)
            np.testing.assert_array_equal(other.lower, one.lower)
    assert not np.array_equal(
        certify(halves, POINTS, jax.random.key(1), **options).lower, one.lower
    )


def test_scores_that_are_nan_are_nobodys():
    found = certify(lambda x: jnp.full((len(x), 2), jnp.nan), POINTS, KEY, sigma=0.5, samples=50)
    assert np.all(found.labels == ABSTAIN)


def test_certified_accuracy():
    found = Certificates(np.array([0, 1, ABSTAIN, 1]), np.array([0.5, 0.3, 0, 0.9]), np.ones(4))
    right = np.array([0, 1, ABSTAIN, 0])
    accuracies = [certified_accuracy(found, right, r) for r in (0.0, 0.3, 0.4, 1.0)]
    assert accuracies == [0.5, 0.5, 0.25, 0.0]


def test_noise_to_train_on():
    x = jnp.full((200, 50), 0.5)
    keys = jax.random.split(KEY, 200)
    noisy = GaussianNoise(0.25)(None, x, keys)
    assert float(jnp.std(noisy)) == pytest.approx(0.25, rel=0.02)
    assert float(jnp.max(noisy)) > 1
    np.testing.assert_array_equal(GaussianNoise(0.25)(None, x[3:4], keys[3:4])[0], noisy[3])
    np.testing.assert_array_equal(GaussianNoise(0.0)(None, x, keys), x)


def test_what_cannot_be_asked():
    for wrong in ({"sigma": 0.0}, {"sigma": np.inf}, {"sigma": 0.5, "alpha": 1.0}):
        with pytest.raises(ConfigError, match=r"sigma is|alpha is"):
            certify(halves, POINTS, KEY, **wrong)
    with pytest.raises(ConfigError, match="samples is 0"):
        certify(halves, POINTS, KEY, sigma=0.5, samples=0)
    with pytest.raises(ConfigError, match="11"):
        lower_bound(11, 10, 0.05)
    with pytest.raises(ConfigError, match="sigma is -1"):
        GaussianNoise(-1.0)
    with pytest.raises(ConfigError, match="no keys"):
        GaussianNoise(0.1)(None, POINTS)
    with pytest.raises(BatchError, match="uint8"):
        certify(halves, POINTS.astype(np.uint8), KEY, sigma=0.5)
