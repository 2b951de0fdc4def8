"""One token out of many: temperature, the k likeliest, the likeliest that make up p.

Reads from: errors. Used by: generation.generating, by choice.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from jaxdl.errors import ConfigError

__all__ = ["check_sampling", "keep_top_k", "keep_top_p", "sample"]


def keep_top_k(logits: Any, k: int) -> jax.Array:
    """Logits of the ``k`` likeliest tokens; minus infinity for the others.

    Tokens as likely as the last of the ``k`` are kept too. Source: Fan et al. 2018,
    arXiv:1805.04833, section 5.4.

    Args:
        logits: floats, shape ``[..., V]``.
        k: at least 1, and not traced; with ``V`` or more all are kept.

    Returns:
        The shape and dtype of ``logits``.

    Raises:
        ConfigError: ``k`` is below 1.

    Examples:
        >>> keep_top_k(jnp.array([0.0, 3.0, 1.0]), 2).tolist()
        [-inf, 3.0, 1.0]
    """
    check_sampling(top_k=k)
    logits = jnp.asarray(logits)
    best = jax.lax.top_k(logits, min(k, logits.shape[-1]))[0]
    return jnp.where(logits >= best[..., -1:], logits, -jnp.inf)


def keep_top_p(logits: Any, p: Any) -> jax.Array:
    """Logits of the fewest tokens that together have at least the probability ``p``.

    The others get minus infinity; the likeliest token always stays, and so does one that is as
    likely as the last that is kept. Source: Holtzman et al. 2019, arXiv:1904.09751, section 3.1.

    Args:
        logits: floats, shape ``[..., V]``.
        p: above 0, at most 1, where all are kept; a number or a scalar array.

    Returns:
        The shape of ``logits``, float32.

    Raises:
        ConfigError: ``p`` is out of its range, where it is not traced, or no scalar.

    Examples:
        >>> keep_top_p(jnp.log(jnp.array([0.2, 0.5, 0.3])), 0.6).tolist()[0]
        -inf
    """
    check_sampling(top_p=p)
    logits = jnp.asarray(logits).astype(jnp.float32)
    ordered = jnp.sort(logits, axis=-1, descending=True)
    shares = jax.nn.softmax(ordered, axis=-1)
    before = jnp.cumsum(shares, axis=-1) - shares
    # The sum may be 1 before the last token, by rounding.
    kept = (before < p) | (jnp.asarray(p) >= 1.0)
    least = jnp.min(jnp.where(kept.at[..., 0].set(True), ordered, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(logits >= least, logits, -jnp.inf)


def sample(
    key: jax.Array,
    logits: Any,
    *,
    temperature: Any = 1.0,
    top_k: int | None = None,
    top_p: Any = None,
) -> jax.Array:
    """Draws one token for each row.

    The logits are divided by the temperature, then cut to the ``top_k`` likeliest tokens, then to
    those that make up ``top_p`` of what is left.

    Args:
        key: not used where the temperature is 0.
        logits: floats, shape ``[..., V]``.
        temperature: at least 0, a number or a scalar array; at 0 the likeliest token is taken.
        top_k: see ``keep_top_k``, part of the program; ``None`` for all.
        top_p: see ``keep_top_p``; ``None`` for all.

    Returns:
        int32, shape ``[...]``.

    Raises:
        ConfigError: a number is out of its range, where it is not traced, or no scalar.

    Examples:
        >>> sample(jax.random.key(0), jnp.array([[0.0, 2.0, 1.0]]), temperature=0).tolist()
        [1]
    """
    check_sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    logits = jnp.asarray(logits).astype(jnp.float32)
    likeliest = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    if _known(temperature) == 0:
        return likeliest
    scaled = logits / jnp.where(jnp.asarray(temperature) > 0, temperature, 1.0)
    if top_k is not None:
        scaled = keep_top_k(scaled, top_k)
    if top_p is not None:
        scaled = keep_top_p(scaled, top_p)
    drawn = jax.random.categorical(key, scaled, axis=-1).astype(jnp.int32)
    return jnp.where(jnp.asarray(temperature) > 0, drawn, likeliest)


def check_sampling(*, temperature: Any = 1.0, top_k: Any = None, top_p: Any = None) -> None:
    """The settings of ``sample`` are in their ranges; a traced temperature or ``top_p`` passes.

    Args:
        temperature: at least 0.
        top_k: at least 1, or ``None``.
        top_p: above 0 and at most 1, or ``None``.

    Raises:
        ConfigError: one is not, or is an array of several numbers.
    """
    for name, value in (("temperature", temperature), ("top_p", top_p)):
        if value is not None and jnp.ndim(value):
            raise ConfigError(
                f"{name} has the shape {list(jnp.shape(value))}",
                expected="one number for all rows",
                do="map over rows with jax.vmap, or draw for rows of one setting at a time",
            )
    number = _known(temperature)
    if number is not None and not 0 <= number < float("inf"):
        raise ConfigError(
            f"temperature is {temperature}",
            expected="a finite number, at least 0",
            do="use 0 for the likeliest token, 1 for the model's own probabilities",
        )
    if top_k is not None and top_k < 1:
        raise ConfigError(
            f"top_k is {top_k}",
            expected="at least 1, or None",
            do="leave it None to keep every token",
        )
    number = _known(top_p)
    if number is not None and not 0 < number <= 1:
        raise ConfigError(
            f"top_p is {top_p}",
            expected="above 0 and at most 1, or None",
            do="leave it None to keep every token",
        )


def _known(value: Any) -> float | None:
    """The number, where it is one and is not traced."""
    return None if value is None or isinstance(value, Tracer) else float(jax.device_get(value))
