"""MNIST under attack: a small CNN trained on the worst images within 0.3 of each pixel.

``--data FOLDER`` reads the four files of MNIST, as published or unpacked; without it the images are
the 8x8 digits of scikit-learn::

    jaxdl train examples/robust_mnist.py --data FOLDER --run-dir runs/robust
    jaxdl attack runs/robust --radius 0.3 --steps 40 --step-size 0.01
    jaxdl train examples/robust_mnist.py --data FOLDER --defence none --run-dir runs/plain

What training shows of validation and test is under attack too, by 10 steps of PGD: an accuracy that
falls to nothing from one epoch to the next is "catastrophic overfitting" to a single step, seen in
time. The network and the settings of ``--defence fgsm`` are those of Wong et al. 2020, arXiv
2001.03994.
"""

from __future__ import annotations

import dataclasses
import gzip
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import flax.linen as nn
import jax
import numpy as np

import jaxdl
from jaxdl import data, losses, metrics, objectives, optimizers, robustness
from jaxdl.errors import DataError

CLASSES = 10
HELD_OUT = 5000


@dataclass(frozen=True)
class Config:
    """Settings, all on the command line."""

    data: Path | None = None
    """The folder of MNIST's four files (idx, with or without .gz); digits when not given."""
    defence: Literal["fgsm", "pgd", "none"] = "fgsm"
    """What is trained on: images attacked in one step, in several, or as they are."""
    radius: float | None = None
    """How far a pixel, from 0 to 1, may be changed; 0.3, or 0.1 for the few pixels of digits."""
    attack_steps: int = 7
    """Of pgd, in training."""
    epochs: int | None = None
    """How often each training image is seen; 15, or 60 for digits."""
    batch_size: int = 100
    """Images in a batch."""
    seed: int = 0
    """Of the parameters, the order of the images, and where attacks start."""
    optimizer: optimizers.OptimizerConfig = field(
        default_factory=lambda: optimizers.OptimizerConfig(
            learning_rate=2e-3, schedule="cosine", warmup_steps=500
        )
    )


class SmallCNN(nn.Module):
    """Two convolutions of stride 2 with 16 and 32 channels, then dense layers of 100 and 10."""

    @nn.compact
    def __call__(self, x: Any) -> jax.Array:
        """Maps images ``[B, H, W, 1]``, floats from 0 to 1, to logits ``[B, 10]``."""
        for features in (16, 32):
            x = nn.relu(nn.Conv(features, (4, 4), strides=2, padding=1)(x))
        x = nn.relu(nn.Dense(100)(x.reshape(x.shape[0], -1)))
        return nn.Dense(CLASSES)(x)


def objective(config: Config) -> jaxdl.Objective:
    """Attacked as the settings say in training, by 10 steps of PGD in evaluation."""
    plain = jaxdl.supervised(
        SmallCNN(), losses.softmax_cross_entropy, metrics={"accuracy": metrics.accuracy()}
    )
    radius = config.radius or (0.1 if config.data is None else 0.3)
    defences = {
        "pgd": robustness.pgd(radius, steps=config.attack_steps, unroll=True),
        "fgsm": robustness.fgsm(radius, random_start=True),
    }
    trained = plain
    if config.defence != "none":
        trained = objectives.with_adversary(plain, defences[config.defence], when="train")
    watch = robustness.pgd(radius, steps=10, unroll=True)
    return objectives.with_adversary(trained, watch, when="evaluation")


def recipe(config: Config) -> jaxdl.Recipe:
    """The run that the settings describe."""
    sources = {name: source(config, name) for name in ("train", "validation", "test")}

    def batches(split: str, **options: Any) -> data.Batches:
        return data.Batches(sources[split], config.batch_size, **options)

    training = batches("train", seed=config.seed)
    epochs = config.epochs or (60 if config.data is None else 15)
    steps = epochs * training.batches_per_epoch
    warmup = min(config.optimizer.warmup_steps, steps // 10)
    return jaxdl.Recipe(
        name=f"robust-mnist-{config.defence}",
        objective=objective(config),
        optimizer=dataclasses.replace(config.optimizer, warmup_steps=warmup).build(steps),
        train=training,
        validation=batches("validation", shuffle=False),
        test=batches("test", shuffle=False),
        steps=steps,
        seed=config.seed,
    )


def source(config: Config, split: str) -> data.Source:
    """One split: images as floats from 0 to 1, and labels."""
    if config.data is None:
        digits = data.digits(split=split)
        rows = digits.gather(np.arange(len(digits)))
        images, labels = rows["image"], rows["label"]
    else:
        part = "t10k" if split == "test" else "train"
        images = idx(config.data, f"{part}-images-idx3-ubyte")[..., None]
        labels = idx(config.data, f"{part}-labels-idx1-ubyte")
        if split != "test":
            rest = slice(-HELD_OUT, None) if split == "validation" else slice(None, -HELD_OUT)
            images, labels = images[rest], labels[rest]
    return data.arrays({"image": images / np.float32(255), "label": labels.astype(np.int32)})


def idx(folder: Path, name: str) -> np.ndarray:
    """The bytes of one of MNIST's files."""
    paths = [path for path in (folder / f"{name}.gz", folder / name) if path.is_file()]
    if not paths:
        raise DataError(
            f"{folder} has no {name}, nor {name}.gz",
            expected="the four files of MNIST",
            do="check --data",
        )
    content = paths[0].read_bytes()
    if paths[0].suffix == ".gz":
        content = gzip.decompress(content)
    # Two bytes of nothing, the type, the number of axes, and the length of each.
    axes = content[3]
    shape = np.frombuffer(content, ">u4", axes, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)
