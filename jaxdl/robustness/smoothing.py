r"""Randomised smoothing: a classifier with Gaussian noise around it, and a radius that is certain.

The smoothed classifier says what the model says most often of :math:`x + \mathcal N(0, \sigma^2)`.
No image within the certified radius, in the Euclidean norm, is classified otherwise, whoever made
it. Train the model on such noise: ``objectives.with_adversary(objective, GaussianNoise(sigma))``.

Source: Cohen, Rosenfeld and Kolter 2019, "Certified adversarial robustness via randomized
smoothing", arXiv:1902.02918.

Reads from: errors, robustness.attacks, robustness.ball. Used by: cli, and by hand.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from jaxdl.errors import ConfigError
from jaxdl.robustness.attacks import LossOfImages, check_floats
from jaxdl.robustness.ball import rows, wide

__all__ = [
    "ABSTAIN",
    "Certificates",
    "GaussianNoise",
    "certificates",
    "certified_accuracy",
    "certified_radius",
    "certify",
    "counted",
    "lower_bound",
    "noisy_labels",
    "smoothed_labels",
]

ABSTAIN = -1
"""The label of an image of which nothing is certain."""


class Certificates(NamedTuple):
    """What is certain of each image, with probability ``1 - alpha`` an image.

    Attributes:
        labels: int64 ``[B]``, the smoothed classifier's; ``ABSTAIN`` where it is not certain.
        radii: float64 ``[B]``, in the units of the images; 0 where it abstains.
        lower: float64 ``[B]``: the model says this label under noise at least so often.
    """

    labels: npt.NDArray[np.int64]
    radii: npt.NDArray[np.float64]
    lower: npt.NDArray[np.float64]


@dataclass(frozen=True)
class GaussianNoise:
    """Noise on images, to train a model that is to be smoothed; pixels may leave their range.

    Attributes:
        sigma: its standard deviation, from 0, in the units of the images.

    Raises:
        ConfigError: ``sigma`` is negative or not finite.
    """

    sigma: float

    def __post_init__(self) -> None:
        """A deviation that is none is told."""
        _check_sigma(self.sigma, least=0.0)

    def __call__(
        self, loss: LossOfImages | None, images: Any, keys: Any = None, row_losses: Any = None
    ) -> jax.Array:
        """Adds noise.

        Args:
            loss: is not asked.
            images: floats, shape ``[B, ...]``.
            keys: typed keys of the rows, shape ``[B]``.
            row_losses: is not asked.

        Returns:
            Images of the shape and dtype they had.

        Raises:
            BatchError: the images are no floats.
            ConfigError: there are no keys.
        """
        del loss, row_losses
        images = check_floats(images)
        if keys is None:
            raise ConfigError(
                "noise was given no keys",
                expected="one key an image",
                do="pass keys=jax.random.split(key, len(images))",
            )
        return _noisy(images, keys, self.sigma)


def certify(
    predict: Callable[[jax.Array], Any],
    images: Any,
    key: Any,
    *,
    sigma: float,
    samples: int = 1000,
    selection: int = 100,
    alpha: float = 0.001,
    batch_size: int = 1000,
) -> Certificates:
    """The smoothed classifier's labels with the radius in which each is certain.

    ``selection`` draws guess the label of an image, ``samples`` others bound how often it is said:
    the largest radius that ``n`` samples can show is ``sigma`` times the normal quantile of
    ``alpha ** (1 / n)``, 2.4 sigma for 1,000 and 3.8 sigma for 100,000.

    Args:
        predict: images ``[N, ...]`` to scores ``[N, K]``, of which the largest is the label;
            deterministic. Scores with a NaN are nobody's label.
        images: floats, shape ``[B, ...]``.
        key: a typed key; an image's draws follow from it and the image's row.
        sigma: of the noise, above 0, in the units of the images.
        samples: draws that the bound comes from.
        selection: draws that the label comes from.
        alpha: the probability that a certificate is wrong.
        batch_size: how many noisy images go through ``predict`` at once.

    Raises:
        BatchError: the images are no floats.
        ConfigError: a setting is out of range.

    Examples:
        >>> def predict(x):  # whether x[0] is above 0: the radius is |x[0]|
        ...     return jnp.stack([jnp.zeros(len(x)), x[:, 0]], axis=1)
        >>> found = certify(predict, jnp.array([[0.5, 3.0]]), jax.random.key(0), sigma=0.5)
        >>> found.labels.tolist(), bool(0.4 < found.radii[0] < 0.5)
        ([1], True)
    """
    _check_sigma(sigma)
    _check_alpha(alpha)
    for name, value in (("samples", samples), ("selection", selection), ("batch_size", batch_size)):
        if value < 1:
            raise ConfigError(f"{name} is {value}", expected="at least 1", do="change the setting")
    images = check_floats(images)
    total = selection + samples
    labels = _all_labels(predict, images, key, total, sigma=sigma, batch_size=batch_size)
    return certificates(
        counted(labels[:, :selection]), counted(labels[:, selection:]), samples, sigma, alpha
    )


def noisy_labels(
    predict: Callable[[jax.Array], Any], images: Any, keys: Any, numbers: Any, *, sigma: float
) -> jax.Array:
    """What a model says of images with noise.

    Args:
        predict: as in ``certify``.
        images: floats, shape ``[B, ...]``.
        keys: typed keys of the rows, shape ``[B]``.
        numbers: integers ``[S]``, which draws of each image's own are to be made.
        sigma: of the noise.

    Returns:
        int32 ``[B, S]``; -1 where a score is NaN.
    """
    images, numbers = check_floats(images), jnp.asarray(numbers)
    own = jax.vmap(lambda key: jax.vmap(lambda n: jax.random.fold_in(key, n))(numbers))(keys)
    count = len(images), len(numbers)
    repeated = jnp.repeat(images, count[1], axis=0)
    scores = jnp.asarray(predict(_noisy(repeated, own.reshape(-1), sigma)))
    said = jnp.argmax(scores, axis=-1).astype(jnp.int32)
    said = jnp.where(jnp.any(jnp.isnan(scores), axis=-1), -1, said)
    return said.reshape(count)


def certificates(
    selected: npt.NDArray[Any],
    counts: npt.NDArray[Any],
    samples: int,
    sigma: float,
    alpha: float = 0.001,
) -> Certificates:
    """Certificates from how often a model said what.

    Args:
        selected: integers ``[B, K]``, how often each label was said in the draws that guess it.
        counts: integers ``[B, K']``, how often in other, independent draws.
        samples: how many others there were.
        sigma: of the noise.
        alpha: the probability that a certificate is wrong.

    Raises:
        ConfigError: ``sigma`` or ``alpha`` is out of range.

    Examples:
        >>> certificates(np.array([[3, 7]]), np.array([[10, 990]]), 1000, 0.25).labels.tolist()
        [1]
        >>> certificates(np.array([[3, 7]]), np.array([[500, 500]]), 1000, 0.25).labels.tolist()
        [-1]
    """
    _check_sigma(sigma)
    selected, counts = np.asarray(selected), np.asarray(counts)
    top = np.argmax(selected, axis=1)
    wider = np.pad(counts, ((0, 0), (0, max(0, selected.shape[1] - counts.shape[1]))))
    lower = lower_bound(wider[np.arange(len(top)), top], samples, alpha)
    sure = (lower > 0.5) & (np.max(selected, axis=1) > 0)
    radii = np.where(sure, certified_radius(sigma, lower), 0.0)
    return Certificates(np.where(sure, top, ABSTAIN).astype(np.int64), radii, lower)


def certified_radius(sigma: float, top: Any, second: Any | None = None) -> npt.NDArray[np.float64]:
    r"""The radius of theorem 1: :math:`\sigma / 2\, (\Phi^{-1}(p_A) - \Phi^{-1}(p_B))`.

    Args:
        sigma: of the noise.
        top: :math:`p_A`, how often the label is said: a lower bound, any shape.
        second: :math:`p_B`, an upper bound for every other label; ``1 - top`` when ``None``.

    Returns:
        float64; 0 where ``top`` is not above ``second``.

    Examples:
        >>> round(float(certified_radius(0.5, 0.99)), 4)
        1.1632
        >>> float(certified_radius(0.5, 0.4))
        0.0
    """
    from scipy.special import ndtri

    top = np.asarray(top, np.float64)
    # Of the upper tail, so that no digits are lost where top is close to 1.
    against = -ndtri(top) if second is None else ndtri(np.asarray(second, np.float64))
    with np.errstate(invalid="ignore"):
        radius = sigma / 2 * (ndtri(top) - against)
    return np.where(radius > 0, radius, 0.0)


def lower_bound(successes: Any, trials: int, alpha: float) -> npt.NDArray[np.float64]:
    """The one-sided lower confidence bound of a proportion, of Clopper and Pearson 1934.

    Args:
        successes: integers from 0 to ``trials``, any shape.
        trials: how many there were.
        alpha: the probability that the proportion is below the bound.

    Raises:
        ConfigError: ``alpha`` is not between 0 and 1, or there are more successes than trials.

    Examples:
        >>> [round(float(x), 4) for x in lower_bound([0, 99, 100], 100, 0.001)]
        [0.0, 0.9114, 0.9333]
    """
    from scipy.special import betaincinv

    _check_alpha(alpha)
    successes = np.asarray(successes)
    if trials < 1 or np.any(successes < 0) or np.any(successes > trials):
        raise ConfigError(
            f"{successes.tolist()} successes of {trials} trials",
            expected="from 0 to the number of trials, which is at least 1",
            do="count both in the same draws",
        )
    some = np.maximum(successes, 1).astype(np.float64)
    return np.where(successes == 0, 0.0, betaincinv(some, trials - some + 1.0, alpha))


def smoothed_labels(counts: npt.NDArray[Any], alpha: float = 0.001) -> npt.NDArray[np.int64]:
    """What the smoothed classifier says, or that it is not certain: ``PREDICT`` of the paper.

    Args:
        counts: integers ``[B, K]``, how often each label was said under noise.
        alpha: the probability that a label is not the smoothed classifier's.

    Returns:
        int64 ``[B]``; ``ABSTAIN`` where the two most frequent labels may be equally frequent.

    Raises:
        ConfigError: ``alpha`` is not between 0 and 1.

    Examples:
        >>> smoothed_labels(np.array([[90, 10, 0], [52, 48, 0]])).tolist()
        [0, -1]
    """
    from scipy.stats import binom

    _check_alpha(alpha)
    counts = np.asarray(counts)
    if counts.shape[1] < 2:
        counts = np.pad(counts, ((0, 0), (0, 2 - counts.shape[1])))
    second, first = np.sort(counts, axis=1)[:, -2:].T
    # Of the binomial test with p = 1/2, which is symmetric: twice the smaller tail.
    p = np.minimum(1.0, 2.0 * binom.cdf(second, first + second, 0.5))
    return np.where(p <= alpha, np.argmax(counts, axis=1), ABSTAIN).astype(np.int64)


def certified_accuracy(found: Certificates, labels: Any, radius: float) -> float:
    """The share of images that are classified rightly, and so within ``radius``, for certain.

    Args:
        found: of the images.
        labels: the right ones, integers ``[B]``.
        radius: how far anyone may change an image, in the Euclidean norm.

    Examples:
        >>> found = Certificates(np.array([1, 2, -1]), np.array([0.5, 0.2, 0.0]), np.ones(3))
        >>> certified_accuracy(found, np.array([1, 2, 0]), 0.3)
        0.3333333333333333
    """
    right = (found.labels == np.asarray(labels)) & (found.labels != ABSTAIN)
    return float(np.mean(right & (found.radii >= radius)))


def counted(labels: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """How often each label occurs in each row.

    Args:
        labels: integers ``[B, S]``; those below 0 count nowhere.

    Returns:
        int64 ``[B, K]`` with ``K`` one more than the largest label, at least 1.

    Examples:
        >>> counted(np.array([[0, 2, 2], [-1, 1, 1]])).tolist()
        [[1, 0, 2], [0, 2, 0]]
    """
    classes = max(1, int(labels.max(initial=-1)) + 1)
    return np.stack([np.sum(labels == k, axis=1) for k in range(classes)], axis=1).astype(np.int64)


def _all_labels(
    predict: Callable[[jax.Array], Any],
    images: jax.Array,
    key: Any,
    total: int,
    *,
    sigma: float,
    batch_size: int,
) -> npt.NDArray[np.int32]:
    """``[B, total]``, by one program: blocks of rows, and of draws where a row has too many."""
    count = len(images)
    draws = min(total, batch_size)
    block = max(1, min(count, batch_size // draws))
    keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.arange(count))
    run = jax.jit(lambda x, k, n: noisy_labels(predict, x, k, n, sigma=sigma))
    found = np.empty((count, total), np.int32)
    for first in range(0, count, block):
        where = np.minimum(np.arange(first, first + block), count - 1)
        x, own = images[where], keys[where]
        for begin in range(0, total, draws):
            numbers = np.arange(begin, begin + draws)
            said = np.asarray(run(x, own, numbers))
            rest = found[first : first + block, begin : begin + draws]
            rest[...] = said[: rest.shape[0], : rest.shape[1]]
    return found


def _noisy(images: jax.Array, keys: jax.Array, sigma: float) -> jax.Array:
    dtype = wide(images.dtype)
    noise = jax.vmap(lambda key: jax.random.normal(key, images.shape[1:], dtype))(keys)
    scale = rows(jnp.full((len(images),), sigma, dtype), images)
    return (images.astype(dtype) + scale * noise).astype(images.dtype)


def _check_sigma(sigma: float, *, least: float | None = None) -> None:
    if not (0.0 < sigma < math.inf or sigma == least):
        raise ConfigError(
            f"sigma is {sigma}",
            expected="a finite standard deviation above 0",
            do="0.25, 0.5 and 1 are those of the paper, for pixels from 0 to 1",
        )


def _check_alpha(alpha: float) -> None:
    if not 0.0 < alpha < 1.0:
        raise ConfigError(
            f"alpha is {alpha}",
            expected="a probability between 0 and 1",
            do="0.001 is that of the paper",
        )
