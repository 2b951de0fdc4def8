"""BERT: pretraining with both heads, and a classifier."""

from __future__ import annotations

import numpy as np
from shelf_case import Case

import jaxdl
from jaxdl import losses, metrics, models, objectives

V, LENGTH = 29, 12


def bert(dtype, **options) -> models.BERT:
    sizes = {"vocab_size": V, "num_layers": 1, "num_heads": 2, "hidden_dim": 8}
    return models.BERT(**sizes, max_length=LENGTH, dtype=dtype, **options)


def texts(rows: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, LENGTH + 1, rows)[:, None]
    places = np.arange(LENGTH)[None]
    return {
        "tokens": rng.integers(3, V, (rows, LENGTH)).astype(np.int32),
        "token_types": (places > lengths // 2).astype(np.int32),
        "mask": (places < lengths).astype(np.float32),
        "follows": rng.integers(0, 2, rows).astype(np.int32),
    }


def rows_of_one_length(rows: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "tokens": rng.integers(3, V, (rows, LENGTH)).astype(np.int32),
        "label": rng.integers(0, 3, rows).astype(np.int32),
    }


CASES = [
    Case(
        "bert_pretraining",
        lambda dtype, _: objectives.masked_lm(
            models.BERTPretraining(bert(dtype, dropout_rate=0.2)),
            vocab_size=V,
            mask_token=2,
            special=(0, 1),
            next_sentence="follows",
        ),
        texts,
    ),
    Case(
        "bert_classifier",
        lambda dtype, _: jaxdl.supervised(
            models.BERTClassifier(bert(dtype, scan_layers=True, remat="full"), 3),
            losses.softmax_cross_entropy,
            metrics={"accuracy": metrics.accuracy()},
            inputs="tokens",
        ),
        rows_of_one_length,
    ),
]
