"""A GPT on bytes of the Python standard library, or GPT-2 at its published sizes.

``nano`` trains on text that every machine has: the source files of the standard library, a token a
byte, whole files held out for validation and test. The published sizes (``--size 124m`` to
``1.5b``, a vocabulary of 50,304) read random tokens of the right shape: they are there to be
planned and timed, and learn nothing. Read your own tokens with ``data.arrays({"tokens": ...})``.

Measured, seed 0, Python 3.11: after 400 steps a perplexity of 6.94 a byte on 1,024 rows of the
validation files and 7.79 on as many of the test files, in 38 s on 2 CPU cores.
"""

from __future__ import annotations

import hashlib
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

import jaxdl
from jaxdl import data, layouts, losses, metrics, models, objectives, optimizers
from jaxdl.models.gpt import SCANNED_TENSOR_RULES, TENSOR_RULES

BYTES, PADDED_VOCABULARY = 256, 50_304
EVALUATED = 1024
PUBLISHED = {
    "124m": models.gpt2_124m,
    "350m": models.gpt2_350m,
    "774m": models.gpt2_774m,
    "1.5b": models.gpt2_1_5b,
}


@dataclass(frozen=True)
class Config:
    """Settings, all on the command line. Where the default is None it depends on the size."""

    size: Literal["nano", "124m", "350m", "774m", "1.5b"] = "nano"
    """nano has 2 layers of 96 features; the others are GPT-2's."""
    steps: int = 400
    """Updates in all."""
    batch_size: int | None = None
    """Rows in a batch; 32 for nano, else 512."""
    length: int | None = None
    """Tokens that the model sees of a row; 64 for nano, else 1,024."""
    layout: Literal["data", "zero1", "fsdp", "tensor", "fsdp_tensor", "sequence"] | None = None
    """Where arrays lie; data for nano, else fsdp."""
    parts: int = 4
    """Devices over which tensor, fsdp_tensor and sequence divide a layer or a row."""
    remat: Literal["none", "dots", "dots_no_batch", "full"] = "none"
    """What a layer computes again for its gradient: nothing up to everything."""
    scan_layers: bool | None = None
    """Compile one layer for all; off for nano, else on."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Of the computation; float32 for nano, else bfloat16. Parameters are float32."""
    seed: int = 0
    """Of the parameters and the order of the rows."""
    optimizer: optimizers.OptimizerConfig = field(
        default_factory=lambda: optimizers.OptimizerConfig(
            name="adamw",
            learning_rate=3e-3,
            schedule="cosine",
            warmup_steps=50,
            weight_decay=0.1,
            # Of stacked layers even biases have two axes.
            decay_mask=("kernel$", "embedding$"),
            clip_norm=1.0,
        )
    )
    """The learning rate is nano's; for 124m 6e-4 is usual, for 1.5b 2e-4."""


def recipe(config: Config) -> jaxdl.Recipe:
    """The run that the settings describe."""
    nano = config.size == "nano"
    rows = config.batch_size or (32 if nano else 512)
    length = config.length or (64 if nano else 1024)
    splits = text(length + 1) if nano else noise(8 * rows, length + 1)
    # Without metrics of the logits, these need never be held at once.
    measured = {"accuracy": metrics.accuracy(), "perplexity": perplexity()} if nano else {}
    whole = nano or config.layout == "sequence"

    def batches(split: str, **options: Any) -> data.Batches:
        return data.Batches(splits[split], rows, **options)

    return jaxdl.Recipe(
        name=f"gpt-{config.size.replace('.', '_')}",
        objective=objectives.language_model(
            build(config, length), chunk_size=None if whole else 128, metrics=measured
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


def build(config: Config, length: int) -> models.GPT:
    """The model; nothing is allocated yet."""
    nano = config.size == "nano"
    dtype = config.dtype or ("float32" if nano else "bfloat16")
    options: dict[str, Any] = {
        "max_length": length,
        "remat": None if config.remat == "none" else config.remat,
        "scan_layers": not nano if config.scan_layers is None else config.scan_layers,
        # Without a dtype the model computes in that of its parameters.
        "dtype": jnp.bfloat16 if dtype == "bfloat16" else None,
    }
    if nano:
        return models.GPT(vocab_size=BYTES, num_layers=2, num_heads=4, hidden_dim=96, **options)
    return PUBLISHED[config.size](vocab_size=PADDED_VOCABULARY, **options)


def place(config: Config) -> jaxdl.Layout:
    """Where the arrays lie."""
    nano = config.size == "nano"
    scanned = not nano if config.scan_layers is None else config.scan_layers
    rules = SCANNED_TENSOR_RULES if scanned else TENSOR_RULES
    match config.layout or ("data" if nano else "fsdp"):
        case "data":
            return jaxdl.data_parallel()
        case "zero1":
            return jaxdl.zero1()
        case "fsdp":
            return jaxdl.fsdp()
        case "tensor":
            return jaxdl.tensor_parallel(rules, tensor=config.parts)
        case "fsdp_tensor":
            mesh = {"fsdp": -1, "tensor": config.parts}
            return jaxdl.layout(mesh=mesh, rules=rules, shard_axis="fsdp")
        case "sequence":
            return layouts.sequence(config.parts)


def perplexity() -> jaxdl.Metric:
    """How many equally likely bytes the model hesitates between."""
    return metrics.perplexity(losses.softmax_cross_entropy)


def text(tokens: int) -> dict[str, data.Source]:
    """Bytes of the standard library in rows of ``tokens``, each row beginning where one ends.

    Of every ten files one is for validation and one for test.
    """
    folder = Path(sysconfig.get_path("stdlib"))
    parts: dict[str, list[bytes]] = {"train": [], "validation": [], "test": []}
    for index, path in enumerate(sorted(folder.glob("*.py"))):
        split = {0: "validation", 5: "test"}.get(index % 10, "train")
        parts[split].append(path.read_bytes())
    rows = {name: cut(b"\0".join(files), tokens) for name, files in parts.items()}
    kept = {name: few(rows[name]) for name in ("validation", "test")}
    kept |= {"train": rows["train"], "train_eval": few(rows["train"])}
    return {name: data.arrays({"tokens": tokens}) for name, tokens in kept.items()}


def few(rows: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """At most 1,024 of the rows, evenly spread: what evaluation reads."""
    return rows[:: -(-len(rows) // EVALUATED)]


def cut(joined: bytes, tokens: int) -> npt.NDArray[np.int32]:
    """Rows of ``tokens`` bytes; the last of a row is the first of the next, as it is only asked."""
    stream = np.frombuffer(joined, np.uint8).astype(np.int32)
    windows = np.lib.stride_tricks.sliding_window_view(stream, tokens)
    return np.ascontiguousarray(windows[:: tokens - 1])


def noise(rows: int, tokens: int) -> dict[str, data.Source]:
    """Random tokens for every split."""
    splits = ("train", "train_eval", "validation", "test")
    return {name: RandomTokens(rows, tokens, index) for index, name in enumerate(splits)}


@dataclass(frozen=True)
class RandomTokens:
    """A source of rows that are drawn when they are asked for, the same each time."""

    rows: int
    tokens: int
    seed: int

    @property
    def spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        """One field, ``tokens``."""
        return {"tokens": jax.ShapeDtypeStruct((self.tokens,), np.int32)}

    @property
    def fingerprint(self) -> str:
        """Of the settings, which the rows follow from."""
        return hashlib.sha256(repr(self).encode()).hexdigest()

    def __len__(self) -> int:
        return self.rows

    def gather(self, indices: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[Any]]:
        """The rows with these numbers."""
        drawn = [
            np.random.default_rng((self.seed, int(row))).integers(
                0, PADDED_VOCABULARY, self.tokens, dtype=np.int32
            )
            for row in indices
        ]
        return {"tokens": np.stack(drawn)}
