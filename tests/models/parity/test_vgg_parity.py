"""VGG against ``keras.applications`` (on JAX) and, with BatchNorm, against layers of PyTorch.

Keras has no average before its dense layers, so that images have 224 pixels where they are
compared; it has no dropout either. VGG-19 is compared up to its last convolution, on small images.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from keras_models import (
    by_path,
    cross_entropy,
    difference,
    evaluated,
    keras,
    our_evaluation,
    randomised,
    values,
    worst,
)
from torch_models import pixels, step_differences, torch, variables_of
from torch_models import randomised as torch_randomised

from jaxdl import models

pytestmark = pytest.mark.slow

CLASSES = 11


def images(rows: int, side: int, dtype=np.float32):
    return np.random.default_rng(0).normal(size=(rows, side, side, 3)).astype(dtype)


def moved(arrays, sizes, dense=("fc1", "fc2", "predictions")):
    """Keras's arrays as a tree of ours."""
    names = [f"block{s + 1}_conv{i + 1}" for s, n in enumerate(sizes) for i in range(n)]
    ours = {f"conv_{i}": name for i, name in enumerate(names)}
    ours |= dict(zip(("dense_0", "dense_1", "head"), dense, strict=False))
    return {
        name: {"kernel": arrays[f"{theirs}/kernel"], "bias": arrays[f"{theirs}/bias"]}
        for name, theirs in ours.items()
    }


def test_vgg16_is_keras():
    application = keras().applications.VGG16
    options = {"weights": None, "classes": CLASSES, "classifier_activation": None}
    other = randomised(application(input_shape=(224, 224, 3), **options))
    model = models.vgg16(num_classes=CLASSES, dropout_rate=0.0)
    sizes, x = model.stage_sizes, images(1, 224)
    params = moved(by_path(other.trainable_variables, values(other.trainable_variables)), sizes)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)["params"]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, shapes)
    assert other.count_params() == sum(p.size for p in jax.tree.leaves(shapes))
    loss = cross_entropy(np.array([3]))
    logits, grads = our_evaluation(model, {"params": params}, x, loss)
    expected, theirs = evaluated(other, x, loss)
    assert difference(logits, expected) < 1e-4
    assert worst(grads, moved(theirs, sizes)) < 1e-3


def test_vgg19_is_keras():
    application = keras().applications.VGG19
    options = {"weights": None, "include_top": False, "pooling": "avg"}
    other = randomised(application(input_shape=(64, 64, 3), **options))
    model = models.vgg19(num_classes=512, stem="cifar")
    sizes, x = model.stage_sizes, images(2, 64)
    params = moved(by_path(other.trainable_variables, values(other.trainable_variables)), sizes, ())
    assert other.count_params() == sum(p.size for p in jax.tree.leaves(params))
    whole = {**params, "head": {"kernel": jnp.eye(512), "bias": jnp.zeros(512)}}
    loss = cross_entropy(np.array([3, 500]))
    logits, grads = our_evaluation(model, {"params": whole}, x, loss)
    expected, theirs = evaluated(other, x, loss)
    assert difference(logits, expected) < 1e-4
    assert worst({name: grads[name] for name in params}, moved(theirs, sizes, ())) < 1e-3


class TorchVGG(torch.nn.Module):
    """VGG-11 with BatchNorm at a quarter of the width, its layers numbered as torchvision does."""

    def __init__(self):
        super().__init__()
        layers, channels = [], 3
        for stage, count in enumerate((1, 1, 2, 2, 2)):
            for _ in range(count):
                width = 16 * min(8, 2**stage)
                norm = torch.nn.BatchNorm2d(width)
                layers += [torch.nn.Conv2d(channels, width, 3, padding=1), norm, torch.nn.ReLU()]
                channels = width
            layers.append(torch.nn.MaxPool2d(2))
        self.features = torch.nn.Sequential(*layers)
        self.pool = torch.nn.AdaptiveAvgPool2d((7, 7))
        dense = []
        for before, after in ((channels * 49, 32), (32, 32)):
            dense += [torch.nn.Linear(before, after), torch.nn.ReLU(), torch.nn.Dropout(0.0)]
        self.classifier = torch.nn.Sequential(*dense, torch.nn.Linear(32, CLASSES))

    def forward(self, x):
        return self.classifier(torch.flatten(self.pool(self.features(x)), 1))


# 96 pixels leave 3 x 3 to be averaged to 7 x 7, and 250 leave 7 x 7 of an odd side.
@pytest.mark.parametrize("side", [96, 250])
def test_with_batch_norm_it_is_torchs(side):
    torch.manual_seed(0)
    other = torch_randomised(TorchVGG())
    options = {"width": 16, "hidden_dim": 32, "num_classes": CLASSES, "dropout_rate": 0.0}
    model, labels = models.vgg11_bn(**options), np.array([3, 10])
    variables = variables_of(other, model)
    with torch.no_grad():
        expected = other.eval()(pixels(images(2, side)))
    assert difference(jax.jit(model.apply)(variables, images(2, side)), expected) < 1e-4

    x = images(2, side, np.float64)

    def run(other):
        logits = other(pixels(x))
        return logits, torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels))

    model = models.vgg11_bn(**options, param_dtype=jnp.float64)
    found = step_differences(model, other.double(), x, cross_entropy(labels), run)
    assert found.pop("gradients") < 1e-8
    assert max(found.values()) < 1e-10
