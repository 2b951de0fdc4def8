"""What is certain of a smoothed classifier, from how often a model said what under noise.

Statistics on the host, of Cohen, Rosenfeld and Kolter 2019, arXiv:1902.02918, sections 3.1 and 3.2.

Reads from: errors. Used by: robustness.smoothing, cli, and by hand.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from jaxdl.errors import ConfigError

__all__ = [
    "ABSTAIN",
    "Certificates",
    "certificates",
    "certified_accuracy",
    "certified_radius",
    "check_alpha",
    "check_sigma",
    "counted",
    "lower_bound",
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
    check_sigma(sigma)
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

    check_alpha(alpha)
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

    check_alpha(alpha)
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


def check_sigma(sigma: float, *, least: float | None = None) -> None:
    """The deviation of noise is one.

    Args:
        sigma: to be checked.
        least: a value that is allowed too.

    Raises:
        ConfigError: it is not above 0, or not finite.
    """
    if not (0.0 < sigma < math.inf or sigma == least):
        raise ConfigError(
            f"sigma is {sigma}",
            expected="a finite standard deviation above 0",
            do="0.25, 0.5 and 1 are those of the paper, for pixels from 0 to 1",
        )


def check_alpha(alpha: float) -> None:
    """The probability of being wrong is one.

    Args:
        alpha: to be checked.

    Raises:
        ConfigError: it is not between 0 and 1.
    """
    if not 0.0 < alpha < 1.0:
        raise ConfigError(
            f"alpha is {alpha}",
            expected="a probability between 0 and 1",
            do="0.001 is that of the paper",
        )
