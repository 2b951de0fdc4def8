"""Optimizers by name: short chains of Optax, with decay and freezing by parameter path.

Optax is the library. What is added is one set of options for all (decay masks by regular
expression, clipping before everything) and ``OptimizerConfig`` for recipes.

Reads from: errors, schedules, tree_paths. Used by: recipes, by choice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import optax

from jaxdl.errors import ConfigError, closest
from jaxdl.protocols import Params, PyTree
from jaxdl.schedules import ScheduleName, make_schedule
from jaxdl.tree_paths import match_mask

__all__ = [
    "OptimizerConfig",
    "adafactor",
    "adam",
    "adamw",
    "clipped",
    "decayed",
    "freeze",
    "gradient_descent",
    "lamb",
    "lars",
    "lion",
    "matrices",
    "muon",
    "sgd",
]

LearningRate = float | Callable[[Any], Any]
Patterns = str | Iterable[str] | None
OptimizerName = Literal[
    "gradient_descent", "sgd", "adam", "adamw", "adafactor", "lion", "lamb", "lars", "muon"
]


def gradient_descent(learning_rate: LearningRate) -> optax.GradientTransformation:
    r"""Plain descent, :math:`\theta \leftarrow \theta - \eta g`, on whatever batch it is given.

    Args:
        learning_rate: a number, or a schedule ``step -> number``.
    """
    return optax.sgd(learning_rate)


def sgd(
    learning_rate: LearningRate, *, momentum: float = 0.9, nesterov: bool = False
) -> optax.GradientTransformation:
    r"""Stochastic gradient descent with momentum: :math:`v \leftarrow \mu v + g`,
    :math:`\theta \leftarrow \theta - \eta v`.

    Source: Sutskever et al. 2013, "On the importance of initialization and momentum in deep
    learning", in the form without damping.

    Args:
        learning_rate: a number or a schedule.
        momentum: :math:`\mu` in [0, 1); 0 keeps no state.
        nesterov: look ahead by one momentum step.
    """
    return optax.sgd(learning_rate, momentum=momentum or None, nesterov=nesterov)


def adam(
    learning_rate: LearningRate, *, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8
) -> optax.GradientTransformation:
    r"""Adam, with the bias correction of its paper.

    .. math::
        m \leftarrow \beta_1 m + (1 - \beta_1) g, \quad v \leftarrow \beta_2 v + (1-\beta_2) g^2,
        \quad \theta \leftarrow \theta
        - \eta \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}

    Expositions that leave out the two factors :math:`1 - \beta^t` (as the article that jaxdl grew
    out of does) take a first step that is :math:`(1-\beta_1)/\sqrt{1-\beta_2}` times as long:
    3.2 times, at the default values.

    Source: Kingma and Ba 2014, arXiv:1412.6980, algorithm 1.

    Args:
        learning_rate: a number or a schedule.
        b1: decay of the first moment.
        b2: decay of the second moment.
        eps: added to the root.
    """
    return optax.adam(learning_rate, b1=b1, b2=b2, eps=eps)


def adamw(
    learning_rate: LearningRate,
    *,
    weight_decay: float = 1e-2,
    decay_mask: Patterns = None,
    b1: float = 0.9,
    b2: float = 0.999,
) -> optax.GradientTransformation:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2017, arXiv:1711.05101).

    Args:
        learning_rate: a number or a schedule.
        weight_decay: the share of a parameter taken off a step, times the learning rate.
        decay_mask: pattern(s) of the parameter paths that decay; by default those of two or more
            axes, so that biases and norms do not.
        b1: decay of the first moment.
        b2: decay of the second moment.
    """
    mask = matrices(decay_mask)
    return optax.adamw(learning_rate, b1=b1, b2=b2, weight_decay=weight_decay, mask=mask)


def adafactor(learning_rate: LearningRate) -> optax.GradientTransformation:
    """Adam with a factored second moment (Shazeer and Stern 2018, arXiv:1804.04235).

    Args:
        learning_rate: a number or a schedule, relative to the parameters' scale.
    """
    return optax.adafactor(learning_rate)


def lion(
    learning_rate: LearningRate,
    *,
    weight_decay: float = 0.0,
    decay_mask: Patterns = None,
) -> optax.GradientTransformation:
    """The sign of an interpolated momentum (Chen et al. 2023, arXiv:2302.06675).

    Args:
        learning_rate: a number or a schedule; a third to a tenth of Adam's.
        weight_decay: as ``adamw``.
        decay_mask: as ``adamw``.
    """
    return optax.lion(learning_rate, weight_decay=weight_decay, mask=matrices(decay_mask))


def lamb(
    learning_rate: LearningRate, *, weight_decay: float = 0.0, decay_mask: Patterns = None
) -> optax.GradientTransformation:
    """Adam scaled by layer for large batches (You et al. 2019, arXiv:1904.00962).

    Args:
        learning_rate: a number or a schedule.
        weight_decay: as ``adamw``.
        decay_mask: as ``adamw``.
    """
    return optax.lamb(learning_rate, weight_decay=weight_decay, mask=matrices(decay_mask))


def lars(
    learning_rate: LearningRate,
    *,
    weight_decay: float = 0.0,
    decay_mask: Patterns = None,
    momentum: float = 0.9,
) -> optax.GradientTransformation:
    """Momentum scaled by layer for large batches (You et al. 2017, arXiv:1708.03888).

    Args:
        learning_rate: a number or a schedule.
        weight_decay: as ``adamw``.
        decay_mask: as ``adamw``.
        momentum: in [0, 1).
    """
    return optax.lars(
        learning_rate, weight_decay, weight_decay_mask=matrices(decay_mask), momentum=momentum
    )


def muon(
    learning_rate: LearningRate, *, weight_decay: float = 0.0, decay_mask: Patterns = None
) -> optax.GradientTransformation:
    """Orthogonalised momentum for matrices, Adam for the rest (Jordan et al. 2024).

    Source: K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024, as
    ``optax.contrib.muon`` has it.

    Args:
        learning_rate: a number or a schedule.
        weight_decay: as ``adamw``.
        decay_mask: as ``adamw``.
    """
    return optax.contrib.muon(
        learning_rate, weight_decay=weight_decay, weight_decay_mask=matrices(decay_mask)
    )


def matrices(patterns: Patterns = None) -> Callable[[Params], PyTree]:
    """A decay mask: what the patterns find, or by default every leaf of two or more axes.

    Args:
        patterns: regular expression(s) of parameter paths.

    Returns:
        ``params -> tree of booleans``. It raises ``PathError`` when a pattern finds nothing.
    """
    chosen = [patterns] if isinstance(patterns, str) else patterns and list(patterns)

    def mask(params: Params) -> PyTree:
        if not chosen:
            return jax.tree.map(lambda p: jnp.ndim(p) >= 2, params)
        return match_mask(chosen, params)

    return mask


def clipped(
    optimizer: optax.GradientTransformation, max_norm: float
) -> optax.GradientTransformation:
    """Clips the gradient to a global norm before the optimizer sees it.

    Source: Pascanu et al. 2012, arXiv:1211.5063.

    Args:
        optimizer: what comes after.
        max_norm: the largest norm of all gradients together.

    Raises:
        ConfigError: ``max_norm`` is not positive.
    """
    if max_norm <= 0:
        raise ConfigError(
            f"clip_norm is {max_norm}", expected="a positive number or None", do="1.0 is usual"
        )
    return optax.chain(optax.clip_by_global_norm(max_norm), optimizer)


def decayed(
    optimizer: optax.GradientTransformation, weight_decay: float, decay_mask: Patterns = None
) -> optax.GradientTransformation:
    """Adds weight decay to the gradient (L2 regularisation), for optimizers without their own.

    Args:
        optimizer: what comes after.
        weight_decay: the factor of the parameter that is added.
        decay_mask: as ``adamw``.
    """
    return optax.chain(optax.add_decayed_weights(weight_decay, matrices(decay_mask)), optimizer)


def freeze(
    optimizer: optax.GradientTransformation, pattern: str | Iterable[str]
) -> optax.GradientTransformation:
    """Leaves the parameters that match unchanged and without optimizer state.

    ``make_train_step(freeze=...)`` does the same and spares their gradients too; use this one in
    a loop of your own.

    Args:
        optimizer: for the other parameters.
        pattern: regular expression(s) of parameter paths. One that finds nothing raises
            ``PathError`` at ``init``.
    """
    patterns = [pattern] if isinstance(pattern, str) else list(pattern)

    def labels(params: Params) -> PyTree:
        frozen = match_mask(patterns, params)
        return jax.tree.map(lambda is_frozen: "frozen" if is_frozen else "trained", frozen)

    return optax.partition({"trained": optimizer, "frozen": optax.set_to_zero()}, labels)


@dataclass(frozen=True)
class OptimizerConfig:
    """An optimizer as settings, for a recipe's configuration and the command line."""

    name: OptimizerName = "adam"
    """Which optimizer."""
    learning_rate: float = 1e-3
    """The peak learning rate."""
    schedule: ScheduleName = "constant"
    """How the learning rate goes after the warm-up."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises from 0."""
    boundaries: tuple[int, ...] = ()
    """For piecewise: the steps at which the rate falls by factor."""
    factor: float = 0.1
    """For piecewise: what the rate is multiplied by at each boundary."""
    weight_decay: float = 0.0
    """Weight decay (decoupled where the optimizer has it, else added to the gradient)."""
    decay_mask: tuple[str, ...] = ()
    """Patterns of parameter paths that decay; all of two or more axes when empty."""
    momentum: float = 0.9
    """For sgd and lars."""
    nesterov: bool = False
    """For sgd."""
    clip_norm: float | None = None
    """Clip the gradient's global norm to this."""

    def build(self, steps: int) -> optax.GradientTransformation:
        """The optimizer for a run of this many steps.

        Args:
            steps: the length of the run, which the schedules need.

        Raises:
            ConfigError: a setting is out of range or unknown.
        """
        self._check()
        rate = make_schedule(
            self.schedule,
            self.learning_rate,
            steps=steps,
            warmup_steps=self.warmup_steps,
            boundaries=self.boundaries,
            factor=self.factor,
        )
        optimizer = self._named(rate)
        return optimizer if self.clip_norm is None else clipped(optimizer, self.clip_norm)

    def _named(self, rate: LearningRate) -> optax.GradientTransformation:
        mask = self.decay_mask or None
        if self.name in ("adamw", "lion", "lamb", "lars", "muon"):
            factory: Callable[..., Any] = {
                "adamw": adamw,
                "lion": lion,
                "lamb": lamb,
                "lars": lars,
                "muon": muon,
            }[self.name]
            options = {"momentum": self.momentum} if self.name == "lars" else {}
            return factory(rate, weight_decay=self.weight_decay, decay_mask=mask, **options)
        plain = {
            "gradient_descent": lambda: gradient_descent(rate),
            "sgd": lambda: sgd(rate, momentum=self.momentum, nesterov=self.nesterov),
            "adam": lambda: adam(rate),
            "adafactor": lambda: adafactor(rate),
        }[self.name]()
        return decayed(plain, self.weight_decay, mask) if self.weight_decay else plain

    def _check(self) -> None:
        names = get_args(OptimizerName)
        if self.name not in names:
            raise ConfigError(
                f"there is no optimizer {self.name!r}",
                expected=f"one of {', '.join(names)}",
                do=closest(self.name, names),
            )
        for setting, allowed, words in (
            ("learning_rate", self.learning_rate > 0, "a positive number"),
            ("weight_decay", self.weight_decay >= 0, "0 or a positive number"),
            ("momentum", 0 <= self.momentum < 1, "a number from 0 up to but not 1"),
        ):
            if not allowed:
                raise ConfigError(
                    f"{setting} is {getattr(self, setting)}",
                    expected=words,
                    do=f"set --optimizer.{setting.replace('_', '-')}",
                )
