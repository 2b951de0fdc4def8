"""Attributions by one gradient, or the mean of some: saliency, gradient x input, SmoothGrad.

Reads from: errors, explain.targets. Used by: explain.integrated, explain.tokens, cli, and by hand.
"""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxdl.errors import ConfigError, closest
from jaxdl.explain.targets import ScoreFn, Targets, at_mask, check_inputs, chosen, wide

__all__ = ["gradient_x_input", "input_gradient", "saliency", "smoothgrad"]

_COMBINATIONS = ("mean", "absolute", "square", "variance")


def input_gradient(fn: ScoreFn, inputs: jax.Array, targets: Targets) -> jax.Array:
    """The gradient of each row's own score, in float32 or wider.

    Args:
        fn: see ``ScoreFn``.
        inputs: floats, shape ``[B, ...]``.
        targets: see ``Targets``.

    Raises:
        JaxdlError: as ``targets.chosen``.
    """

    def total(x: jax.Array) -> jax.Array:
        # No row's score reads another row: the gradient of their sum is that of each.
        return jnp.sum(chosen(fn(x), targets))

    return jax.grad(total)(inputs).astype(wide(inputs.dtype))


def saliency(
    fn: ScoreFn, inputs: Any, targets: Targets = None, *, absolute: bool = True, mask: Any = None
) -> jax.Array:
    r"""How much each input value would change the score: :math:`|\partial s_b / \partial x_b|`.

    Source: Simonyan et al. 2013, "Deep inside convolutional networks: visualising image
    classification models and saliency maps", arXiv:1312.6034. The paper takes the largest of a
    pixel's colours, ``jnp.max(attributions, axis=-1)``.

    Args:
        fn: see ``ScoreFn``.
        inputs: floats, shape ``[B, ...]``.
        targets: see ``Targets``.
        absolute: ``False`` keeps the sign.
        mask: 0 on padding, shape a prefix of the inputs'; attributions there are 0.

    Returns:
        The shape of ``inputs``, float32 or wider.

    Raises:
        BatchError: the inputs are no floats, or targets or mask do not fit.
        ConfigError: there is no target where one is needed.
        ObjectiveError: ``fn`` returns no scores.

    Examples:
        >>> fn = lambda x: x @ jnp.array([[1.0, 2.0], [-3.0, 4.0]])
        >>> saliency(fn, jnp.ones((1, 2)), 0).tolist()
        [[1.0, 3.0]]
    """
    inputs = check_inputs(inputs, "saliency")
    found = input_gradient(fn, inputs, targets)
    return at_mask(jnp.abs(found) if absolute else found, mask)


def gradient_x_input(
    fn: ScoreFn, inputs: Any, targets: Targets = None, *, mask: Any = None
) -> jax.Array:
    r"""The gradient times the input, :math:`x_b \, \partial s_b / \partial x_b`.

    Of a network of linear layers and ReLU without biases it adds up to the score.

    Source: Shrikumar et al. 2016, "Not just a black box: learning important features through
    propagating activation differences", arXiv:1605.01713.

    Args:
        fn: see ``ScoreFn``.
        inputs: floats, shape ``[B, ...]``.
        targets: see ``Targets``.
        mask: as ``saliency``.

    Returns:
        The shape of ``inputs``, float32 or wider.

    Raises:
        JaxdlError: as ``saliency``.

    Examples:
        >>> fn = lambda x: x @ jnp.array([[1.0], [-3.0]])
        >>> gradient_x_input(fn, jnp.array([[2.0, 5.0]])).tolist()
        [[2.0, -15.0]]
    """
    inputs = check_inputs(inputs, "gradient_x_input")
    found = input_gradient(fn, inputs, targets)
    return at_mask(found * inputs.astype(found.dtype), mask)


def smoothgrad(
    fn: ScoreFn,
    inputs: Any,
    targets: Targets = None,
    *,
    key: Any,
    samples: int = 50,
    noise: float = 0.15,
    relative: bool = True,
    combine: Literal["mean", "absolute", "square", "variance"] = "mean",
    mask: Any = None,
) -> jax.Array:
    """The mean gradient over copies of the input with Gaussian noise.

    Memory is that of one gradient, whatever ``samples``. The noise of a row depends on its key and
    place only, so it is the same on any number of devices and with any padding after it.

    Source: Smilkov et al. 2017, "SmoothGrad: removing noise by adding noise", arXiv:1706.03825
    (50 samples and 10 % to 20 % noise); squares and variance: Hooker et al. 2018, arXiv:1806.10758,
    Adebayo et al. 2018, arXiv:1810.03292.

    Args:
        fn: see ``ScoreFn``.
        inputs: floats, shape ``[B, ...]``.
        targets: see ``Targets``.
        key: a typed key, folded with each row's number; or keys ``[B]``.
        samples: how many copies.
        noise: the deviation; times the row's largest less its smallest value where ``relative``.
        relative: see ``noise``.
        combine: the ``"mean"`` of the gradients, with their sign; of their ``"absolute"`` values
            (as Captum's ``NoiseTunnel(Saliency)``); of their ``"square"``; or their ``"variance"``.
        mask: as ``saliency``; what it hides gets no noise and has no part in a row's range.

    Returns:
        The shape of ``inputs``, float32 or wider.

    Raises:
        JaxdlError: as ``saliency``.
        ConfigError: a setting is out of range.

    Examples:
        >>> fn = lambda x: x @ jnp.array([[1.0], [-3.0]])
        >>> smoothgrad(fn, jnp.ones((1, 2)), key=jax.random.key(0), samples=4).tolist()
        [[1.0, -3.0]]
    """
    inputs = check_inputs(inputs, "smoothgrad")
    _check_smoothing(samples, noise, combine)
    dtype = wide(inputs.dtype)
    keys = _row_keys(key, inputs.shape[0])
    deviation = noise * (_ranges(inputs.astype(dtype), mask) if relative else 1.0)

    def drawn(key: Any, sample: Any) -> jax.Array:
        return jax.random.normal(jax.random.fold_in(key, sample), inputs.shape[1:], dtype)

    def one(sums: tuple[jax.Array, jax.Array], sample: Any) -> tuple[Any, None]:
        more = at_mask(jax.vmap(drawn, (0, None))(keys, sample) * deviation, mask)
        near = (inputs.astype(dtype) + more).astype(inputs.dtype)
        found = input_gradient(fn, near, targets)
        kept = jnp.abs(found) if combine == "absolute" else found
        # Welford's recurrence: a variance as a difference of two means would cancel.
        count = sample.astype(dtype) + 1
        away = kept - sums[0]
        mean = sums[0] + away / count
        second = found**2 if combine == "square" else away * (kept - mean)
        return (mean, sums[1] + second), None

    zeros = jnp.zeros(inputs.shape, dtype)
    (mean, spread), _ = jax.lax.scan(one, (zeros, zeros), jnp.arange(samples))
    return at_mask(mean if combine in ("mean", "absolute") else spread / samples, mask)


def _row_keys(key: Any, rows: int) -> jax.Array:
    typed = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if not typed or key.shape not in ((), (rows,)):
        raise ConfigError(
            f"the key is {getattr(key, 'dtype', type(key).__name__)}"
            f"{list(getattr(key, 'shape', ()))}",
            expected=f"a typed key, or [{rows}] of them, one a row",
            do="make it with jax.random.key(seed)",
        )
    return key if key.ndim else jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(rows))


def _ranges(inputs: jax.Array, mask: Any) -> jax.Array:
    """Each row's largest less its smallest value, ``[B, 1, ...]``."""
    axes = tuple(range(1, inputs.ndim))
    high = low = inputs
    if mask is not None:
        hidden = at_mask(jnp.ones_like(inputs), mask) == 0
        high = jnp.where(hidden, -jnp.inf, inputs)
        low = jnp.where(hidden, jnp.inf, inputs)
    found = jnp.max(high, axes, keepdims=True) - jnp.min(low, axes, keepdims=True)
    return jnp.where(jnp.isfinite(found), found, jnp.zeros_like(found))


def _check_smoothing(samples: int, noise: float, combine: str) -> None:
    if samples < 1 or noise < 0:
        raise ConfigError(
            f"samples is {samples}, noise is {noise}",
            expected="at least 1 sample, and noise that is not negative",
            do="use samples=50, noise=0.15",
        )
    if combine not in _COMBINATIONS:
        raise ConfigError(
            f"combine is {combine!r}",
            expected=f"one of {', '.join(_COMBINATIONS)}",
            do=closest(str(combine), _COMBINATIONS),
        )
