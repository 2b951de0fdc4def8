"""CIFAR-10: a ResNet or a VGG on 32 x 32 photographs, cropped and flipped at random.

``--data FILE.npz`` reads the arrays ``x_train``, ``y_train``, ``x_test`` and ``y_test``; ``--data
FOLDER`` reads TFDS's ``cifar10`` prepared there (``jaxdl data prepare cifar10 --from FILES``).
Without it the images are scikit-learn's handwritten digits, drawn as large::

    jaxdl train examples/cifar10.py --data cifar10.npz
    jaxdl train examples/cifar10.py --data cifar10.npz --model vgg11_bn --width 16

Measured, seed 0, ResNet-18 at a quarter of its width, trained on 9,500 images (the first of
CIFAR-10's five training files, less 500 that validate): test accuracy 76.8 % on 2,000 of the test
images, validation 78.8 %, in 1,991 s on 2 CPU cores that did far more other work (969 s of their
time).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import jaxdl
from jaxdl import data, losses, metrics, models, optimizers
from jaxdl.errors import ConfigError

CLASSES, SIDE = 10, 32
PADDING = 2
DIGITS_MEAN, DIGITS_STD = (0.306,) * 3, (0.376,) * 3
MODELS = {
    "resnet18": models.resnet18,
    "resnet34": models.resnet34,
    "resnet50": models.resnet50,
    "vgg11": models.vgg11,
    "vgg16": models.vgg16,
    "vgg11_bn": models.vgg11_bn,
    "vgg16_bn": models.vgg16_bn,
}


@dataclass(frozen=True)
class Config:
    """Settings, all on the command line."""

    data: Path | None = None
    """An .npz file, or the folder in which TFDS prepared cifar10; digits when not given."""
    model: Literal["resnet18", "resnet34", "resnet50", "vgg11", "vgg16", "vgg11_bn", "vgg16_bn"] = (
        "resnet18"
    )
    """Which network, with the stem for small images."""
    width: int = 16
    """Channels of the first stage; 64 is the published network."""
    crop: int = 24
    """Side of the random crops that are trained on, at most 36. Evaluation sees whole images."""
    flip: bool = True
    """Mirror half of the training images (digits never)."""
    epochs: int = 32
    """How often each training image is seen."""
    batch_size: int = 64
    """Images in a batch."""
    validation_share: float = 0.05
    """Of the training images, the last ones, that are kept out to validate."""
    layout: Literal["data", "zero1", "fsdp"] = "data"
    """Where arrays lie."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the computation. Parameters are float32."""
    seed: int = 0
    """Of the parameters, the order of the images, and the crops."""
    optimizer: optimizers.OptimizerConfig = field(
        default_factory=lambda: optimizers.OptimizerConfig(
            name="sgd",
            learning_rate=0.1,
            schedule="cosine",
            warmup_steps=300,
            weight_decay=5e-4,
            nesterov=True,
        )
    )


def recipe(config: Config) -> jaxdl.Recipe:
    """The run that the settings describe."""
    if not 8 <= config.crop <= SIDE + 2 * PADDING:
        raise ConfigError(
            f"crop is {config.crop}",
            expected=f"from 8 to {SIDE + 2 * PADDING}: images of {SIDE} are padded by {PADDING} on "
            "each side",
            do="32 crops as large as the image",
        )
    train, validation, test = sources(config)
    plain = prepared(config, augment=False)

    def batches(source: data.Source, transform: Any = plain, **options: Any) -> data.Batches:
        return data.Batches(source, config.batch_size, transform=transform, **options)

    training = batches(train, prepared(config, augment=True), seed=config.seed)
    steps = config.epochs * training.batches_per_epoch
    warmup = min(config.optimizer.warmup_steps, steps // 10)
    optimizer = dataclasses.replace(config.optimizer, warmup_steps=warmup)
    return jaxdl.Recipe(
        name=f"cifar10-{config.model}",
        objective=jaxdl.supervised(
            build(config),
            losses.softmax_cross_entropy,
            metrics={"accuracy": metrics.accuracy()},
        ),
        optimizer=optimizer.build(steps),
        train=training,
        train_eval=batches(train, shuffle=False),
        validation=batches(validation, shuffle=False),
        test=batches(test, shuffle=False),
        layout={"data": jaxdl.data_parallel, "zero1": jaxdl.zero1, "fsdp": jaxdl.fsdp}[
            config.layout
        ](),
        steps=steps,
        eval_every=4 * training.batches_per_epoch,
        seed=config.seed,
    )


def build(config: Config) -> nn.Module:
    """The model."""
    options: dict[str, Any] = {
        "num_classes": CLASSES,
        "stem": "cifar",
        "width": config.width,
        "dtype": jnp.dtype(config.dtype),
    }
    if config.model.startswith("resnet"):
        options["zero_init"] = True
    return MODELS[config.model](**options)


def sources(config: Config) -> tuple[data.Source, data.Source, data.Source]:
    """Training, validation and test images ``[32, 32, 3]`` of bytes, with their labels."""
    if config.data is None:
        train, validation, test = (drawn(split) for split in ("train", "validation", "test"))
        return train, validation, test
    if config.data.is_dir():
        kept = 100 - round(100 * config.validation_share)
        options: dict[str, Any] = {"data_dir": config.data, "fields": ("image", "label")}
        first, last, test = (
            data.tfds("cifar10", split=split, **options)
            for split in (f"train[:{kept}%]", f"train[{kept}%:]", "test")
        )
        return first, last, test
    whole, test = (
        data.npz(config.data, {"image": f"x_{part}", "label": f"y_{part}"}, num_classes=CLASSES)
        for part in ("train", "test")
    )
    kept = len(whole) - max(1, round(config.validation_share * len(whole)))
    first, last = (
        data.arrays({name: column[part] for name, column in whole.columns.items()})
        for part in (slice(0, kept), slice(kept, None))
    )
    return first, last, test


def drawn(split: str) -> data.Source:
    """The digits of a split, each pixel repeated to fill ``[32, 32, 3]``."""
    source = data.digits(split=split)
    rows = source.gather(np.arange(len(source)))
    image = rows["image"].repeat(4, axis=1).repeat(4, axis=2).repeat(3, axis=3)
    return data.arrays({"image": image, "label": rows["label"]})


def prepared(config: Config, *, augment: bool) -> data.Transform:
    """Bytes as floats around 0; in training a random crop of the padded image, or its mirror image.

    What is around an image is its mean: it is padded after its colours are brought to 0.
    """
    digits = config.data is None
    mean, std = (DIGITS_MEAN, DIGITS_STD) if digits else (data.CIFAR10_MEAN, data.CIFAR10_STD)
    size, flip = (config.crop, config.crop), config.flip and not digits

    def one(key: jax.Array, image: jax.Array) -> jax.Array:
        image = data.normalized(image, mean, std)
        if not augment:
            return image
        part, mirror = jax.random.split(key)
        image = data.random_crop(part, image, padding=PADDING, size=size)
        return data.random_flip(mirror, image) if flip else image

    return data.augmented(one)
