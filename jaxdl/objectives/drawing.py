"""Keys of an objective's own draws: one an example, in evaluation from what the example holds.

Reads from: protocols, objectives.masking. Used by: objectives.autoencoder, objectives.contrastive.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxdl.objectives.masking import content_keys
from jaxdl.protocols import EXAMPLE_KEY, Batch

__all__ = ["example_streams"]


def example_streams(
    batch: Batch, key: Any, values: jax.Array, stream: int, *, train: bool
) -> jax.Array:
    """One key an example for the draws that are named by ``stream``.

    In training from the key that the train step gives the example (or from ``key`` and the row's
    number, where it gives none). In evaluation from the example's content, so that a figure is the
    same at any batch size, order and number of devices; equal examples then draw equally.

    Args:
        batch: the batch.
        key: the step's key.
        values: what an example is known by, shape ``[B, ...]``.
        stream: a number that tells one use of a key from another.
        train: whether this is training.

    Returns:
        Typed keys, shape ``[B]``.
    """
    if train:
        keys = batch.get(EXAMPLE_KEY)
        if keys is None:
            rows = jnp.arange(values.shape[0])
            keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, rows)
        return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, stream)
    flat = values.reshape(values.shape[0], -1)
    if jnp.issubdtype(flat.dtype, jnp.floating):
        flat = jax.lax.bitcast_convert_type(flat.astype(jnp.float32), jnp.int32)
    return content_keys(flat, jnp.ones(flat.shape, bool), stream)
