"""Learning rates over a run: a warm-up, then a named course. All of it is Optax's.

Reads from: errors. Used by: optimizers, reporting.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import jax.numpy as jnp
import optax

from jaxdl.errors import ConfigError, closest

__all__ = ["ScheduleName", "make_schedule", "rsqrt"]

ScheduleName = Literal["constant", "cosine", "linear", "rsqrt", "piecewise"]


def make_schedule(
    name: ScheduleName,
    peak: float,
    *,
    steps: int,
    warmup_steps: int = 0,
    boundaries: Sequence[int] = (),
    factor: float = 0.1,
) -> Callable[[Any], Any]:
    """A schedule ``step -> learning rate``: linear from 0 to ``peak``, then by name.

    Args:
        name: ``"constant"``; ``"cosine"`` or ``"linear"`` down to 0 at ``steps``; ``"rsqrt"``
            as ``1 / sqrt(step)``; ``"piecewise"``, by ``factor`` at each boundary.
        peak: the rate at the end of the warm-up.
        steps: the length of the run, warm-up included.
        warmup_steps: the length of the warm-up.
        boundaries: for ``"piecewise"``, in steps of the run.
        factor: for ``"piecewise"``.

    Returns:
        A function of the step, which may be traced.

    Raises:
        ConfigError: the name is unknown, or the numbers do not go together.

    Examples:
        >>> schedule = make_schedule("linear", 1.0, steps=10, warmup_steps=2)
        >>> [float(schedule(step)) for step in (0, 1, 2, 6, 10)]
        [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    _check(name, steps, warmup_steps, boundaries)
    rest = max(1, steps - warmup_steps)
    later = [boundary - warmup_steps for boundary in boundaries]
    course: Callable[[Any], Any] = {
        "constant": lambda: optax.constant_schedule(peak),
        "cosine": lambda: optax.cosine_decay_schedule(peak, rest),
        "linear": lambda: optax.linear_schedule(peak, 0.0, rest),
        "rsqrt": lambda: rsqrt(peak, max(1, warmup_steps)),
        "piecewise": lambda: optax.piecewise_constant_schedule(peak, dict.fromkeys(later, factor)),
    }[name]()
    if not warmup_steps:
        return course
    warmup = optax.linear_schedule(0.0, peak, warmup_steps)
    return optax.join_schedules([warmup, course], [warmup_steps])


def rsqrt(peak: float, shift: int) -> Callable[[Any], Any]:
    r"""The course :math:`p \sqrt{s / (s + t)}` (Vaswani et al. 2017, arXiv:1706.03762, 5.3).

    Args:
        peak: :math:`p`, the rate at :math:`t = 0`.
        shift: :math:`s`, the steps that came before, in which the rate rose.
    """
    return lambda step: peak * jnp.sqrt(shift / (shift + jnp.asarray(step, jnp.float32)))


def _check(name: str, steps: int, warmup_steps: int, boundaries: Sequence[int]) -> None:
    names = get_args(ScheduleName)
    if name not in names:
        raise ConfigError(
            f"there is no schedule {name!r}",
            expected=f"one of {', '.join(names)}",
            do=closest(name, names),
        )
    if not 0 <= warmup_steps < max(1, steps):
        raise ConfigError(
            f"warmup_steps is {warmup_steps} in a run of {steps} steps",
            expected="0 or more, and fewer than the run has",
            do="shorten the warm-up or lengthen the run",
        )
    if name == "piecewise" and not boundaries:
        raise ConfigError(
            "the piecewise schedule has no boundaries",
            expected="at least one step at which the rate falls",
            do="set --optimizer.boundaries 3000 6000, say",
        )
    wrong = [b for b in boundaries if not warmup_steps < b < steps]
    if name == "piecewise" and wrong:
        raise ConfigError(
            f"boundaries {wrong} lie outside the run",
            expected=f"steps between {warmup_steps} and {steps}",
            do="give boundaries in steps of the run, after the warm-up",
        )
