r"""FGSM and PGD: the worst image in a ball around each one, as pure functions of a loss.

An attack is a function ``(loss, images, keys, row_losses=None) -> images``; ``Attack`` is one, and
so are ``noise.GaussianNoise`` and ``corruptions.Corruption``, which ask for no gradient. What takes
one takes any: ``objectives.with_adversary`` makes an objective of it, to train or to measure.

Reads from: errors, robustness.ball. Used by: objectives.adversarial, cli, and by hand.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.errors import BatchError, ConfigError, ObjectiveError
from jaxdl.robustness.ball import (
    Bound,
    Norm,
    clipped,
    direction,
    drawn,
    ends,
    inward,
    moved,
    rows,
    wide,
)

__all__ = ["Attack", "LossOfImages", "Perturbation", "check_floats", "fgsm", "pgd"]

LossOfImages = Callable[[Any], Any]
"""``images -> loss``, shape ``[B]``, or ``[]``: the sum over the rows."""

_MOST_OF_FGSM = 1.25
_OVER_ALL_STEPS = 2.5


@runtime_checkable
class Perturbation(Protocol):
    """Anything that changes images: an attack, a corruption, noise."""

    def __call__(
        self, loss: LossOfImages, images: Any, keys: Any = None, row_losses: Any = None, /
    ) -> jax.Array:
        """Changed images, of the shape and dtype they had."""
        ...


@dataclass(frozen=True)
class Attack:
    r"""Projected gradient steps that raise the loss of each image within a ball around it.

    From :math:`x_0`, the image or a random point of the ball,

    .. math:: x_{t+1} = \Pi(x_t + \alpha\, d(\nabla \ell(x_t)))

    with :math:`d` the sign (``"linf"``) or the gradient over its length (``"l2"``), and
    :math:`\Pi` into the ball and the valid range. Rows do not meet: only the direction of a row's
    own gradient counts, so batch size, mean or sum, and weights of rows change nothing.

    The result is in the ball and in the range to the last bit, in any float dtype; it has no
    gradient. A gradient that is not finite makes the row not finite, which no model can pass for
    robust; one that is 0 leaves it where it is, which a model can (check with more than one
    attack).

    Sources: Goodfellow et al. 2014, arXiv:1412.6572 (FGSM); Madry et al. 2017, arXiv:1706.06083
    (PGD).

    Attributes:
        radius: of the ball, from 0, in the units of the images.
        norm: of the ball: ``"linf"`` or ``"l2"``, over all entries of a row.
        steps: how many; 0 leaves the start as it is.
        step_size: :math:`\alpha`, from 0.
        random_start: begin at a uniform point of the ball, drawn from the row's key.
        restarts: so many starts; of each row the image with the largest loss is kept.
        low: the lower end of the valid range; one number or one for each channel.
        high: the upper end. An image outside of the range already comes no further out.
        targeted: lower the loss, which is then that of the label to be taken for.
        unroll: write all steps and restarts into the program in place of loops. It compiles for
            longer; on a CPU, where convolutions in a loop are slow, a small CNN's attack ran 4
            times as fast.

    Raises:
        ConfigError: a setting is out of range.

    Examples:
        >>> attack = Attack(0.5, "l2", steps=20, step_size=0.1, low=-jnp.inf, high=jnp.inf)
        >>> weights = jnp.array([[3.0, 4.0]])
        >>> found = attack(lambda x: -jnp.sum(x * weights, axis=1), jnp.zeros((1, 2)))
        >>> [round(float(x), 4) for x in found[0]]
        [-0.3, -0.4]
    """

    radius: float
    norm: Norm = "linf"
    steps: int = 1
    step_size: float = 0.0
    random_start: bool = False
    restarts: int = 1
    low: Bound = 0.0
    high: Bound = 1.0
    targeted: bool = False
    unroll: bool = False

    def __post_init__(self) -> None:
        """Settings that cannot be meant are told before anything is computed."""
        finite = 0 <= self.radius < math.inf and 0 <= self.step_size < math.inf
        for wrong, what, expected in (
            (not finite, f"radius is {self.radius}, step_size {self.step_size}", "both from 0"),
            (self.norm not in ("linf", "l2"), f"norm is {self.norm!r}", "'linf' or 'l2'"),
            (self.steps < 0, f"steps is {self.steps}", "from 0"),
            (self.restarts < 1, f"restarts is {self.restarts}", "from 1"),
            (
                self.restarts > 1 and not self.random_start,
                f"{self.restarts} restarts from the same image",
                "random_start=True, or one start",
            ),
            (
                not np.all(np.asarray(self.low) < np.asarray(self.high)),
                f"the range is {self.low} to {self.high}",
                "low below high",
            ),
        ):
            if wrong:
                raise ConfigError(f"an attack's {what}", expected=expected, do="change the setting")

    def __call__(
        self,
        loss: LossOfImages,
        images: Any,
        keys: Any = None,
        row_losses: LossOfImages | None = None,
    ) -> jax.Array:
        """Attacks images.

        Args:
            loss: what to raise: ``images -> [B]``, or the sum over the rows, whose rows must not
                depend on each other.
            images: floats, shape ``[B, ...]``.
            keys: typed keys of the rows, shape ``[B]``; needed for a random start.
            row_losses: ``images -> [B]``, by which restarts are compared, where ``loss`` is a sum.

        Returns:
            Images of the shape and dtype they had.

        Raises:
            BatchError: the images are no floats.
            ConfigError: a random start without keys.
            ObjectiveError: restarts, and no loss of each row.
        """
        images = check_floats(images)
        if self.random_start and keys is None:
            raise ConfigError(
                "an attack with a random start was given no keys",
                expected="one key an image, so that the start is its own",
                do="pass keys=jax.random.split(key, len(images))",
            )
        if self.restarts == 1:
            return self._once(loss, images, keys)
        return self._worst(loss, row_losses or loss, images, keys)

    def _worst(
        self, loss: LossOfImages, row_losses: LossOfImages, images: jax.Array, keys: Any
    ) -> jax.Array:
        sign = -1.0 if self.targeted else 1.0

        def attempt(carry: tuple[Any, Any], index: Any) -> tuple[tuple[Any, Any], None]:
            best, most = carry
            own = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, index)
            found = self._once(loss, images, own)
            value = sign * jax.lax.stop_gradient(_by_row(row_losses(found), len(images)))
            # One that is not finite is kept: it must be seen.
            worse = ~(value <= most)
            best = jnp.where(rows(worse, images), found, best)
            return (best, jnp.where(worse, value, most)), None

        none = jnp.full((len(images),), -jnp.inf, jnp.float32)
        starts = jnp.arange(self.restarts)
        (best, _), _ = jax.lax.scan(attempt, (images, none), starts, unroll=self.unroll)
        return best

    def _once(self, loss: LossOfImages, images: jax.Array, keys: Any) -> jax.Array:
        images = jax.lax.stop_gradient(images)
        dtype = wide(images.dtype)
        radius = jnp.asarray(inward(self.radius, dtype, "high"))
        room = ends(images, self.low, self.high, dtype)
        size = jnp.asarray(-self.step_size if self.targeted else self.step_size, dtype)

        def placed(delta: jax.Array) -> jax.Array:
            return moved(images, delta, self.low, self.high)

        def kept(delta: jax.Array) -> jax.Array:
            return jnp.clip(clipped(delta, radius, self.norm), *room)

        def total(x: jax.Array) -> jax.Array:
            return jnp.sum(loss(x))

        def step(delta: jax.Array, _: Any) -> tuple[jax.Array, None]:
            gradient = jax.grad(total)(placed(delta)).astype(dtype)
            return kept(delta + size * direction(gradient, self.norm)), None

        if self.random_start:
            delta = kept(drawn(keys, images.shape[1:], radius, self.norm))
        else:
            delta = jnp.zeros_like(images, dtype)
        if self.steps == 1:
            delta, _ = step(delta, None)
        elif self.steps > 1:
            delta, _ = jax.lax.scan(step, delta, None, length=self.steps, unroll=self.unroll)
        return jax.lax.stop_gradient(placed(delta))


def fgsm(
    radius: float,
    *,
    norm: Norm = "linf",
    random_start: bool = False,
    step_size: float | None = None,
    low: Bound = 0.0,
    high: Bound = 1.0,
    targeted: bool = False,
) -> Attack:
    """One step to the edge of the ball: the fast gradient sign method.

    With a random start it is that of Wong et al. 2020, "Fast is better than free", arXiv
    2001.03994, whose step is 1.25 times the radius. Training on it may fail at once ("catastrophic
    overfitting"): watch the accuracy under ``pgd`` while it runs.

    Args:
        radius: as in ``Attack``.
        norm: as in ``Attack``.
        random_start: as in ``Attack``.
        step_size: the radius when ``None``, or 1.25 times that with a random start.
        low: as in ``Attack``.
        high: as in ``Attack``.
        targeted: as in ``Attack``.

    Raises:
        ConfigError: as ``Attack``.

    Examples:
        >>> weights = jnp.array([[1.0, -2.0]])
        >>> found = fgsm(0.25)(lambda x: jnp.sum(x * weights, axis=1), jnp.full((1, 2), 0.5))
        >>> found.tolist()
        [[0.75, 0.25]]
    """
    if step_size is None:
        step_size = radius * (_MOST_OF_FGSM if random_start else 1.0)
    return Attack(radius, norm, 1, step_size, random_start, 1, low, high, targeted)


def pgd(
    radius: float,
    *,
    norm: Norm = "linf",
    steps: int = 40,
    step_size: float | None = None,
    random_start: bool = True,
    restarts: int = 1,
    low: Bound = 0.0,
    high: Bound = 1.0,
    targeted: bool = False,
    unroll: bool = False,
) -> Attack:
    """Many small steps from a random start: projected gradient descent on the loss's negative.

    Args:
        radius: as in ``Attack``.
        norm: as in ``Attack``.
        steps: as in ``Attack``.
        step_size: ``2.5 radius / steps`` when ``None``, as Madry et al. take: enough to reach any
            point of the ball from any other, and to walk along its edge.
        random_start: as in ``Attack``.
        restarts: as in ``Attack``.
        low: as in ``Attack``.
        high: as in ``Attack``.
        targeted: as in ``Attack``.
        unroll: as in ``Attack``.

    Raises:
        ConfigError: as ``Attack``.

    Examples:
        >>> pgd(0.3, steps=40, step_size=0.01).random_start
        True
    """
    if step_size is None:
        step_size = _OVER_ALL_STEPS * radius / max(steps, 1)
    options = (random_start, restarts, low, high, targeted, unroll)
    return Attack(radius, norm, steps, step_size, *options)


def check_floats(images: Any) -> jax.Array:
    """Images as floats, shape ``[B, ...]``.

    Args:
        images: to be checked.

    Raises:
        BatchError: they are integers, or have no axis of rows.
    """
    images = jnp.asarray(images)
    if images.ndim < 1 or not jnp.issubdtype(images.dtype, jnp.floating):
        raise BatchError(
            f"images to be perturbed are {images.dtype}{list(images.shape)}",
            expected="floats [B, ...], such as pixels from 0 to 1",
            do="divide uint8 images by 255 first, or give with_adversary integers='scale' where "
            "the model does so itself; attack the embeddings of tokens, not their numbers",
        )
    return images


def _by_row(values: Any, count: int) -> jax.Array:
    values = jnp.asarray(values)
    if values.shape != (count,):
        raise ObjectiveError(
            f"restarts are compared by a loss of shape {list(values.shape)}",
            expected=f"the loss of each row, [{count}]",
            do="return one loss a row, or pass row_losses",
        )
    return values.astype(jnp.float32)
