"""WaveNet, conditioned both ways, on rows with padding."""

from __future__ import annotations

import numpy as np
from shelf_case import Case

from jaxdl import models, objectives


def sound(rows: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    lengths = rng.integers(6, 14, rows)
    return {
        "tokens": rng.integers(0, 8, (rows, 13)).astype(np.int32),
        "mask": (np.arange(13)[None] < lengths[:, None]).astype(np.int32),
        "condition": rng.integers(0, 3, (rows, 2)).astype(np.int32),
        "local_condition": rng.normal(size=(rows, 3, 2)).astype(np.float32),
    }


def objective(dtype, _):
    model = models.WaveNet(
        vocab_size=8,
        num_cycles=2,
        cycle=(1, 2),
        residual_dim=4,
        gate_dim=4,
        skip_dim=8,
        condition_classes=(3, 3),
        local_dim=2,
        local_hop=4,
        dtype=dtype,
        scan_layers=True,
        remat="full",
    )
    return objectives.autoregressive(model)


CASES = [Case("wavenet", objective, sound)]
