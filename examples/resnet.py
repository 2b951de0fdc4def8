"""A ResNet: on the handwritten digits, or of any published depth on random images.

The default is a ResNet-18 of a quarter of the width on scikit-learn's 8x8 digits, drawn larger.
With ``--images random --depth 50 --image-size 224 --classes 1000`` it is ImageNet's in shape: there
to be planned and timed, as it learns nothing from random images.

Measured, seed 0: test accuracy 98.1 %, validation 98.3 %, 300 steps in 45 s on 2 CPU cores.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

import jaxdl
from jaxdl import data, losses, metrics, models, optimizers
from jaxdl.errors import ConfigError

DEPTHS = {
    18: models.resnet18,
    34: models.resnet34,
    50: models.resnet50,
    101: models.resnet101,
    152: models.resnet152,
}
# Random images repeat after this many, so that making them costs a copy.
POOL = 64


@dataclass(frozen=True)
class Config:
    """Settings, all on the command line. Where the default is None it depends on the images."""

    images: Literal["digits", "random"] = "digits"
    """scikit-learn's digits, or random ones made when they are asked for."""
    depth: Literal[18, 34, 50, 101, 152] = 18
    """Layers."""
    width: int | None = None
    """Features of the first stage; 16 for digits, else 64."""
    image_size: int | None = None
    """Pixels on a side; 16 for digits (a multiple of 8), else 224."""
    classes: int | None = None
    """Outputs; 10 for digits, else 1,000."""
    steps: int = 300
    """Updates in all."""
    batch_size: int | None = None
    """Images in a batch; 64 for digits, else 1,024."""
    layout: Literal["data", "zero1", "fsdp"] = "data"
    """Where arrays lie."""
    remat: Literal["none", "dots", "full"] = "none"
    """What a block computes again for its gradient: nothing, all but convolutions, everything."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Of the computation; float32 for digits, else bfloat16. Parameters are float32."""
    seed: int = 0
    """Of the parameters and the order of the images."""
    optimizer: optimizers.OptimizerConfig = field(
        default_factory=lambda: optimizers.OptimizerConfig(
            name="sgd",
            learning_rate=0.1,
            schedule="cosine",
            warmup_steps=30,
            weight_decay=1e-4,
            nesterov=True,
        )
    )


def recipe(config: Config) -> jaxdl.Recipe:
    """The run that the settings describe."""
    digits = config.images == "digits"
    side = config.image_size or (16 if digits else 224)
    rows = config.batch_size or (64 if digits else 1024)
    classes = config.classes or (10 if digits else 1000)
    if digits and (side < 8 or side % 8):
        raise ConfigError(
            f"image_size is {side}",
            expected="a multiple of 8: digits have 8 x 8 pixels, each is repeated",
            do="give 8, 16, 24 or 32",
        )
    enlarge = functools.partial(enlarged, side=side) if digits else None

    def batches(split: str, **options: Any) -> data.Batches:
        source: data.Source = (
            data.digits(split=split) if digits else RandomImages(8 * rows, side, classes, split)
        )
        return data.Batches(source, rows, transform=enlarge, **options)

    return jaxdl.Recipe(
        name=f"resnet{config.depth}-{config.images}",
        objective=jaxdl.supervised(
            build(config, classes, side),
            losses.softmax_cross_entropy,
            metrics={"accuracy": metrics.accuracy()},
        ),
        optimizer=config.optimizer.build(config.steps),
        train=batches("train", seed=config.seed),
        train_eval=batches("train", shuffle=False),
        validation=batches("validation", shuffle=False),
        test=batches("test", shuffle=False),
        layout={"data": jaxdl.data_parallel, "zero1": jaxdl.zero1, "fsdp": jaxdl.fsdp}[
            config.layout
        ](),
        steps=config.steps,
        eval_every=100,
        seed=config.seed,
    )


def build(config: Config, classes: int, side: int) -> models.ResNet:
    """The model; small images take the small stem."""
    digits = config.images == "digits"
    return DEPTHS[config.depth](
        num_classes=classes,
        stem="imagenet" if side > 64 else "cifar",
        width=config.width or (16 if digits else 64),
        zero_init=True,
        remat=None if config.remat == "none" else config.remat,
        dtype=jnp.dtype(config.dtype or ("float32" if digits else "bfloat16")),
    )


def enlarged(batch: dict[str, Any], rng: np.random.Generator, *, side: int) -> dict[str, Any]:
    """Digits ``[B, 8, 8, 1]`` drawn ``side`` pixels large, as floats around 0."""
    del rng
    # Their mean and deviation.
    image = (batch["image"].astype(np.float32) - 78.0) / 96.0
    times = side // image.shape[1]
    return {**batch, "image": image.repeat(times, axis=1).repeat(times, axis=2)}


@dataclass(frozen=True)
class RandomImages:
    """A source of random images and labels, made when they are asked for."""

    rows: int
    side: int
    classes: int
    split: str

    @property
    def spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        """``image``, float32 ``[H, W, 3]``, and ``label``."""
        image = jax.ShapeDtypeStruct((self.side, self.side, 3), np.float32)
        return {"image": image, "label": jax.ShapeDtypeStruct((), np.int32)}

    @property
    def fingerprint(self) -> str:
        """Of the settings, which the images follow from."""
        return hashlib.sha256(repr(self).encode()).hexdigest()

    def __len__(self) -> int:
        return self.rows

    def gather(self, indices: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[Any]]:
        """The images and labels with these numbers."""
        label = (indices * 7919 % self.classes).astype(np.int32)
        return {"image": drawn(self.side)[indices % POOL], "label": label}


@functools.cache
def drawn(side: int) -> npt.NDArray[np.float32]:
    """All different random images of a size."""
    shape = (POOL, side, side, 3)
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
