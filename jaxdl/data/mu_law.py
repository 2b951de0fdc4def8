"""Mu-law: sound as one of 256 codes, finer where it is quiet.

Reads from: errors. Used by: recipes, by choice.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.errors import ConfigError, DataError

__all__ = ["mu_law_decode", "mu_law_encode"]


def mu_law_encode(audio: Any, levels: int = 256) -> Any:
    r"""Sound as codes.

    .. math:: f(x) = \mathrm{sign}(x) \frac{\ln(1 + \mu |x|)}{\ln(1 + \mu)}, \qquad
        c = \lfloor \mu (f(x) + 1) / 2 + 1/2 \rfloor, \qquad \mu = \text{levels} - 1

    Silence is the code ``levels // 2``. Source: the curve of ITU-T recommendation G.711, rounded to
    codes of equal steps of :math:`f` as by van den Oord et al. 2016, arXiv:1609.03499, section 2.2
    (the bytes of G.711 itself follow the curve by straight pieces, and number it otherwise).

    Args:
        audio: floats from -1 to 1, of any shape, cut off beyond; or 16-bit integers (PCM), which
            are divided by 32,768. Other integers are an error. NumPy in gives NumPy out; JAX arrays
            may be traced.
        levels: how many codes, at least 2.

    Returns:
        int32 from 0 to ``levels - 1``, of the shape of ``audio``.

    Raises:
        ConfigError: ``levels`` is below 2.
        DataError: ``audio`` is neither floats nor int16.

    Examples:
        >>> mu_law_encode(np.array([-1.0, 0.0, 0.01, 1.0])).tolist()
        [0, 128, 157, 255]
    """
    mu, xp = _mu(levels), _namespace(audio)
    x = xp.asarray(audio)
    if x.dtype == np.int16:
        x = x.astype(np.float32) / 32_768.0
    elif not jnp.issubdtype(x.dtype, jnp.floating):
        raise DataError(
            f"mu_law_encode got audio of dtype {x.dtype}",
            expected="floats from -1 to 1, or int16",
            do="divide wider integers by their largest value first; codes need no encoding",
        )
    x = xp.clip(x.astype(jnp.promote_types(x.dtype, jnp.float32)), -1.0, 1.0)
    curve = xp.sign(x) * xp.log1p(mu * xp.abs(x)) / math.log1p(mu)
    return xp.floor(mu * (curve + 1.0) / 2.0 + 0.5).astype(np.int32)


def mu_law_decode(codes: Any, levels: int = 256) -> Any:
    """Codes as sound; ``mu_law_encode`` of the result is the codes again.

    Args:
        codes: integers from 0 to ``levels - 1``, of any shape.
        levels: how many codes there are.

    Returns:
        float32 from -1 to 1, of the shape of ``codes``. The code of silence, ``levels // 2``, gives
        a value just above 0, as an even number of codes has none for 0 itself.

    Raises:
        ConfigError: ``levels`` is below 2.
        DataError: ``codes`` are no integers.

    Examples:
        >>> [round(float(x), 5) for x in mu_law_decode(np.array([0, 128, 255]))]
        [-1.0, 9e-05, 1.0]
    """
    mu, xp = _mu(levels), _namespace(codes)
    codes = xp.asarray(codes)
    if not jnp.issubdtype(codes.dtype, jnp.integer):
        raise DataError(
            f"mu_law_decode got codes of dtype {codes.dtype}",
            expected="integers",
            do="take the largest logit, or draw one, before decoding",
        )
    curve = codes.astype(np.float32) * np.float32(2.0 / mu) - np.float32(1.0)
    size = xp.expm1(xp.abs(curve) * np.float32(math.log1p(mu))) / np.float32(mu)
    return xp.sign(curve) * xp.minimum(size, np.float32(1.0))


def _namespace(x: Any) -> Any:
    return jnp if isinstance(x, jax.Array) else np


def _mu(levels: int) -> int:
    if levels < 2:
        raise ConfigError(
            f"mu-law has levels={levels}", expected="at least 2", do="256 is the usual number"
        )
    return levels - 1
