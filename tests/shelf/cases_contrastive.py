"""SimCLR with batch statistics and a loss over the whole batch."""

from __future__ import annotations

import jax
import numpy as np
from shelf_case import Case

from jaxdl import models, objectives


def images(rows: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {"image": rng.normal(size=(rows, 8, 8, 1)).astype(np.float32)}


def noisy(key, image):
    return image + 0.3 * jax.random.normal(key, image.shape, image.dtype)


def objective(dtype, axis_name):
    encoder = models.CNN(num_classes=6, norm="batch", axis_name=axis_name)
    model = models.SimCLR(encoder, hidden_dim=8, projection_dim=4)
    found = objectives.contrastive(model, noisy, axis_name=axis_name)
    return found if dtype is None else objectives.with_precision(found, "bf16")


CASES = [Case("simclr", objective, images, mixes_rows=True, limit=1e-4)]
