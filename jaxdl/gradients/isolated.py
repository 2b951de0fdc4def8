"""Computing alone: a wall that the compiler does not fuse across.

XLA rounds by what it fuses: the product in ``a * b + c`` is rounded or not, depending on whether
the sum lies in the same kernel. So one formula in two programs may give two numbers, by what
stands around it.

Reads from: protocols. Used by: gradients.reproduced, step.train.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxdl.protocols import PyTree

__all__ = ["alone"]


def alone(function: Callable[..., PyTree], *args: PyTree) -> PyTree:
    """Calls a function so that the compiler treats it as a program of its own.

    It becomes the branch of a condition that always holds, which the compiler cannot know: it is
    hidden by ``jax.lax.optimization_barrier``. A barrier around the function would not do, as the
    CPU compiler drops barriers before it fuses.

    Args:
        function: arrays to arrays; what it closes over is seen as another argument.
        args: its arguments.

    Returns:
        What the function returns, of the same bits wherever the call stands.

    Examples:
        >>> float(alone(lambda x: 2.0 * x, jnp.array(3.0)))
        6.0
    """
    shapes = jax.eval_shape(function, *args)

    def never(*args: PyTree) -> PyTree:
        del args
        return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

    holds = jax.lax.optimization_barrier(jnp.asarray(True))
    return jax.lax.cond(holds, function, never, *args)
