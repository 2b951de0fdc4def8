"""Occlusion: how much of the score is lost when a window of the input is covered.

Reads from: errors, explain.integrated, explain.targets. Used by: cli, and by hand.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.errors import ConfigError
from jaxdl.explain.integrated import added_up, baseline_of
from jaxdl.explain.targets import ScoreFn, Targets, at_mask, check_inputs, chosen, wide

__all__ = ["occlusion"]


def occlusion(
    fn: ScoreFn,
    inputs: Any,
    targets: Targets = None,
    *,
    window: int | Sequence[int],
    strides: int | Sequence[int] = 1,
    baselines: Any = 0.0,
    chunk: int = 1,
    mask: Any = None,
) -> jax.Array:
    """The score less the score with a window covered, the mean over the windows that cover a value.

    Windows start at every multiple of the strides; the last one along an axis that they do not
    divide is cut off at the edge. There are as many calls of ``fn`` as windows, and one more.

    Source: Zeiler and Fergus 2013, "Visualizing and understanding convolutional networks",
    arXiv:1311.2901. The mean over overlapping windows, and the last window, are as Captum has them.

    Args:
        fn: see ``ScoreFn``; with a ``chunk`` of more than 1 it is mapped over windows.
        inputs: floats, shape ``[B, ...]``.
        targets: see ``Targets``.
        window: its lengths along the axes after the first, such as ``(3, 3)`` or ``(3, 3, 1)`` of
            images ``[B, H, W, C]``. Along axes that it does not name it is the whole input.
        strides: from one window to the next, along the axes that the window names.
        baselines: what covers: a number, or an array ``[B, ...]`` or ``[1, ...]``.
        chunk: how many windows are computed at once.
        mask: as ``saliency``.

    Returns:
        The shape of ``inputs``, float32 or wider.

    Raises:
        JaxdlError: as ``saliency``.
        BatchError: the baselines do not broadcast to the inputs.
        ConfigError: the window is larger than the input, or strides would leave gaps.

    Examples:
        >>> fn = lambda x: jnp.sum(x, axis=1)
        >>> occlusion(fn, jnp.array([[1.0, 2.0, 3.0]]), window=2, strides=2).tolist()
        [[3.0, 3.0, 3.0]]
    """
    inputs = check_inputs(inputs, "occlusion")
    lengths, steps = _windows(window, strides, inputs.shape[1:])
    cover = baseline_of(baselines, inputs).astype(inputs.dtype)
    whole = chosen(fn(inputs), targets)
    dtype = wide(inputs.dtype)

    def lost(start: jax.Array) -> jax.Array:
        inside = _inside(start, lengths, inputs.shape[1:])[None]
        left = chosen(fn(jnp.where(inside, cover, inputs)), targets)
        change = (whole - left).astype(dtype).reshape(-1, *[1] * (inputs.ndim - 1))
        return jnp.where(inside, change, jnp.zeros_like(change))

    starts = [
        np.arange(0, size - length + step, step) if size > length else np.zeros(1, int)
        for size, length, step in zip(inputs.shape[1:], lengths, steps, strict=True)
    ]
    grid = np.stack(np.meshgrid(*starts, indexing="ij"), axis=-1).reshape(-1, len(starts))
    total = added_up(lost, grid.astype(np.int32), np.ones(len(grid), dtype), chunk)
    return at_mask(total / _covered(starts, lengths, inputs.shape[1:], dtype), mask)


def _inside(start: jax.Array, lengths: Sequence[int], shape: tuple[int, ...]) -> jax.Array:
    """Which values of an input a window covers."""
    inside = jnp.ones(shape, bool)
    for axis, length in enumerate(lengths):
        at = jax.lax.broadcasted_iota(jnp.int32, shape, axis)
        inside &= (at >= start[axis]) & (at < start[axis] + length)
    return inside


def _covered(
    starts: Sequence[Any], lengths: Sequence[int], shape: tuple[int, ...], dtype: Any
) -> Any:
    """How many windows cover each value, ``[1, ...]``."""
    counts = [
        np.sum((np.arange(size) >= first[:, None]) & (np.arange(size) < first[:, None] + length), 0)
        for first, length, size in zip(starts, lengths, shape, strict=True)
    ]
    return functools.reduce(np.multiply.outer, counts, np.ones((), int))[None].astype(dtype)


def _windows(
    window: int | Sequence[int], strides: int | Sequence[int], shape: tuple[int, ...]
) -> tuple[list[int], list[int]]:
    """Length and stride along every axis after the first."""
    named = [window] if isinstance(window, int) else list(window)
    given = [strides] * len(named) if isinstance(strides, int) else list(strides)
    if not 0 < len(named) <= len(shape) or len(given) != len(named):
        raise ConfigError(
            f"window {named} and strides {given} for inputs [B, {', '.join(map(str, shape))}]",
            expected=f"from 1 to {len(shape)} lengths, and a stride for each",
            do="name the axes after the first, such as window=(3, 3), strides=2",
        )
    rest = list(shape[len(named) :])
    lengths, steps = [*named, *rest], [*given, *rest]
    for length, step, size in zip(lengths, steps, shape, strict=True):
        if not 1 <= length <= size or step < 1 or (length < size and step > length):
            raise ConfigError(
                f"a window of {length} with stride {step} along {size} values",
                expected=f"a window from 1 to {size}, and a stride from 1 to the window",
                do="every value must be covered: enlarge the window, or lower the stride",
            )
    if math.prod(shape) >= 2**31:
        raise ConfigError(
            f"inputs of {math.prod(shape)} values", expected="fewer than 2**31", do="cut them up"
        )
    return lengths, steps
