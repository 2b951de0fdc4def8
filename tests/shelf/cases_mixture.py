"""GPT with a mixture of experts, tokens dropped and all."""

from __future__ import annotations

import numpy as np
from shelf_case import Case

import jaxdl
from jaxdl import objectives
from jaxdl.models.gpt_mixture import MixtureGPT


def model(dtype, *, scan_layers: bool) -> jaxdl.Objective:
    return objectives.language_model(
        MixtureGPT(
            vocab_size=17,
            num_layers=2,
            num_heads=2,
            hidden_dim=8,
            max_length=8,
            mlp_dim=8,
            num_experts=4,
            capacity_factor=1.0,
            dtype=dtype,
            scan_layers=scan_layers,
        )
    )


def tokens(rows: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    length = rng.integers(3, 10, (rows, 1))
    return {
        "tokens": rng.integers(0, 17, (rows, 9)).astype(np.int32),
        "mask": (np.arange(9) < length).astype(np.int32),
    }


CASES = [
    Case("mixture", lambda dtype, _: model(dtype, scan_layers=False), tokens),
    Case("mixture_scanned", lambda dtype, _: model(dtype, scan_layers=True), tokens),
]
