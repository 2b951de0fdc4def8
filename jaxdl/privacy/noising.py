"""The noise of a private run, added once: an Optax transform for the start of the chain.

Reads from: errors, protocols, units. Used by: privacy.recipes, and by hand.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxdl.errors import ConfigError
from jaxdl.protocols import Params, PyTree
from jaxdl.units import Number

__all__ = ["blind", "noise"]


def noise(
    noise_multiplier: Number,
    clip_norm: Number,
    *,
    expected_batch_size: Number,
    key: jax.Array,
) -> optax.GradientTransformation:
    r"""Adds :math:`N(0, (\sigma C / B)^2)` to every number of the gradient.

    It goes first in the chain, before anything that reads the gradient::

        optax.chain(privacy.noise(1.1, 1.0, expected_batch_size=256, key=key), optax.adam(1e-3))

    A step calls the optimizer after the sum over devices, and every device holds the same state and
    so draws the same noise: on 1 device or many, under ``jit`` and ``pmap``, it is added once. It
    is drawn in float32, also for parameters of half precision, and the sum then gets the dtype of
    its parameter. The key lies in the state and changes with every update, so a run that goes on
    draws what it would have drawn.

    It is ``optax.add_noise`` of a variance that does not decay.

    Args:
        noise_multiplier: :math:`\sigma`, as in ``privacy.epsilon``; 0 adds nothing.
        clip_norm: :math:`C`, as in ``gradients.private``.
        expected_batch_size: :math:`B`, as in ``gradients.private``.
        key: a typed key. Who knows it can take the noise off, so where a guarantee is claimed it
            must come from chance, belong to this use alone, and stay secret.

    Raises:
        ConfigError: a number is out of range, or ``key`` is no single typed key.

    Examples:
        >>> transform = noise(0.0, 1.0, expected_batch_size=8, key=jax.random.key(0))
        >>> grads = {"kernel": jnp.array([0.5, 2.0])}
        >>> transform.update(grads, transform.init(grads), grads)[0]["kernel"].tolist()
        [0.5, 2.0]
    """
    for name, value, least in (
        ("noise_multiplier", noise_multiplier, "0 or more"),
        ("clip_norm", clip_norm, "positive"),
        ("expected_batch_size", expected_batch_size, "positive"),
    ):
        if not (math.isfinite(value) and (value > 0 or (value == 0 and least == "0 or more"))):
            raise ConfigError(
                f"noise({name}={value})",
                expected=f"a number, {least}",
                do="give the numbers that gradients.private and privacy.epsilon are given",
            )
    _check_key(key)
    deviation = noise_multiplier * clip_norm / expected_batch_size
    return optax.chain(
        optax.stateless(_wide), optax.add_noise(deviation**2, 0.0, key), optax.stateless(_narrow)
    )


def blind(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """The optimizer, told of nothing but the noised gradient.

    A train step hands optimizers the loss too (``value``), which is measured without noise: one
    that steers by it, as ``optax.contrib.reduce_on_plateau`` does, would carry it into the
    parameters. Wrapped, such an optimizer fails at its first update.

    Args:
        optimizer: any Optax transformation.
    """
    update = optax.with_extra_args_support(optimizer).update
    return optax.GradientTransformation(
        optimizer.init, lambda updates, state, params=None: update(updates, state, params)
    )


def _wide(updates: PyTree, params: Params | None) -> PyTree:
    del params
    return jax.tree.map(lambda g: g.astype(jnp.promote_types(g.dtype, jnp.float32)), updates)


def _narrow(updates: PyTree, params: Params | None) -> PyTree:
    if params is None:
        return updates
    return jax.tree.map(lambda g, p: g.astype(p.dtype), updates, params)


def _check_key(key: Any) -> None:
    typed = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if not typed or key.shape:
        raise ConfigError(
            f"noise got a {type(key).__name__} as key",
            expected="one typed key",
            do="jax.random.key(secrets.randbits(63)), kept secret",
        )
