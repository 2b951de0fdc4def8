"""MNIST with differential privacy: what the network learns says little of any one image.

DP-SGD at epsilon 3 and delta 1e-5: the gradient of every image is clipped to the norm 0.1, every
image is in a batch by chance, and noise that the accountant asks for is added before the optimizer.
The network is a small one of two convolutions and tanh (Papernot et al. 2020, arXiv:2007.14191),
whose convolutions are written as products of patches: the gradient of one image then costs a third.

``--data FOLDER`` reads the four original files of MNIST (``train-images-idx3-ubyte.gz`` and so on);
without it the images are scikit-learn's digits, far too few to learn much at that epsilon::

    jaxdl train examples/private_mnist.py --data FOLDER --run-dir runs/private

The guarantee covers the parameters of one run. It does not cover the loss and the metrics that the
run logs, nor what other runs were tried to find these settings, and it holds against whoever does
not know ``--secret``: give a number of chance and keep it (docs/privacy.md).

Measured: TODO s on 2 CPU cores.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxdl
from jaxdl import data, losses, metrics, privacy
from jaxdl.errors import DataError

CLASSES, VALIDATED = 10, 5000
DIGITS_MAX, MNIST_MAX = 16.0, 255.0


@dataclass(frozen=True)
class Config:
    """Settings, all on the command line."""

    data: Path | None = None
    """The folder of MNIST's four files; scikit-learn's digits when not given."""
    epsilon: float = 3.0
    """What the whole run may spend."""
    delta: float = 1e-5
    """Of the guarantee; well below one over the number of images."""
    clip_norm: float = 0.1
    """The largest gradient of an image."""
    batch_size: int = 1024
    """Images in a batch on average."""
    epochs: int = 20
    """How often each image is seen on average."""
    learning_rate: float = 2.0
    """Of SGD with a momentum of 0.9."""
    microbatches: int = 64
    """Parts that a batch is worked through in, to keep few gradients at a time."""
    seed: int = 0
    """Of the parameters."""
    secret: int = 0
    """Of who is drawn into a batch, and of the noise. 0 is known to all, and so hides nothing."""


def recipe(config: Config) -> jaxdl.Recipe:
    """The run that the settings describe."""
    train, validation, test = digits() if config.data is None else mnist(config.data)
    expected = min(config.batch_size, len(train) // 4)
    batches = data.PoissonBatches(
        train, expected, seed=config.secret, multiple_of=config.microbatches
    )
    network = Network(MNIST_MAX, 2, (8, 3), (4, 2))
    if config.data is None:
        network = Network(DIGITS_MAX, 1, (4, 2), (2, 2))
    # The noise is drawn from another key than the parameters are.
    key = jax.random.fold_in(jax.random.key(config.secret), 1)
    return privacy.make_private(
        jaxdl.Recipe(
            name="private-mnist",
            objective=jaxdl.supervised(
                network, losses.softmax_cross_entropy, metrics={"accuracy": metrics.accuracy()}
            ),
            optimizer=optax.sgd(config.learning_rate, momentum=0.9),
            train=batches,
            train_eval=data.Batches(train, 1000, shuffle=False),
            validation=data.Batches(validation, 1000, shuffle=False),
            test=data.Batches(test, 1000, shuffle=False),
            steps=config.epochs * batches.batches_per_epoch,
            log_every=batches.batches_per_epoch,
            eval_every=5 * batches.batches_per_epoch,
            seed=config.seed,
        ),
        clip_norm=config.clip_norm,
        delta=config.delta,
        epsilon=config.epsilon,
        key=key,
        microbatches=config.microbatches,
    )


class Network(nn.Module):
    """Two convolutions, a layer of 32 and the classes, with tanh between them.

    Attributes:
        largest: the value of a white pixel.
        padding: pixels that are added on each side.
        first: side and stride of the first convolution, of 16 channels.
        second: of the second, of 32 channels.
    """

    largest: float
    padding: int
    first: tuple[int, int]
    second: tuple[int, int]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps images ``[B, H, W, 1]`` to logits ``[B, 10]``."""
        edge = (self.padding, self.padding)
        x = jnp.pad(x.astype(jnp.float32) / self.largest, ((0, 0), edge, edge, (0, 0)))
        for index, (channels, taps) in enumerate(((16, self.first), (32, self.second))):
            x = nn.tanh(nn.Dense(channels, name=f"conv_{index}")(patches(x, *taps)))
        x = nn.tanh(nn.Dense(32, name="hidden")(x.reshape(x.shape[0], -1)))
        return nn.Dense(CLASSES, name="head")(x)


def patches(x: jax.Array, side: int, stride: int) -> jax.Array:
    """The squares of an image: ``[B, H, W, C]`` as ``[B, H', W', side * side * C]``."""
    rows, height, width, channels = x.shape

    def windows(size: int) -> np.ndarray:
        return np.arange(0, size - side + 1, stride)[:, None] + np.arange(side)

    down, across = windows(height), windows(width)
    squares = x[:, down[:, None, :, None], across[None, :, None, :]]
    return squares.reshape(rows, len(down), len(across), side * side * channels)


def mnist(folder: Path) -> tuple[data.Source, data.Source, data.Source]:
    """Images ``[28, 28, 1]`` of bytes with labels; the last 5,000 of training validate."""
    images, labels = read(folder, "train")
    test = dict(zip(("image", "label"), read(folder, "t10k"), strict=True))
    train = {"image": images[:-VALIDATED], "label": labels[:-VALIDATED]}
    validation = {"image": images[-VALIDATED:], "label": labels[-VALIDATED:]}
    return data.arrays(train), data.arrays(validation), data.arrays(test)


def read(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """One split of the original files."""
    files = [folder / f"{split}-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1")]
    for file in files:
        if not file.exists():
            raise DataError(
                f"there is no {file}",
                expected="the four files of MNIST as they were published",
                do="give their folder as --data, or leave it out for scikit-learn's digits",
            )
    images, labels = (gzip.decompress(file.read_bytes()) for file in files)
    pixels = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28, 1)
    return pixels, np.frombuffer(labels, np.uint8, offset=8).astype(np.int32)


def digits() -> tuple[data.Source, data.Source, data.Source]:
    """Images ``[8, 8, 1]`` from 0 to 16 with labels."""
    splits = ("train", "validation", "test")
    train, validation, test = (data.digits(split=split) for split in splits)
    return train, validation, test
