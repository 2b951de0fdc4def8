"""A small GPT with a mixture of experts on bytes of the Python standard library.

The text, its rows and its splits are those of ``examples/gpt.py``. Of 8 experts in each layer a
byte uses 2. ``--layout expert`` divides the experts over ``--parts`` devices. ``--size large`` is
GPT-2 small with 16 experts a layer on random tokens: there to be planned and timed.

Measured, seed 0, Python 3.11: after 400 steps a perplexity of 6.81 a byte on 1,024 rows of the
validation files and 7.70 on as many of the test files, in 117 s on 2 CPU cores that others used
too.
"""

from __future__ import annotations

import runpy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp

import jaxdl
from jaxdl import data, layouts, metrics, objectives, optimizers
from jaxdl.models.gpt_mixture import MixtureGPT
from jaxdl.models.mixture import EXPERT_RULES, SCANNED_EXPERT_RULES

BYTES, PADDED_VOCABULARY = 256, 50_304


@dataclass(frozen=True)
class Config:
    """Settings, all on the command line. Where the default is None it depends on the size."""

    size: Literal["nano", "large"] = "nano"
    """nano has 2 layers of 96 features and 8 experts; large 12 of 768 and 16."""
    steps: int = 400
    """Updates in all."""
    batch_size: int | None = None
    """Rows in a batch; 32 for nano, else 128."""
    length: int | None = None
    """Tokens that the model sees of a row; 64 for nano, else 1,024."""
    top_k: int = 2
    """Experts of a token."""
    capacity_factor: float = 1.25
    """Places of all experts together, for each choice of a token."""
    layout: Literal["data", "fsdp", "expert"] | None = None
    """Where arrays lie; data for nano, else expert."""
    parts: int = 4
    """Devices over which the experts are divided."""
    seed: int = 0
    """Of the parameters and the order of the rows."""
    optimizer: optimizers.OptimizerConfig = field(
        default_factory=lambda: optimizers.OptimizerConfig(
            name="adamw",
            learning_rate=3e-3,
            schedule="cosine",
            warmup_steps=50,
            weight_decay=0.1,
            decay_mask=("kernel$", "embedding$"),
            clip_norm=1.0,
        )
    )
    """The learning rate is nano's; for large 6e-4 is usual."""


def recipe(config: Config) -> jaxdl.Recipe:
    """The run that the settings describe."""
    nano = config.size == "nano"
    rows = config.batch_size or (32 if nano else 128)
    length = config.length or (64 if nano else 1024)
    beside = runpy.run_path(str(Path(__file__).with_name("gpt.py")))
    splits = beside["text"](length + 1) if nano else beside["noise"](8 * rows, length + 1)
    measured = (
        {"accuracy": metrics.accuracy(), "perplexity": beside["perplexity"]()} if nano else {}
    )

    def batches(split: str, **options: Any) -> data.Batches:
        return data.Batches(splits[split], rows, **options)

    return jaxdl.Recipe(
        name=f"moe-{config.size}",
        objective=objectives.language_model(
            build(config, length), chunk_size=None if nano else 128, metrics=measured
        ),
        optimizer=config.optimizer.build(config.steps),
        train=batches("train", seed=config.seed),
        train_eval=batches("train_eval", shuffle=False),
        validation=batches("validation", shuffle=False),
        test=batches("test", shuffle=False),
        layout=place(config),
        steps=config.steps,
        eval_every=max(config.steps // 3, 1),
        seed=config.seed,
    )


def build(config: Config, length: int) -> MixtureGPT:
    """The model; nothing is allocated yet."""
    options: dict[str, Any] = {
        "max_length": length,
        "top_k": config.top_k,
        "capacity_factor": config.capacity_factor,
    }
    if config.size == "nano":
        return MixtureGPT(
            vocab_size=BYTES,
            num_layers=2,
            num_heads=4,
            hidden_dim=96,
            mlp_dim=192,
            num_experts=8,
            **options,
        )
    return MixtureGPT(
        vocab_size=PADDED_VOCABULARY,
        num_layers=12,
        num_heads=12,
        hidden_dim=768,
        num_experts=16,
        dtype=jnp.bfloat16,
        scan_layers=True,
        remat="full",
        **options,
    )


def place(config: Config) -> jaxdl.Layout:
    """Where the arrays lie."""
    nano = config.size == "nano"
    match config.layout or ("data" if nano else "expert"):
        case "data":
            return jaxdl.data_parallel()
        case "fsdp":
            return jaxdl.fsdp()
        case "expert":
            rules = EXPERT_RULES if nano else SCANNED_EXPERT_RULES
            return layouts.expert_parallel(rules, expert=config.parts)
