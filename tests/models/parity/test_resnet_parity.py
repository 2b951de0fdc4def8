"""ResNet against the PyTorch implementation of ``transformers``: outputs, statistics, gradients.

Random weights, scales, biases and running statistics are moved across. Keras's ResNet50 is no
measure: it is version 1 (the stride lies in the first 1x1 convolution), its convolutions have
biases and its BatchNorm epsilon is 1.001e-5, so that it is another function.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import models

pytestmark = pytest.mark.slow

torch = pytest.importorskip("torch", reason="`make slow` installs PyTorch")
transformers = pytest.importorskip("transformers", reason="`make slow` installs transformers")

CLASSES, ROWS, SIDE = 11, 4, 64
KINDS = {
    "resnet18": {"layer_type": "basic", "depths": [2, 2, 2, 2], "scale": 1},
    "resnet50": {"layer_type": "bottleneck", "depths": [3, 4, 6, 3], "scale": 4},
}


@functools.cache
def images():
    return np.random.default_rng(0).normal(size=(ROWS, SIDE, SIDE, 3)).astype(np.float32)


@functools.cache
def labels():
    return np.random.default_rng(1).integers(0, CLASSES, ROWS)


def torch_model(name: str):
    """The other implementation, every tensor of it random."""
    kind = dict(KINDS[name])
    scale = kind.pop("scale")
    widths = [scale * width for width in (64, 128, 256, 512)]
    torch.manual_seed(0)
    model = transformers.ResNetForImageClassification(
        transformers.ResNetConfig(hidden_sizes=widths, num_labels=CLASSES, **kind)
    )
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.2)
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 2.0)
    return model.float()


def place_of(path: str) -> str:
    """Where a tensor of ours lies in the other's state: paths without the last name."""
    parts = path.split("/")
    if parts[0] == "head":
        return "classifier.1"
    part = {"conv": "convolution", "norm": "normalization"}[parts[-1]]
    if parts[0] == "stem":
        return f"resnet.embedder.embedder.{part}"
    _, stage, _, block = parts[0].split("_")
    inner = "shortcut" if parts[1] == "shortcut" else f"layer.{parts[1].removeprefix('layer_')}"
    return f"resnet.encoder.stages.{stage}.layers.{block}.{inner}.{part}"


NAMES = {"scale": "weight", "kernel": "weight", "mean": "running_mean", "var": "running_var"}


def moved(shapes, find):
    """A tree of ours, each leaf found by its name in the other's."""

    def one(path, leaf):
        *parts, last = [key.key for key in path]
        value = find(f"{place_of('/'.join(parts))}.{NAMES.get(last, last)}")
        value = value.detach().numpy()
        axes = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}[value.ndim]
        value = np.transpose(value, axes)
        assert value.shape == leaf.shape, path
        return jnp.asarray(value)

    return jax.tree_util.tree_map_with_path(one, shapes)


def moved_variables(model, other):
    shapes = jax.eval_shape(lambda key: model.init(key, images()), jax.random.key(0))
    state = other.state_dict()
    counted = [name for name in state if not name.endswith("num_batches_tracked")]
    assert len(jax.tree.leaves(shapes)) == len(counted)
    return {name: moved(tree, state.__getitem__) for name, tree in shapes.items()}


def difference(got, expected) -> float:
    """The largest difference relative to the largest value."""
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    assert got.shape == expected.shape
    return float(np.abs(got - expected).max() / np.abs(expected).max())


def theirs(other, *, train: bool):
    other.train(train)
    pixels = torch.from_numpy(np.moveaxis(images(), -1, 1).copy()).to(other.dtype)
    return other(pixel_values=pixels, labels=torch.from_numpy(labels()))


def cross_entropy(logits):
    rows = jnp.arange(len(labels()))
    return -jax.nn.log_softmax(logits)[rows, labels()].mean()


@pytest.mark.parametrize("name", KINDS)
def test_evaluation(name):
    other, model = torch_model(name), getattr(models, name)(num_classes=CLASSES)
    variables = moved_variables(model, other)
    with torch.no_grad():
        expected = theirs(other, train=False).logits
    assert difference(jax.jit(model.apply)(variables, images()), expected) < 1e-5


def gradient(model, variables):
    @jax.jit
    def loss(params):
        given = {**variables, "params": params}
        x = images().astype(model.param_dtype)
        logits, new = model.apply(given, x, train=True, mutable=["batch_stats"])
        return cross_entropy(logits), (logits, new["batch_stats"])

    return jax.value_and_grad(loss, has_aux=True)(variables["params"])


@pytest.mark.parametrize("name", KINDS)
def test_training(name):
    other, model = torch_model(name), getattr(models, name)(num_classes=CLASSES)
    variables = moved_variables(model, other)
    (loss, (logits, stats)), grads = gradient(model, variables)
    answer = theirs(other, train=True)
    answer.loss.backward()
    assert difference(logits, answer.logits.detach()) < 1e-4
    assert difference(loss, answer.loss.detach()) < 1e-5
    # A ReLU whose input is 0 up to rounding has another derivative, so that in float32 gradients
    # of 50 layers agree only as a whole, to some 2e-3; see below for each, in float64.
    named = dict(other.named_parameters())
    pairs = jax.tree.map(
        lambda a, b: (np.sum((a - b) ** 2), np.sum(b**2)),
        jax.tree.map(np.asarray, grads),
        jax.tree.map(np.asarray, moved(grads, lambda path: named[path].grad)),
    )
    apart, size = np.sum(jax.tree.leaves(pairs, is_leaf=lambda x: isinstance(x, tuple)), axis=0)
    assert np.sqrt(apart / size) < 1e-2

    # PyTorch stores the unbiased variance, we the biased one: of n values that are n / (n - 1)
    # apart. What both keep of the old one, 0.9, is the same.
    expected = moved(stats, other.state_dict().__getitem__)
    for path, want in jax.tree_util.tree_leaves_with_path(expected):
        got, old = (find(tree, path) for tree in (stats, variables["batch_stats"]))
        if path[-1].key == "var":
            n = values_of(path, name)
            want = 0.9 * old + (want - 0.9 * old) * (n - 1) / n
        assert difference(got, want) < 1e-4, path


@pytest.mark.parametrize("name", KINDS)
def test_gradients_in_float64(name):
    with jax.enable_x64(True):
        other = torch_model(name).double()
        model = getattr(models, name)(num_classes=CLASSES, param_dtype=jnp.float64)
        (loss, (logits, _)), grads = gradient(model, moved_variables(model, other))
        answer = theirs(other, train=True)
        answer.loss.backward()
        assert difference(logits, answer.logits.detach()) < 1e-10
        assert difference(loss, answer.loss.detach()) < 1e-10
        named = dict(other.named_parameters())
        expected = moved(grads, lambda path: named[path].grad)
        for got, want in zip(jax.tree.leaves(grads), jax.tree.leaves(expected), strict=True):
            assert got.dtype == want.dtype == np.float64
            assert difference(got, want) < 1e-8


def find(tree, path):
    return functools.reduce(lambda inner, key: inner[key.key], path, tree)


def values_of(path, name: str) -> int:
    """Over how many values BatchNorm at ``path`` takes its statistics: rows, height and width."""
    first, inner = path[0].key, path[1].key
    if first == "stem":
        return ROWS * (SIDE // 2) ** 2
    _, stage, _, block = first.split("_")
    side = SIDE // 4 // 2 ** int(stage)
    # In a bottleneck the first convolution comes before the stride.
    if name == "resnet50" and inner == "layer_0" and int(stage) > 0 and int(block) == 0:
        side *= 2
    return ROWS * side**2
