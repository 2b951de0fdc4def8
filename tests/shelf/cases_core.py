"""The models that came before the shelf."""

from __future__ import annotations

import numpy as np
from shelf_case import Case

import jaxdl
from jaxdl import losses, metrics, models, objectives


def images(rows: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "image": rng.normal(size=(rows, 8, 8, 3)).astype(np.float32),
        "label": rng.integers(0, 3, rows).astype(np.int32),
    }


def classified(model, dtype) -> jaxdl.Objective:
    """For models without a dtype of their own: jaxdl's precision policy."""
    objective = jaxdl.supervised(
        model, losses.softmax_cross_entropy, metrics={"accuracy": metrics.accuracy()}
    )
    return objective if dtype is None else objectives.with_precision(objective, "bf16")


CASES = [
    Case("mlp", lambda dtype, _: classified(models.MLP((16, 5)), dtype), images),
    Case(
        "cnn",
        lambda dtype, axis: classified(
            models.CNN(num_classes=5, norm="batch", axis_name=axis), dtype
        ),
        images,
        mixes_rows=True,
    ),
]
