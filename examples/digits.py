"""Handwritten digits: the 1,797 8x8 images that scikit-learn ships, through TFDS.

A LeNet-5 shape with batch normalisation, trained on images shifted by up to a pixel. Of 15
combinations of model, augmentation and steps, the one with the lowest validation loss over five
seeds.

Measured, seeds 0 to 4: test accuracy 98.1 % to 99.4 %, median 98.3 % (one of the 360 test images
is 0.28 %); validation 97.2 % to 98.3 %. 8 to 15 s on 2 CPU cores, which did other work too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

import jaxdl
from jaxdl import data, losses, metrics, models, optimizers

CLASSES = 10


@dataclass(frozen=True)
class Config:
    """Settings, all on the command line."""

    steps: int = 2000
    """Updates in all."""
    batch_size: int = 64
    """Examples in a batch."""
    shift: bool = True
    """Move training images by up to a pixel in each direction, at random."""
    seed: int = 0
    """Of the parameters, the order of the examples, and the shifts."""
    optimizer: optimizers.OptimizerConfig = field(
        default_factory=lambda: optimizers.OptimizerConfig(
            learning_rate=3e-3, schedule="cosine", warmup_steps=50
        )
    )


def recipe(config: Config) -> jaxdl.Recipe:
    """The run that the settings describe."""

    def batches(split: str, **options: Any) -> data.Batches:
        return data.Batches(data.digits(split=split), config.batch_size, **options)

    return jaxdl.Recipe(
        name="digits",
        objective=jaxdl.supervised(
            models.CNN(num_classes=CLASSES, norm="batch"),
            losses.softmax_cross_entropy,
            metrics={"accuracy": metrics.accuracy()},
        ),
        optimizer=config.optimizer.build(config.steps),
        train=batches("train", seed=config.seed, transform=shifted if config.shift else None),
        validation=batches("validation", shuffle=False),
        test=batches("test", shuffle=False),
        metrics={
            "precision": metrics.precision(CLASSES),
            "recall": metrics.recall(CLASSES),
            "f1": metrics.f1(CLASSES),
        },
        steps=config.steps,
        eval_every=400,
        seed=config.seed,
    )


def shifted(batch: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """Moves each image ``[B, H, W, C]`` by -1, 0 or 1 pixels along both axes, filling with 0."""
    image = batch["image"]
    rows, height, width, _ = image.shape
    padded = np.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(1, 2))
    down, right = rng.integers(0, 3, (2, rows))
    return {**batch, "image": np.moveaxis(windows[np.arange(rows), down, right], 1, -1)}
