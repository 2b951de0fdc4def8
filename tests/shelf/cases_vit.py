"""ViT with dropout everywhere."""

from __future__ import annotations

import numpy as np
from shelf_case import Case

import jaxdl
from jaxdl import losses, metrics, models


def images(rows: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "image": rng.normal(size=(rows, 8, 8, 3)).astype(np.float32),
        "label": rng.integers(0, 3, rows).astype(np.int32),
    }


CASES = [
    Case(
        "vit",
        lambda dtype, _: jaxdl.supervised(
            models.ViT(
                3,
                num_layers=1,
                num_heads=2,
                hidden_dim=8,
                patch_size=4,
                image_size=8,
                dropout_rate=0.2,
                attention_dropout_rate=0.2,
                dtype=dtype,
            ),
            losses.softmax_cross_entropy,
            metrics={"accuracy": metrics.accuracy()},
        ),
        images,
    ),
]
