"""BERT's pretraining, masked words and next sentence, on random tokens: to be planned and timed.

Rows, rate and steps are those of Devlin et al. 2018 (arXiv:1810.04805): 256 rows of 512 tokens, of
which 15 % are asked for, AdamW to 1e-4 over 10,000 of a million steps, then linearly to nothing.
Read your own rows with ``data.arrays({"tokens": ..., "token_types": ..., "follows": ...})``::

    jaxdl plan benchmarks/pretraining.py --on v5e-16
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

import jaxdl
from jaxdl import data, models, objectives, optimizers

SIZES = {"base": models.bert_base, "large": models.bert_large}
LAYOUTS = {"data": jaxdl.data_parallel, "zero1": jaxdl.zero1, "fsdp": jaxdl.fsdp}
# Of the published vocabulary, uncased: 0 pads a row.
WORDS, FIRST, BETWEEN, MASK = 30_522, 101, 102, 103


@dataclass(frozen=True)
class Config:
    """Settings, all on the command line."""

    size: Literal["base", "large"] = "large"
    """Of BERT."""
    length: int = 512
    """Tokens of a row."""
    batch_size: int = 256
    """Rows in a batch."""
    steps: int = 1_000_000
    """Updates in all."""
    layout: Literal["data", "zero1", "fsdp"] = "data"
    """Where arrays lie."""
    remat: Literal["none", "dots", "dots_no_batch", "full"] = "full"
    """What a layer computes again for its gradient: nothing up to everything."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Of the computation; parameters are float32."""
    seed: int = 0
    """Of the parameters, the order of the rows, what is masked, and dropout."""


def recipe(config: Config) -> jaxdl.Recipe:
    """The run that the settings describe."""
    bert = SIZES[config.size](
        remat=None if config.remat == "none" else config.remat,
        scan_layers=True,
        dtype=jnp.dtype(config.dtype),
    )
    source = RandomPairs(8 * config.batch_size, config.length)
    return jaxdl.Recipe(
        name=f"pretraining-{config.size}",
        objective=objectives.masked_lm(
            models.BERTPretraining(bert),
            vocab_size=WORDS,
            mask_token=MASK,
            special=(0, FIRST, BETWEEN),
            next_sentence="follows",
        ),
        optimizer=optimizers.OptimizerConfig(
            name="adamw",
            learning_rate=1e-4,
            schedule="linear",
            warmup_steps=min(10_000, config.steps // 10),
            weight_decay=0.01,
            decay_mask=("kernel$", "embedding$"),
            clip_norm=1.0,
        ).build(config.steps),
        train=data.Batches(source, config.batch_size, seed=config.seed),
        layout=LAYOUTS[config.layout](),
        steps=config.steps,
        seed=config.seed,
    )


@dataclass(frozen=True)
class RandomPairs:
    """A source of rows of two texts of random words, drawn when they are asked for."""

    rows: int
    length: int

    @property
    def spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        """``tokens`` and ``token_types`` ``[length]``, and ``follows``."""
        row = jax.ShapeDtypeStruct((self.length,), np.int32)
        follows = jax.ShapeDtypeStruct((), np.int32)
        return {"tokens": row, "token_types": row, "follows": follows}

    @property
    def fingerprint(self) -> str:
        """Of the settings, which the rows follow from."""
        return hashlib.sha256(repr(self).encode()).hexdigest()

    def __len__(self) -> int:
        return self.rows

    def gather(self, indices: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[Any]]:
        """The rows with these numbers."""
        drawn = [np.random.default_rng(int(row)) for row in indices]
        tokens = [rng.integers(MASK + 1, WORDS, self.length, np.int32) for rng in drawn]
        tokens = np.stack(tokens)
        half = self.length // 2
        tokens[:, 0], tokens[:, half], tokens[:, -1] = FIRST, BETWEEN, BETWEEN
        kinds = (np.arange(self.length) > half).astype(np.int32)
        follows = np.array([rng.integers(0, 2) for rng in drawn], np.int32)
        return {
            "tokens": tokens,
            "token_types": np.broadcast_to(kinds, tokens.shape).copy(),
            "follows": follows,
        }
