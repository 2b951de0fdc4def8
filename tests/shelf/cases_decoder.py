"""Decoders on packed rows: two documents a row, each with its own positions, then padding."""

from __future__ import annotations

import numpy as np
from shelf_case import Case

from jaxdl import models, objectives


def packed(rows: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    first = rng.integers(2, 5, (rows, 1))
    whole = first + rng.integers(2, 5, (rows, 1))
    at = np.arange(9)[None]
    segments = np.where(at < first, 1, np.where(at < whole, 2, 0))
    return {
        "tokens": rng.integers(0, 17, (rows, 9)).astype(np.int32),
        "segments": segments.astype(np.int32),
        "positions": np.where(segments == 2, at - first, at * (segments == 1)).astype(np.int32),
        "mask": (segments != 0).astype(np.int32),
    }


def gpt(dtype, _):
    model = models.GPT(
        vocab_size=17,
        num_layers=2,
        num_heads=2,
        hidden_dim=8,
        max_length=8,
        dtype=dtype,
        scan_layers=True,
    )
    return objectives.language_model(model)


def llama(dtype, _):
    """Grouped queries and a head of its own."""
    model = models.Llama(
        vocab_size=17,
        num_layers=1,
        num_heads=4,
        num_kv_heads=2,
        hidden_dim=8,
        mlp_dim=12,
        max_length=8,
        dtype=dtype,
    )
    return objectives.language_model(model)


CASES = [Case("gpt_packed", gpt, packed), Case("llama_packed", llama, packed)]
