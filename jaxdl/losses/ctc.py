"""Connectionist temporal classification: the loss of a row of labels without their times.

Reads from: errors, reductions. Used by: objectives, by choice.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxdl.errors import BatchError, ConfigError
from jaxdl.reductions import whole_numbers

__all__ = ["ctc"]


def ctc(
    logits: Any,
    labels: Any,
    *,
    logit_mask: Any = None,
    label_mask: Any = None,
    blank: int = 0,
    zero_infinity: bool = False,
) -> jax.Array:
    """Minus the log of the probability of all alignments of the labels with the frames.

    By ``optax.ctc_loss``. Source: Graves et al. 2006, "Connectionist temporal classification:
    labelling unsegmented sequence data with recurrent neural networks".

    A row needs as many frames as it has labels, and one more for each label that repeats the one
    before it. With fewer there is no alignment: its loss is infinite and its gradient 0 (PyTorch's
    is NaN).

    Args:
        logits: floats, shape ``[B, T, K]``, not normalised.
        labels: integers, shape ``[B, N]``; entries that are ``blank`` or negative are padding.
        logit_mask: shape ``[B, T]``, 0 on padding; all frames are real when ``None``.
        label_mask: shape ``[B, N]``, 0 on further padding.
        blank: the class that is no label.
        zero_infinity: whether rows without an alignment have the loss 0 in place of infinity. They
            still count as rows.

    Returns:
        Float32 or wider, shape ``[B]``, in nats.

    Raises:
        BatchError: shapes or dtypes do not go together.
        ConfigError: ``blank`` is no class.

    Examples:
        >>> values = ctc(jnp.zeros((1, 2, 2)), jnp.array([[1]]))
        >>> round(float(jnp.exp(-values[0])), 6)  # 3 of the 4 paths: 11, 01, 10
        0.75
    """
    logits, labels = jnp.asarray(logits), whole_numbers(labels)
    _check(logits, labels, blank)
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    frames = _kept(logit_mask, logits.shape[:2], "logit_mask")
    real = (labels != blank) & (labels >= 0) & _kept(label_mask, labels.shape, "label_mask")
    # Padding anywhere: optax wants it on the right.
    order = jnp.argsort(~real, axis=1, stable=True)
    labels, real = (jnp.take_along_axis(x, order, axis=1) for x in (labels, real))
    labels = jnp.where(real, labels, blank)
    repeats = jnp.sum(real[:, 1:] & (labels[:, 1:] == labels[:, :-1]), axis=1)
    possible = jnp.sum(real, axis=1) + repeats <= jnp.sum(frames, axis=1)
    logits = jnp.where((frames & possible[:, None])[..., None], logits, jnp.zeros_like(logits))
    values = optax.ctc_loss(
        logits,
        (~frames).astype(logits.dtype),
        labels,
        (~real).astype(logits.dtype),
        blank_id=blank,
    )
    return jnp.where(possible, values, 0.0 if zero_infinity else jnp.inf)


def _kept(mask: Any, shape: tuple[int, ...], name: str) -> jax.Array:
    if mask is None:
        return jnp.ones(shape, bool)
    if jnp.shape(mask) != shape:
        raise BatchError(
            f"{name} has shape {list(jnp.shape(mask))}",
            expected=f"{list(shape)}, 0 on padding",
            do="make it of the lengths: jnp.arange(T) < length[:, None]",
        )
    return jnp.asarray(mask) != 0


def _check(logits: jax.Array, labels: jax.Array, blank: int) -> None:
    fits = (
        logits.ndim == 3
        and labels.ndim == 2
        and logits.shape[0] == labels.shape[0]
        and 0 not in logits.shape
        and jnp.issubdtype(logits.dtype, jnp.floating)
        and jnp.issubdtype(labels.dtype, jnp.integer)
    )
    if not fits:
        raise BatchError(
            f"ctc got {logits.dtype} logits {list(logits.shape)} and {labels.dtype} labels "
            f"{list(labels.shape)}",
            expected="floats [B, T, K] and integers [B, N]",
            do="pass the model's logits first; pad the labels with the blank",
        )
    if not 0 <= blank < logits.shape[-1]:
        raise ConfigError(
            f"blank is {blank} of {logits.shape[-1]} classes",
            expected=f"a class from 0 to {logits.shape[-1] - 1}",
            do="give the model one output more than there are labels",
        )
