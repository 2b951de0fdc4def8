"""The parts of a variational bound, one value an example, in nats.

Reads from: errors, losses.shapes. Used by: objectives, by choice.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxdl.losses.shapes import check_float, check_same_shape

__all__ = ["bernoulli_log_likelihood", "gaussian_kl", "gaussian_log_likelihood"]


def gaussian_kl(mean: Any, log_variance: Any) -> jax.Array:
    r"""How far a diagonal Gaussian is from the standard one.

    .. math:: \mathrm{KL} = \frac{1}{2} \sum_d \left( \mu_d^2 + \sigma_d^2 - 1 - \log \sigma_d^2
        \right)

    Source: Kingma and Welling 2013, arXiv:1312.6114, appendix B.

    Args:
        mean: shape ``[B, ...]``.
        log_variance: the same shape.

    Returns:
        Shape ``[B]``, summed over the features.

    Raises:
        BatchError: the shapes differ, or a dtype is no float.

    Examples:
        >>> gaussian_kl(jnp.array([[0.0, 2.0]]), jnp.zeros((1, 2))).tolist()
        [2.0]
    """
    check_same_shape(mean, log_variance, "gaussian_kl")
    check_float(mean, "gaussian_kl")
    m, v = _real(mean), _real(log_variance)
    # expm1(v) - v keeps its digits where the variance is near 1.
    return 0.5 * _over_features(jnp.square(m) + jnp.expm1(v) - v)


def bernoulli_log_likelihood(logits: Any, targets: Any) -> jax.Array:
    """The log-probability of pixels under independent Bernoulli variables.

    Args:
        logits: shape ``[B, ...]``.
        targets: 0 or 1, the same shape. Grey values between give the usual cross-entropy, which is
            the expectation over pixels drawn with that chance and no density of grey images.

    Returns:
        Shape ``[B]``, summed over the features; at most 0.

    Raises:
        BatchError: the shapes differ, or the logits are no floats.

    Examples:
        >>> round(float(bernoulli_log_likelihood(jnp.zeros((1, 2)), jnp.ones((1, 2)))[0]), 4)
        -1.3863
    """
    check_same_shape(logits, targets, "bernoulli_log_likelihood")
    check_float(logits, "bernoulli_log_likelihood")
    values = optax.losses.sigmoid_binary_cross_entropy(_real(logits), _real(targets))
    return -_over_features(values)


def gaussian_log_likelihood(mean: Any, targets: Any, log_variance: Any = 0.0) -> jax.Array:
    r"""The log-density of features under independent Gaussians.

    .. math:: -\frac{1}{2} \sum_d \left( \log 2\pi + \log \sigma_d^2 + (x_d - \mu_d)^2 /
        \sigma_d^2 \right)

    Args:
        mean: shape ``[B, ...]``.
        targets: the same shape.
        log_variance: a number, or an array of the same shape.

    Returns:
        Shape ``[B]``, summed over the features.

    Raises:
        BatchError: the shapes differ, or the mean is no float.

    Examples:
        >>> round(float(gaussian_log_likelihood(jnp.zeros((1, 1)), jnp.ones((1, 1)))[0]), 4)
        -1.4189
    """
    check_same_shape(mean, targets, "gaussian_log_likelihood")
    check_float(mean, "gaussian_log_likelihood")
    if jnp.ndim(log_variance):
        check_same_shape(mean, log_variance, "gaussian_log_likelihood")
    m, x, v = _real(mean), _real(targets), _real(log_variance)
    v = jnp.broadcast_to(v, m.shape)
    return -0.5 * _over_features(math.log(2 * math.pi) + v + jnp.square(x - m) * jnp.exp(-v))


def _real(x: Any) -> jax.Array:
    x = jnp.asarray(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _over_features(values: jax.Array) -> jax.Array:
    return jnp.sum(values, axis=tuple(range(1, values.ndim)))
