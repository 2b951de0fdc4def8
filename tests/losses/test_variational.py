"""The parts of the variational bound against integrals, distributions of SciPy, and draws."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxdl import losses
from jaxdl.errors import BatchError

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("mean", "log_variance"), [(0.0, 0.0), (0.7, -1.3), (-2.0, 1.1)])
def test_kl_is_the_integral(mean, log_variance):
    x = np.linspace(-25, 25, 200_001)
    q = stats.norm(mean, np.exp(0.5 * log_variance))
    integrand = q.pdf(x) * (q.logpdf(x) - stats.norm.logpdf(x))
    wanted = np.trapezoid(integrand, x)
    got = losses.gaussian_kl(jnp.full((1, 1), mean), jnp.full((1, 1), log_variance))
    np.testing.assert_allclose(got, [wanted], rtol=1e-5, atol=1e-6)


def test_kl_is_the_mean_of_draws_and_sums_over_features():
    m, v = RNG.normal(size=(2, 3, 2)).astype(np.float32)
    z = m + np.exp(v / 2) * RNG.normal(size=(200_000, 3, 2))
    ratio = stats.norm.logpdf(z, m, np.exp(v / 2)) - stats.norm.logpdf(z)
    got = losses.gaussian_kl(jnp.asarray(m), jnp.asarray(v))
    np.testing.assert_allclose(got, ratio.sum(-1).mean(0), rtol=0.02)


def test_likelihoods_are_scipys():
    logits = RNG.normal(size=(3, 2, 2)).astype(np.float32)
    bits = RNG.integers(0, 2, (3, 2, 2))
    wanted = stats.bernoulli.logpmf(bits, 1 / (1 + np.exp(-logits))).sum((1, 2))
    got = losses.bernoulli_log_likelihood(jnp.asarray(logits), jnp.asarray(bits))
    np.testing.assert_allclose(got, wanted, rtol=1e-5)
    x, v = RNG.normal(size=(2, 3, 2, 2)).astype(np.float32)
    wanted = stats.norm.logpdf(x, logits, np.exp(v / 2)).sum((1, 2))
    got = losses.gaussian_log_likelihood(jnp.asarray(logits), jnp.asarray(x), jnp.asarray(v))
    np.testing.assert_allclose(got, wanted, rtol=1e-5)
    wanted = stats.norm.logpdf(x, logits, 0.5).sum((1, 2))
    got = losses.gaussian_log_likelihood(jnp.asarray(logits), jnp.asarray(x), 2 * np.log(0.5))
    np.testing.assert_allclose(got, wanted, rtol=1e-5)


def test_wrong_shapes_are_named():
    with pytest.raises(BatchError, match="gaussian_kl got"):
        losses.gaussian_kl(jnp.zeros((2, 3)), jnp.zeros((2, 1)))
    with pytest.raises(BatchError, match="bernoulli_log_likelihood got"):
        losses.bernoulli_log_likelihood(jnp.zeros((2, 3)), jnp.zeros((2, 3, 1)))
    with pytest.raises(BatchError, match="gaussian_log_likelihood got"):
        losses.gaussian_log_likelihood(jnp.zeros((2, 3)), jnp.zeros((2, 3)), jnp.zeros((2, 1)))
