"""SimCLR: an encoder of photographs that learns from two views of each, and no label.

``--data FILE.npz`` reads CIFAR-10 as the arrays ``x_train``, ``y_train``, ``x_test`` and
``y_test``; without it the images are scikit-learn's handwritten digits, drawn as large::

    jaxdl train examples/simclr.py --data cifar10.npz

Views are cropped, mirrored, recoloured and made grey at random, as the paper has it for CIFAR-10.
After the last step a linear probe (ridge regression on the labels, its weight chosen by
validation) reads the frozen features; the same probe of an untrained encoder and of the pixels says
what the training is worth. Labels are used by the probes only.

Measured, seed 0, on 9,500 images of CIFAR-10 with ``--crop 16 --batch-size 64 --epochs 2``, in a
run that was cut after 75 s on 2 CPU cores which did much other work, at its step 200 of 296: the
probe reaches 37.0 % of 2,000 test images, 34.7 % untrained, 38.3 % of the pixels. The run of the
settings below was not measured.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import tyro

import jaxdl
from jaxdl import data, hooks, models, objectives, optimizers
from jaxdl.errors import ConfigError
from jaxdl.protocols import Moment, Record
from jaxdl.recipe import train

CLASSES, SIDE = 10, 32
STAGES = {"resnet10": (1, 1, 1, 1), "resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3)}
RIDGES = (1e-3, 1e-2, 1e-1, 1.0)


@dataclass(frozen=True)
class Config:
    """Settings, all on the command line."""

    data: Path | None = None
    """An .npz file; digits when not given."""
    model: Literal["resnet10", "resnet18", "resnet50"] = "resnet10"
    """The encoder, with the stem for small images."""
    width: int = 16
    """Channels of its first stage; 64 is the published network."""
    projection_dim: int = 64
    """Of the embeddings that find each other; 128 in the paper."""
    crop: int = 24
    """Side of the views, to which the crops are resized. Probes see whole images."""
    least: float = 0.2
    """The smallest share of an image's area that a crop has; 0.08 in the paper."""
    strength: float = 0.5
    """Of the changes of colour."""
    temperature: float = 0.5
    """Of the loss."""
    epochs: int = 6
    """How often each training image is seen, in two views."""
    batch_size: int = 128
    """Images in a batch, each with the views of all others for negatives."""
    validation_share: float = 0.05
    """Of the training images, the last ones, that are kept out to validate."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the computation. Parameters are float32."""
    seed: int = 0
    """Of the parameters, the order of the images, and the views."""
    optimizer: optimizers.OptimizerConfig = field(
        default_factory=lambda: optimizers.OptimizerConfig(
            name="adamw", learning_rate=2e-3, schedule="cosine", warmup_steps=50, weight_decay=1e-4
        )
    )


def recipe(config: Config) -> jaxdl.Recipe:
    """The run that the settings describe."""
    if not (8 <= config.crop <= SIDE and 0 < config.least <= 1 and 0 <= config.strength <= 1):
        raise ConfigError(
            f"crop is {config.crop}, least {config.least}, strength {config.strength}",
            expected=f"a crop from 8 to {SIDE}, shares above 0 to 1, a strength from 0 to 1",
            do="leave them out, or correct them",
        )
    splits = sources(config)
    model = build(config)
    training = data.Batches(
        splits["train"], config.batch_size, seed=config.seed, transform=unlabelled, remainder="drop"
    )

    def batches(split: str) -> data.Batches:
        return data.Batches(splits[split], config.batch_size, transform=unlabelled, shuffle=False)

    steps = config.epochs * training.batches_per_epoch
    warmup = min(config.optimizer.warmup_steps, steps // 10)
    optimizer = dataclasses.replace(config.optimizer, warmup_steps=warmup)
    view = functools.partial(viewed, config=config, mirror=config.data is not None)
    return jaxdl.Recipe(
        name=f"simclr-{config.model}",
        objective=objectives.contrastive(model, view, temperature=config.temperature),
        optimizer=optimizer.build(steps),
        train=training,
        train_eval=batches("train"),
        validation=batches("validation"),
        test=batches("test"),
        steps=steps,
        eval_every=max(steps // 4, 1),
        hooks=[hooks.Every(steps, functools.partial(probed, model, splits, config.seed))],
        seed=config.seed,
    )


def build(config: Config) -> models.SimCLR:
    """The encoder with its head; nothing is allocated yet.

    The encoder's own last layer is linear and as wide as what it reads, so that a linear probe of
    it sees the mean over the image.
    """
    large, dtype = config.model == "resnet50", jnp.dtype(config.dtype)
    features = config.width * (32 if large else 8)
    encoder = models.ResNet(
        STAGES[config.model],
        bottleneck=large,
        num_classes=features,
        stem="cifar",
        width=config.width,
        dtype=dtype,
    )
    return models.SimCLR(
        encoder, hidden_dim=features, projection_dim=config.projection_dim, dtype=dtype
    )


def viewed(key: jax.Array, image: Any, *, config: Config, mirror: bool) -> jax.Array:
    """A random view ``[crop, crop, 3]`` of an image of bytes.

    The order and the numbers are of Chen et al. 2020, arXiv:2002.05709, appendices A and B.9.
    """
    part, side, colours, whether, grey = jax.random.split(key, 5)
    image = jnp.asarray(image, jnp.float32) / 255
    size = (config.crop, config.crop)
    image = data.random_resized_crop(part, image, size, scale=(config.least, 1.0))
    if mirror:
        image = data.random_flip(side, image)
    strong, hue = 0.8 * config.strength, 0.2 * config.strength
    changed = data.color_jitter(
        colours, image, brightness=strong, contrast=strong, saturation=strong, hue=hue
    )
    image = jnp.where(jax.random.bernoulli(whether, 0.8), changed, image)
    return plain(data.random_grayscale(grey, image))


def plain(image: Any) -> jax.Array:
    """Images as the encoder reads them."""
    return data.normalized(image, data.CIFAR10_MEAN, data.CIFAR10_STD)


def unlabelled(batch: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """A batch without what the objective must not see."""
    del rng
    return {"image": batch["image"]}


def probed(model: nn.Module, splits: dict[str, data.Columns], seed: int, moment: Moment) -> None:
    """Logs what linear probes reach on the test part: trained, untrained, and on pixels."""
    state: Any = jax.device_get((moment.state.params, moment.state.model_state))
    images = {name: source.columns["image"] for name, source in splits.items()}
    labels = {name: source.columns["label"] for name, source in splits.items()}
    start = jax.jit(model.init)(jax.random.key(seed), plain(images["test"][:1]))

    @jax.jit
    def read(variables: Any, image: Any) -> Any:
        return model.apply(variables, plain(image), method="features")

    def features(variables: Any) -> dict[str, npt.NDArray[np.float32]]:
        return {name: in_parts(functools.partial(read, variables), x) for name, x in images.items()}

    made = {
        "trained": features({"params": state[0], **state[1]}),
        "untrained": features(start),
        "pixels": {name: x.reshape(len(x), -1).astype(np.float32) for name, x in images.items()},
    }
    found = {f"{name}_accuracy": probe(inputs, labels) for name, inputs in made.items()}
    moment.log(Record(moment.step, "probe", found))


def in_parts(fn: Any, images: npt.NDArray[Any], rows: int = 250) -> npt.NDArray[np.float32]:
    """``fn`` of all images, called on so many at a time."""
    parts = [images[start : start + rows] for start in range(0, len(images), rows)]
    padded = [data.pad_batch({"image": part}, rows)["image"] for part in parts]
    return np.concatenate([fn(part) for part in padded])[: len(images)]


def probe(inputs: dict[str, npt.NDArray[Any]], labels: dict[str, npt.NDArray[Any]]) -> float:
    """Test accuracy of ridge regression on one-hot labels, with the best weight of validation.

    Args:
        inputs: ``[N, D]`` by split.
        labels: ``[N]`` by split.
    """
    mean, deviation = inputs["train"].mean(0), inputs["train"].std(0) + 1e-6
    given = {name: (x - mean) / deviation for name, x in inputs.items()}
    share = np.bincount(labels["train"], minlength=CLASSES) / len(labels["train"])

    @jax.jit
    def fitted(x: Any, y: Any) -> jax.Array:
        squares = x.T @ x / len(x)
        asked = x.T @ (jax.nn.one_hot(y, CLASSES) - jnp.asarray(share, jnp.float32)[None])
        unit = jnp.eye(x.shape[1])

        def solved(ridge: jax.Array) -> jax.Array:
            return jax.scipy.linalg.solve(squares + ridge * unit, asked / len(x), assume_a="pos")

        return jax.lax.map(solved, jnp.array(RIDGES))

    weights = np.asarray(fitted(given["train"], labels["train"]))

    def accuracy(split: str, weight: npt.NDArray[Any]) -> float:
        scores = given[split] @ weight + share
        return float(np.mean(scores.argmax(-1) == labels[split]))

    best = max(weights, key=lambda weight: accuracy("validation", weight))
    return accuracy("test", best)


def sources(config: Config) -> dict[str, data.Columns]:
    """Images ``[32, 32, 3]`` of bytes with their labels, by split."""
    if config.data is None:
        return {split: drawn(split) for split in ("train", "validation", "test")}
    whole, test = (
        data.npz(config.data, {"image": f"x_{part}", "label": f"y_{part}"}, num_classes=CLASSES)
        for part in ("train", "test")
    )
    kept = len(whole) - max(1, round(config.validation_share * len(whole)))
    first, last = (
        data.arrays({name: column[part] for name, column in whole.columns.items()})
        for part in (slice(0, kept), slice(kept, None))
    )
    return {"train": first, "validation": last, "test": test}


def drawn(split: str) -> data.Columns:
    """The digits of a split, each pixel repeated to fill ``[32, 32, 3]``."""
    source = data.digits(split=split)
    rows = source.gather(np.arange(len(source)))
    image = rows["image"].repeat(4, axis=1).repeat(4, axis=2).repeat(3, axis=3)
    return data.arrays({"image": image, "label": rows["label"]})


if __name__ == "__main__":
    train(recipe(tyro.cli(Config)))
