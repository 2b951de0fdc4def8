"""A small network and batch whose gradients are clipped, with a row of every weight."""

from __future__ import annotations

import jax
import numpy as np
import optax

import jaxdl
from jaxdl import losses, metrics, models

RNG = np.random.default_rng(0)
ROWS, CLIP, KEY = 8, 0.5, jax.random.key(3)
BATCH = {
    "image": 3 * RNG.normal(size=(ROWS, 4)).astype(np.float32),
    "label": RNG.integers(0, 3, ROWS).astype(np.int32),
    # One row counts twice, one half, two are padding.
    "mask": np.array([1, 2, 0.5, 1, 1, 1, 0, 0], np.float32),
}
OBJECTIVE = jaxdl.supervised(
    models.MLP((5, 3), dropout_rate=0.5),
    losses.softmax_cross_entropy,
    metrics={"accuracy": metrics.accuracy()},
)


def norm(tree):
    """The Euclidean norm of all leaves together."""
    return float(optax.tree.norm(tree))
