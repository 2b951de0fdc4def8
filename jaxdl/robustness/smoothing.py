r"""Randomised smoothing: a classifier with Gaussian noise around it, and a radius that is certain.

The smoothed classifier says what the model says most often of :math:`x + \mathcal N(0, \sigma^2)`.
No image within the certified radius, in the Euclidean norm, is classified otherwise, whoever made
it. Train the model on such noise: ``objectives.with_adversary(objective, GaussianNoise(sigma))``.

Source: Cohen, Rosenfeld and Kolter 2019, "Certified adversarial robustness via randomized
smoothing", arXiv:1902.02918.

Reads from: errors, robustness.attacks, robustness.ball, robustness.bounds. Used by: cli, and
by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from jaxdl.errors import ConfigError
from jaxdl.robustness.attacks import LossOfImages, check_floats
from jaxdl.robustness.ball import rows, wide
from jaxdl.robustness.bounds import (
    Certificates,
    certificates,
    check_alpha,
    check_sigma,
    counted,
)

__all__ = ["GaussianNoise", "certify", "noisy_labels"]


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
        check_sigma(self.sigma, least=0.0)

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
    check_sigma(sigma)
    check_alpha(alpha)
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
