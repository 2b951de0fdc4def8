"""DeepSpeech with CTC, stripes masked at random, and error rates."""

from __future__ import annotations

import functools

import numpy as np
from shelf_case import Case

from jaxdl import metrics, models, objectives
from jaxdl.data import spectrograms
from jaxdl.generation.ctc import ctc_greedy


def frames(rows: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    lengths = rng.integers(7, 11, rows)
    counts = rng.integers(1, 3, rows)
    label = rng.integers(1, 5, (rows, 2))
    return {
        "audio": rng.normal(size=(rows, 10, 6)).astype(np.float32),
        "mask": (np.arange(10)[None] < lengths[:, None]).astype(np.float32),
        "label": np.where(np.arange(2)[None] < counts[:, None], label, 0).astype(np.int32),
    }


CASES = [
    Case(
        "deepspeech",
        lambda dtype, axis: objectives.ctc(
            models.DeepSpeech(
                5,
                hidden_dim=4,
                num_layers=2,
                convolutions=((2, (3, 3), (2, 2)),),
                dropout_rate=0.2,
                axis_name=axis,
                dtype=dtype,
            ),
            augment=functools.partial(spectrograms.spec_augment, bands=(1, 2), frames=(1, 3)),
            metrics={"cer": metrics.token_error_rate(ctc_greedy)},
        ),
        frames,
        mixes_rows=True,
        limit=1e-4,
    ),
]
