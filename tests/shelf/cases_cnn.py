"""LeNet-5, VGG, ResNet and Inception v3, each as small as it can be."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from shelf_case import Case

import jaxdl
from jaxdl import losses, metrics, models
from jaxdl.models.inception import AuxiliaryLogits, InceptionBlock, InceptionConv
from jaxdl.objectives import with_auxiliary

CLASSES = 3
CLASSIFIED = {"metrics": {"accuracy": metrics.accuracy()}}


def images(rows: int, side: int = 8) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "image": rng.normal(size=(rows, side, side, 3)).astype(np.float32),
        "label": rng.integers(0, CLASSES, rows).astype(np.int32),
    }


def classified(model) -> jaxdl.Objective:
    return jaxdl.supervised(model, losses.softmax_cross_entropy, **CLASSIFIED)


class Inception(nn.Module):
    """Two blocks of Inception v3 with a second head: the whole takes long to compile."""

    dtype: object = None
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x, *, train=False, mask=None):
        options = {"train": train, "dtype": self.dtype, "axis_name": self.axis_name}
        x = InceptionConv(4, (3, 3), 2, "VALID", **options)(x, mask)
        x = InceptionBlock("c", 4, options=options)(x, mask)
        heads = [nn.Dense(CLASSES)(jnp.mean(y, axis=(1, 2)).astype(jnp.float32)) for y in (x, x)]
        return AuxiliaryLogits(*heads) if train else heads[0]


CASES = [
    Case(
        "lenet5",
        lambda dtype, _: classified(models.LeNet5(CLASSES, variant="original", dtype=dtype)),
        images,
    ),
    Case(
        "vgg",
        lambda dtype, _: classified(
            models.VGG((1, 1), CLASSES, width=4, hidden_dim=8, dropout_rate=0.3, dtype=dtype)
        ),
        images,
    ),
    Case(
        "vgg_bn",
        lambda dtype, axis: classified(
            models.VGG((1, 1), CLASSES, "cifar", width=4, norm="batch", dtype=dtype, axis_name=axis)
        ),
        images,
        mixes_rows=True,
    ),
    Case(
        "resnet",
        lambda dtype, axis: classified(
            models.ResNet(
                (1, 1), True, CLASSES, "cifar", 4, zero_init=True, dtype=dtype, axis_name=axis
            )
        ),
        images,
        mixes_rows=True,
    ),
    Case(
        "inception",
        lambda dtype, axis: with_auxiliary(
            Inception(dtype, axis), losses.softmax_cross_entropy, **CLASSIFIED
        ),
        images,
        mixes_rows=True,
        limit=1e-4,
    ),
]
