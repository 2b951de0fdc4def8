"""ImageNet with ResNet-50, VGG-16, Inception v3 or a ViT; without data, on small coloured stripes.

``--data FOLDER`` reads ``FOLDER/train/CLASS/*.jpg`` and ``FOLDER/validation/CLASS/*.jpg``; a folder
without ``train`` is one of TFDS, with ``--dataset imagenet2012`` or another set prepared in it::

    jaxdl train examples/imagenet.py --data PHOTOS --classes 1000
    jaxdl train examples/imagenet.py --data TFDS --model inception_v3 --classes 1000
    jaxdl plan examples/imagenet.py --image-size 224 --classes 1000 --batch-size 1024 --on v5e-16

Convolutional networks follow Goyal et al. 2017 (arXiv:1706.02677): 90 epochs, learning rate 0.1 for
256 images in proportion to the batch, a warm-up over the first 18th, falling to a tenth after
thirds, no weight decay of norms and biases. Inception v3 adds label smoothing of 0.1 and its second
head's loss; ViT takes AdamW with the numbers of DeiT (arXiv:2012.12877).

Measured, seed 0, on stripes of 8 classes with ``--model resnet18 --epochs 4``: validation accuracy
67.2 %, 91 s on 2 CPU cores, which did much other work too. ImageNet itself was not trained on.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

import jaxdl
from jaxdl import data, losses, metrics, models, objectives, optimizers
from jaxdl.errors import ConfigError, DataError
from jaxdl.models import vgg, vit


class Training(NamedTuple):
    """How a family is trained; rates are for 256 images."""

    build: Any
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 0.1
    weight_decay: float = 1e-4
    smoothing: float = 0.0
    rules: Any = ()


MODELS = {
    "resnet18": Training(models.resnet18),
    "resnet50": Training(models.resnet50),
    "vgg16": Training(models.vgg16, "sgd", 0.01, 5e-4, rules=vgg.TENSOR_RULES),
    "vgg16_bn": Training(models.vgg16_bn, "sgd", 0.1, 5e-4, rules=vgg.TENSOR_RULES),
    "inception_v3": Training(models.inception_v3, "sgd", 0.1, 4e-5, 0.1),
    "vit_s16": Training(models.vit_s16, "adamw", 2.5e-4, 0.05, 0.1, vit.TENSOR_RULES),
    "vit_b16": Training(models.vit_b16, "adamw", 2.5e-4, 0.05, 0.1, vit.TENSOR_RULES),
    "vit_l16": Training(models.vit_l16, "adamw", 2.5e-4, 0.05, 0.1, vit.TENSOR_RULES),
}
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


@dataclass(frozen=True)
class Config:
    """Settings, all on the command line. Where the default is None it depends on the data."""

    data: Path | None = None
    """A folder of photographs or of TFDS; stripes drawn on the spot when not given."""
    dataset: str = "imagenet2012"
    """Which set of TFDS."""
    model: Literal[
        "resnet18", "resnet50", "vgg16", "vgg16_bn", "inception_v3", "vit_s16", "vit_b16", "vit_l16"
    ] = "resnet50"
    """Which network."""
    width: int | None = None
    """Of a ResNet's or VGG's first stage; 16 for stripes, else 64."""
    image_size: int | None = None
    """Pixels on a side; 80 for stripes, else 224, and 299 for Inception v3."""
    classes: int | None = None
    """Outputs; 8 for stripes, else 1,000."""
    batch_size: int | None = None
    """Images in a batch; 32 for stripes, else 1,024."""
    epochs: int | None = None
    """How often each image is seen; 6 for stripes, else 90."""
    steps: int | None = None
    """Updates in all; those of the epochs when not given."""
    learning_rate: float | None = None
    """For 256 images; the model's own when not given."""
    weight_decay: float | None = None
    """The model's own when not given."""
    cache: bool = False
    """Keep decoded images on the disk; 250 GB for all of ImageNet."""
    layout: Literal["data", "zero1", "fsdp", "tensor"] = "data"
    """Where arrays lie; tensor divides the dense layers of VGG and ViT."""
    parts: int = 2
    """Devices over which tensor divides a layer."""
    remat: Literal["none", "dots", "dots_no_batch", "full"] = "none"
    """What a layer of a ViT computes again for its gradient: nothing up to everything."""
    scan_layers: bool = False
    """Compile one layer of a ViT for all."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Of the computation; float32 for stripes, else bfloat16. Parameters are float32."""
    seed: int = 0
    """Of the parameters, the order of the images, and the crops."""


def recipe(config: Config) -> jaxdl.Recipe:
    """The run that the settings describe."""
    drawn, training = config.data is None, MODELS[config.model]
    side, classes = image_size(config), config.classes or (8 if drawn else 1000)
    rows = config.batch_size or (32 if drawn else 1024)
    train, validation = sources(config, side + side // 7, classes, 8 * rows)

    def batches(source: data.Source, *, augment: bool, **options: Any) -> data.Batches:
        transform = prepared(config.model, side, augment=augment)
        return data.Batches(source, rows, transform=transform, **options)

    first = batches(train, augment=True, seed=config.seed)
    steps = config.steps or first.batches_per_epoch * (config.epochs or (6 if drawn else 90))
    return jaxdl.Recipe(
        name=f"imagenet-{config.model}",
        objective=objective(config, classes, side),
        optimizer=optimizer(config, training, rows, steps),
        train=first,
        train_eval=batches(train, augment=False, shuffle=False),
        validation=batches(validation, augment=False, shuffle=False),
        metrics={"top5": metrics.top_k_accuracy(min(5, classes))},
        layout=layout(config, training),
        steps=steps,
        seed=config.seed,
    )


def image_size(config: Config) -> int:
    """Pixels on a side of what the model sees."""
    usual = 299 if config.model == "inception_v3" else 224
    return config.image_size or (80 if config.data is None else usual)


def objective(config: Config, classes: int, side: int) -> jaxdl.Objective:
    """The model with its loss."""
    drawn, training = config.data is None, MODELS[config.model]
    options: dict[str, Any] = {"num_classes": classes}
    options["dtype"] = jnp.dtype(config.dtype or ("float32" if drawn else "bfloat16"))
    if config.model.startswith(("resnet", "vgg")):
        options["width"] = config.width or (16 if drawn and side < 128 else 64)
    if config.model.startswith("resnet"):
        options["zero_init"] = True
    if config.model.startswith("vit"):
        remat = None if config.remat == "none" else config.remat
        options |= {"image_size": side, "remat": remat, "scan_layers": config.scan_layers}
    elif config.remat != "none" or config.scan_layers:
        raise ConfigError(
            f"{config.model} has remat={config.remat} and scan_layers={config.scan_layers}",
            expected="a ViT, whose layers are equal",
            do="leave both out, or give --model vit_b16",
        )
    model: nn.Module = training.build(**options)
    loss = functools.partial(losses.softmax_cross_entropy, label_smoothing=training.smoothing)
    make = objectives.with_auxiliary if config.model == "inception_v3" else jaxdl.supervised
    return make(model, loss, metrics={"accuracy": metrics.accuracy()})


def optimizer(config: Config, training: Training, rows: int, steps: int) -> Any:
    """The optimizer, its rate in proportion to the batch."""
    rate = config.learning_rate or training.learning_rate
    decay = training.weight_decay if config.weight_decay is None else config.weight_decay
    sgd, warmup = training.optimizer == "sgd", steps // 18
    # In a run of a few steps they fall together.
    falls = sorted({steps // 3, 2 * steps // 3, 8 * steps // 9} - {warmup}) if sgd else []
    return optimizers.OptimizerConfig(
        name=training.optimizer,
        learning_rate=rate * rows / 256,
        schedule="piecewise" if falls else "cosine",
        boundaries=tuple(falls),
        warmup_steps=warmup,
        weight_decay=decay,
        # Of stacked layers even biases have two axes.
        decay_mask=("kernel$", "position_embedding$") if config.scan_layers else (),
        nesterov=sgd,
    ).build(steps)


def layout(config: Config, training: Training) -> jaxdl.Layout:
    """Where arrays lie."""
    if config.layout == "tensor":
        rules = vit.SCANNED_TENSOR_RULES if config.scan_layers else training.rules
        return jaxdl.tensor_parallel(rules, tensor=config.parts)
    return {"data": jaxdl.data_parallel, "zero1": jaxdl.zero1, "fsdp": jaxdl.fsdp}[config.layout]()


def prepared(model: str, side: int, *, augment: bool) -> data.Transform:
    """Bytes as floats: the middle of the image, in training a random part or its mirror image."""
    inception = model == "inception_v3"
    mean = (0.5, 0.5, 0.5) if inception else data.IMAGENET_MEAN
    std = (0.5, 0.5, 0.5) if inception else data.IMAGENET_STD

    def one(key: jax.Array, image: jax.Array) -> jax.Array:
        if augment:
            part, mirror = jax.random.split(key)
            image = data.random_flip(mirror, data.random_resized_crop(part, image, (side, side)))
        else:
            image = data.center_crop(image, (side, side))
        return data.normalized(image, mean, std)

    return data.augmented(one)


def sources(
    config: Config, stored: int, classes: int, rows: int
) -> tuple[data.Source, data.Source]:
    """Images for training and validation, bytes ``[stored, stored, 3]``."""
    if config.data is None:
        return Stripes(2 * rows, stored, classes, 0), Stripes(rows // 2, stored, classes, 1)
    if (config.data / "train").is_dir():
        names = sorted(p.name for p in (config.data / "train").iterdir() if p.is_dir())
        first, last = (
            photographs(config.data / split, names, stored) for split in ("train", "validation")
        )
        if config.cache:
            return data.cached(first), data.cached(last)
        return first, last
    options: dict[str, Any] = {"data_dir": config.data, "fields": ("image", "label")}
    options |= {"size": (stored, stored), "cache": config.cache}
    return (
        data.tfds(config.dataset, split="train", **options),
        data.tfds(config.dataset, split="validation", **options),
    )


def photographs(folder: Path, names: list[str], side: int) -> data.Source:
    """The files in ``FOLDER/CLASS``, decoded when they are asked for."""
    files = [
        (file, label)
        for label, name in enumerate(names)
        for file in sorted((folder / name).glob("*"))
        if file.suffix.lower() in SUFFIXES
    ]
    if not files:
        raise DataError(
            f"there are no photographs in {folder}",
            expected="files CLASS/NAME.jpg with the classes of the training part",
            do="sort them into train/CLASS and validation/CLASS",
        )
    stats = [(file.name, label, file.stat().st_size) for file, label in files]
    digest = hashlib.sha256(repr((side, stats)).encode()).hexdigest()
    return data.records(files, fingerprint=digest, transform=functools.partial(decoded, side=side))


def decoded(example: tuple[Path, int], *, side: int) -> dict[str, Any]:
    """A file's image, its shorter side resized to ``side`` and the rest of the longer cut off."""
    from PIL import Image, ImageOps

    file, label = example
    try:
        with Image.open(file) as image:
            # A JPEG is decoded at an eighth to a half of its size where that is enough.
            image.draft("RGB", (side, side))
            whole = image.convert("RGB")
            square = ImageOps.fit(whole, (side, side), Image.Resampling.BILINEAR)
    except OSError as error:
        raise DataError(
            f"the image {file} cannot be read: {error}",
            expected="a whole image file",
            do="replace or remove the file",
        ) from error
    return {"image": np.asarray(square), "label": np.int32(label)}


@dataclass(frozen=True)
class Stripes:
    """A source of coloured stripes, each class with colours and an angle of its own."""

    rows: int
    side: int
    classes: int
    part: int

    @property
    def spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        """``image``, uint8 ``[side, side, 3]``, and ``label``."""
        image = jax.ShapeDtypeStruct((self.side, self.side, 3), np.uint8)
        return {"image": image, "label": jax.ShapeDtypeStruct((), np.int32)}

    @property
    def fingerprint(self) -> str:
        """Of the settings, which the images follow from."""
        return hashlib.sha256(repr(self).encode()).hexdigest()

    def __len__(self) -> int:
        return self.rows

    def gather(self, indices: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[Any]]:
        """The images and labels with these numbers."""
        label = (indices % self.classes).astype(np.int32)
        rows = [self._drawn(int(i), int(k)) for i, k in zip(indices, label, strict=True)]
        return {"image": np.stack(rows), "label": label}

    def _drawn(self, index: int, label: int) -> npt.NDArray[np.uint8]:
        # The kind of a class is drawn from its number alone, what differs between images apart.
        kind = np.random.default_rng((7, label))
        colours, angle = kind.uniform(0, 255, (2, 3)), kind.uniform(0, np.pi)
        rng = np.random.default_rng((self.part, index))
        down, right = np.meshgrid(*2 * [np.linspace(-1, 1, self.side)], indexing="ij")
        turned = angle + rng.normal(scale=0.2)
        waves = np.sin(rng.uniform(8, 12) * (right * np.cos(turned) + down * np.sin(turned)))
        share = (0.5 + 0.5 * waves)[..., None] * rng.uniform(0.5, 1, 3)
        image = colours[0] * share + colours[1] * (1 - share)
        noise = rng.normal(scale=40, size=(self.side // 4 + 1, self.side // 4 + 1, 3))
        noise = noise.repeat(4, 0).repeat(4, 1)[: self.side, : self.side]
        return np.clip(image + noise, 0, 255).astype(np.uint8)
