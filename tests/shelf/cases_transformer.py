"""The Transformer, trained to translate."""

from __future__ import annotations

import numpy as np
from shelf_case import Case

from jaxdl import metrics
from jaxdl.models.transformer import Transformer
from jaxdl.objectives.seq2seq import seq2seq

V, SOURCE, TARGET = 11, 6, 5


def pairs(rows: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    sizes = {"source": SOURCE, "target": TARGET}
    lengths = {name: rng.integers(1, size + 1, rows)[:, None] for name, size in sizes.items()}
    tokens = {name: rng.integers(3, V, (rows, size)) for name, size in sizes.items()}
    return {
        **{name: value.astype(np.int32) for name, value in tokens.items()},
        **{
            f"{name}_mask": (np.arange(size)[None] < lengths[name]).astype(np.int32)
            for name, size in sizes.items()
        },
    }


def objective(dtype, **options):
    return seq2seq(
        Transformer(V, 1, 2, 8, dtype=dtype, **options),
        start_token=1,
        end_token=2,
        metrics={"accuracy": metrics.accuracy()},
    )


CASES = [
    Case(
        "transformer",
        lambda dtype, _: objective(dtype, pre_norm=True, scan_layers=True, remat="full"),
        pairs,
    ),
]
