"""ResNet against the PyTorch implementation of ``transformers``, and its version 1 against Keras.

Random weights, scales, biases and running statistics are moved across. Training is measured in
float64, see torch_models.py. The convolutions of Keras's ResNet50 have biases, which a BatchNorm
takes away again: they go into the running means here. Its epsilon, 1.001e-5, is ours to 1e-8.
"""

from __future__ import annotations

import functools

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
    trained,
    values,
    worst,
)
from torch_models import pixels, step_differences, torch, variables_of
from torch_models import randomised as torch_randomised

from jaxdl import models
from jaxdl.tree_paths import leaf_paths

pytestmark = pytest.mark.slow

transformers = pytest.importorskip("transformers", reason="`make slow` installs transformers")

CLASSES, ROWS, SIDE = 11, 4, 64
LABELS = np.array([0, 3, 10, 3])
BASIC = {"layer_type": "basic", "depths": [2, 2, 2, 2], "scale": 1}
BOTTLENECK = {"layer_type": "bottleneck", "depths": [3, 4, 6, 3], "scale": 4}
KINDS = {
    "resnet18": (models.resnet18, BASIC),
    "resnet50": (models.resnet50, BOTTLENECK),
    "resnet50-1": (
        functools.partial(models.resnet50, version="1"),
        {**BOTTLENECK, "downsample_in_bottleneck": True},
    ),
}


def images(dtype=np.float32):
    return np.random.default_rng(0).normal(size=(ROWS, SIDE, SIDE, 3)).astype(dtype)


def torch_model(name: str):
    """The other implementation, every tensor of it random."""
    kind = dict(KINDS[name][1])
    scale = kind.pop("scale")
    widths = [scale * width for width in (64, 128, 256, 512)]
    torch.manual_seed(0)
    config = transformers.ResNetConfig(hidden_sizes=widths, num_labels=CLASSES, **kind)
    return torch_randomised(transformers.ResNetForImageClassification(config)).float()


@pytest.mark.parametrize("name", KINDS)
def test_evaluation(name):
    other, model = torch_model(name).eval(), KINDS[name][0](num_classes=CLASSES)
    variables = variables_of(other, model)
    assert sum(x.size for x in jax.tree.leaves(variables["params"])) == other.num_parameters()
    with torch.no_grad():
        expected = other(pixel_values=pixels(images())).logits
    assert difference(jax.jit(model.apply)(variables, images()), expected) < 1e-5


@pytest.mark.parametrize("name", KINDS)
def test_a_training_step(name):
    other = torch_model(name).double()
    model = KINDS[name][0](num_classes=CLASSES, param_dtype=jnp.float64)
    x = images(np.float64)

    def run(other):
        out = other(pixel_values=pixels(x), labels=torch.from_numpy(LABELS))
        return out.logits, out.loss

    found = step_differences(model, other, x, cross_entropy(LABELS), run)
    assert found.pop("gradients") < 1e-8
    assert max(found.values()) < 1e-10


def keras_place(path: str) -> tuple[str, str]:
    """Names of the convolution and the BatchNorm of Keras's behind a ``ConvNorm`` of ours."""
    if path == "stem":
        return "conv1_conv", "conv1_bn"
    block, layer = path.split("/")
    _, stage, _, index = block.split("_")
    number = 0 if layer == "shortcut" else int(layer.removeprefix("layer_")) + 1
    at = f"conv{int(stage) + 2}_block{int(index) + 1}_{number}"
    return f"{at}_conv", f"{at}_bn"


def from_keras(shapes, trained, others):
    """Variables of ours from Keras's arrays by path."""

    def one(path, leaf):
        collection, *parts, last = [key.key for key in path]
        if parts == ["head"]:
            return trained[f"predictions/{last}"]
        conv, norm = keras_place("/".join(parts[:-1]))
        if collection == "params":
            names = {"kernel": f"{conv}/kernel", "scale": f"{norm}/gamma", "bias": f"{norm}/beta"}
            return trained[names[last]]
        if last == "mean":
            return others[f"{norm}/moving_mean"] - trained[f"{conv}/bias"]
        return others[f"{norm}/moving_variance"]

    return jax.tree_util.tree_map_with_path(one, shapes)


@functools.cache
def keras_pair():
    options = {"weights": None, "classes": CLASSES, "classifier_activation": None}
    other = randomised(keras().applications.ResNet50(input_shape=(SIDE, SIDE, 3), **options))
    model = models.resnet50(version="1", num_classes=CLASSES)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images())
    both = [
        by_path(variables, values(variables))
        for variables in (other.trainable_variables, other.non_trainable_variables)
    ]
    variables = from_keras(shapes, *both)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, shapes)
    biases = sum(x.size for path, x in both[0].items() if path.endswith("conv/bias"))
    assert other.count_params() == sum(x.size for x in jax.tree.leaves(shapes)) + biases
    return other, model, variables


def test_evaluation_of_version_1_is_keras():
    other, model, variables = keras_pair()
    loss = cross_entropy(LABELS)
    logits, grads = our_evaluation(model, variables, images(), loss)
    expected, theirs = evaluated(other, images(), loss)
    assert difference(logits, expected) < 1e-4
    assert len(leaf_paths(grads)) == 161
    assert worst(grads, from_keras({"params": grads}, theirs, {})["params"]) < 1e-3


def test_training_of_version_1_is_keras():
    other, model, variables = keras_pair()
    run = jax.jit(functools.partial(model.apply, train=True, mutable=["batch_stats"]))
    assert difference(run(variables, images())[0], trained(other, images())[0]) < 1e-4
