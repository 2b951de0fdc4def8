"""What a metric reads of a batch: its targets, and how much each entry counts.

Reads from: errors, protocols, reductions. Used by: the metrics beside it.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxdl.errors import BatchError, closest
from jaxdl.protocols import MASK, Batch
from jaxdl.reductions import expand_mask, whole_numbers

__all__ = ["counted", "predicted_classes", "targets_of"]


def targets_of(batch: Batch, name: str) -> jax.Array:
    """The targets' field; integers of at least 32 bits.

    Args:
        batch: the batch.
        name: the field.

    Raises:
        BatchError: the batch has no such field.
    """
    if name not in batch:
        raise BatchError(
            f"a metric reads the batch field {name!r}, which is not there",
            expected=f"{name!r} among the fields ({', '.join(batch)})",
            do=closest(name, batch) + " Pass target= to the metric",
        )
    return whole_numbers(batch[name])


def counted(batch: Batch, shape: tuple[int, ...]) -> jax.Array:
    """How much each entry counts, from the batch's mask.

    Without a mask, or with a boolean or integer one, the counts are int32, so that sums of them
    are exact; a float mask gives float32 weights.

    Args:
        batch: the batch.
        shape: the shape of the entries, ``[B]`` or ``[B, T]``.
    """
    mask = batch.get(MASK)
    if mask is None:
        return jnp.ones(shape, jnp.int32)
    weights = expand_mask(mask, shape)
    exact = not jnp.issubdtype(jnp.result_type(mask), jnp.floating)
    return weights.astype(jnp.int32) if exact else weights


def predicted_classes(outputs: Any, targets: jax.Array, num_classes: int | None) -> jax.Array:
    """The predicted class of each entry: the largest score, or score > 0 for one logit.

    Args:
        outputs: scores ``[..., K]``, or binary logits of the targets' shape, or ``[..., 1]``.
        targets: class numbers ``[...]``.
        num_classes: what the metric was made for, to check ``K``; ``None`` does not check.

    Raises:
        BatchError: the shapes do not go together, or ``K`` is another number.
    """
    scores = jnp.asarray(outputs)
    if scores.shape == targets.shape or scores.shape == (*targets.shape, 1):
        return (scores.reshape(targets.shape) > 0).astype(jnp.int32)
    if scores.ndim == 0 or scores.shape[:-1] != targets.shape:
        raise BatchError(
            f"outputs of shape {list(scores.shape)} do not go with targets of shape "
            f"{list(targets.shape)}",
            expected=f"scores of shape {[*targets.shape, 'K']}, or binary logits of the targets' "
            "shape",
            do="check target= and what the model returns",
        )
    if num_classes is not None and scores.shape[-1] != num_classes:
        raise BatchError(
            f"the model gives {scores.shape[-1]} scores an example",
            expected=f"{num_classes}, the metric's num_classes",
            do="make the metric with the model's number of classes",
        )
    return jnp.argmax(scores, axis=-1).astype(jnp.int32)
