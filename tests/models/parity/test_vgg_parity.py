"""VGG against ``keras.applications`` (on JAX) and, with BatchNorm, against layers of PyTorch.

Keras has no average before its dense layers, so that images have 224 pixels where they are
compared; it has no dropout either. VGG-19 is compared up to its last convolution, on small images.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from keras_models import (
    apart,
    by_path,
    call,
    cross_entropy,
    difference,
    gradients,
    keras,
    randomised,
    values,
)

from jaxdl import models, weights

pytestmark = pytest.mark.slow

CLASSES = 11
torch = pytest.importorskip("torch", reason="requirements-parity.txt installs PyTorch")


def images(rows: int, side: int):
    return np.random.default_rng(0).normal(size=(rows, side, side, 3)).astype(np.float32)


def moved(arrays, sizes, dense=("fc1", "fc2", "predictions")):
    """Keras's arrays as a tree of ours."""
    names = [f"block{s + 1}_conv{i + 1}" for s, n in enumerate(sizes) for i in range(n)]
    ours = {f"conv_{i}": name for i, name in enumerate(names)}
    ours |= dict(zip(("dense_0", "dense_1", "head"), dense, strict=False))
    return {
        name: {"kernel": arrays[f"{theirs}/kernel"], "bias": arrays[f"{theirs}/bias"]}
        for name, theirs in ours.items()
    }


def gradient_of(model, params, x, loss):
    return jax.jit(jax.grad(lambda p: loss(model.apply({"params": p}, x, train=True))))(params)


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
    got = jax.jit(model.apply)({"params": params}, x)
    assert difference(got, call(other, x, train=False)[0]) < 1e-4
    loss = cross_entropy(np.array([3]))
    expected = moved(gradients(other, x, loss), sizes)
    assert apart(gradient_of(model, params, x, loss), expected) < 1e-3


def test_vgg19_is_keras():
    application = keras().applications.VGG19
    options = {"weights": None, "include_top": False, "pooling": "avg"}
    other = randomised(application(input_shape=(64, 64, 3), **options))
    model = models.vgg19(num_classes=512, stem="cifar")
    sizes, x = model.stage_sizes, images(2, 64)
    params = moved(by_path(other.trainable_variables, values(other.trainable_variables)), sizes, ())
    whole = {**params, "head": {"kernel": jnp.eye(512), "bias": jnp.zeros(512)}}
    got = jax.jit(model.apply)({"params": whole}, x)
    assert difference(got, call(other, x, train=False)[0]) < 1e-4
    loss = cross_entropy(np.array([3, 500]))
    got = gradient_of(model, whole, x, loss)
    expected = moved(gradients(other, x, loss), sizes, ())
    assert apart({name: got[name] for name in expected}, expected) < 1e-3


class TorchVGG(torch.nn.Module):
    """VGG-11 with BatchNorm at a quarter of the width, its layers numbered as torchvision does."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
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
        with torch.no_grad():
            for module in self.features:
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.weight.uniform_(0.5, 1.5)
                    module.bias.normal_(0, 0.2)
                    module.running_mean.normal_(0, 0.2)
                    module.running_var.uniform_(0.5, 2.0)

    def forward(self, x):
        return self.classifier(torch.flatten(self.pool(self.features(x)), 1))


# 96 pixels leave 3 x 3 to be averaged to 7 x 7, and 250 leave 7 x 7 of an odd side.
@pytest.mark.parametrize("side", [96, 250])
def test_with_batch_norm_it_is_torchs(side):
    other = TorchVGG()
    model = models.vgg11_bn(width=16, hidden_dim=32, num_classes=CLASSES, dropout_rate=0.0)
    x, labels = images(4, side), np.array([0, 3, 10, 3])
    pixels = torch.from_numpy(np.moveaxis(x, -1, 1).copy())
    variables = jax.tree.map(jnp.array, weights.convert(dict(other.state_dict()), into=model))
    with torch.no_grad():
        expected = other.eval()(pixels).numpy()
    assert difference(jax.jit(model.apply)(variables, x), expected) < 1e-4

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def gradient(params):
        given = {**variables, "params": params}
        logits, new = model.apply(given, x, train=True, mutable=["batch_stats"])
        return cross_entropy(labels)(logits), (logits, new["batch_stats"])

    (_, (logits, new)), grads = gradient(variables["params"])
    answer = other.train()(pixels)
    torch.nn.functional.cross_entropy(answer, torch.from_numpy(labels)).backward()
    assert difference(logits, answer.detach()) < 1e-4
    slopes = {name: p.grad for name, p in other.named_parameters()}
    expected = weights.convert(slopes, into=model, collections=("params",))["params"]
    assert apart(grads, expected) < 1e-2
    # The mean of a BatchNorm is stored alike; for the variance see test_resnet_parity.py.
    later = weights.convert(dict(other.state_dict()), into=model)["batch_stats"]
    for name, both in later.items():
        assert difference(new[name]["mean"], both["mean"]) < 1e-4
