"""What a loss checks of its arguments while it is traced, before any compute.

Reads from: errors. Used by: losses.classification, losses.regression.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from jaxdl.errors import BatchError

__all__ = ["are_labels", "check_float", "check_same_shape"]


def check_same_shape(outputs: Any, targets: Any, loss: str) -> None:
    """Outputs and targets have one shape of at least one axis.

    Args:
        outputs: what the model returned.
        targets: what it is compared with.
        loss: the name for the message.

    Raises:
        BatchError: they differ.
    """
    if jnp.shape(outputs) != jnp.shape(targets) or jnp.ndim(outputs) == 0:
        raise BatchError(
            f"{loss} got outputs of shape {list(jnp.shape(outputs))} and targets of shape "
            f"{list(jnp.shape(targets))}",
            expected="one shape, [B] or [B, ...]",
            do="reshape one of them (a model with one output gives [B, 1]: take outputs[:, 0])",
        )


def check_float(outputs: Any, loss: str) -> None:
    """Logits and probabilities are floats.

    Args:
        outputs: what the model returned.
        loss: the name for the message.

    Raises:
        BatchError: they are integers or booleans.
    """
    dtype = jnp.result_type(outputs)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise BatchError(
            f"{loss} got outputs of dtype {dtype}",
            expected="floating-point logits or probabilities",
            do="pass what the model returns, not predicted labels; outputs come first",
        )


def are_labels(outputs: Any, targets: Any, loss: str) -> bool:
    """Whether targets are class numbers (one axis fewer, integer) rather than distributions.

    Args:
        outputs: shape ``[..., K]``.
        targets: integers of shape ``[...]``, or numbers of shape ``[..., K]``.
        loss: the name for the message.

    Raises:
        BatchError: they are neither.
    """
    shape, dtype = jnp.shape(outputs), jnp.result_type(targets)
    if jnp.shape(targets) == shape and len(shape) > 1:
        return False
    if len(shape) > 1 and jnp.shape(targets) == shape[:-1] and jnp.issubdtype(dtype, jnp.integer):
        return True
    raise BatchError(
        f"{loss} got outputs of shape {list(shape)} and {dtype} targets of shape "
        f"{list(jnp.shape(targets))}",
        expected=f"integer class numbers of shape {list(shape[:-1])}, or one weight a class of "
        f"shape {list(shape)}",
        do="cast labels to an integer dtype, drop a last axis of length 1, or one-hot encode them",
    )
