"""Recurrent networks: a classifier over rows of different lengths, and a language model."""

from __future__ import annotations

import numpy as np
from shelf_case import Case

import jaxdl
from jaxdl import losses, metrics, models, objectives


def tokens(rows: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, 7, rows)
    return {
        "tokens": rng.integers(0, 11, (rows, 6)).astype(np.int32),
        "label": rng.integers(0, 3, rows).astype(np.int32),
        "mask": (np.arange(6)[None] < lengths[:, None]).astype(np.float32),
    }


CASES = [
    Case(
        "lstm_classifier",
        lambda dtype, _: jaxdl.supervised(
            models.RNNClassifier(
                models.RNN(
                    hidden_dim=5, num_layers=2, bidirectional=True, dropout_rate=0.2, dtype=dtype
                ),
                3,
                vocab_size=11,
                dropout_rate=0.2,
            ),
            losses.softmax_cross_entropy,
            metrics={"accuracy": metrics.accuracy()},
            inputs="tokens",
        ),
        tokens,
    ),
    Case(
        "gru_language_model",
        lambda dtype, _: objectives.language_model(
            models.RNNLanguageModel(models.RNN(hidden_dim=8, cell="gru", dtype=dtype), 11)
        ),
        tokens,
    ),
]
