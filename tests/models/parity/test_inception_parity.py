"""Inception v3 against ``keras.applications`` on JAX, and against PyTorch in float64.

Keras has no auxiliary head and no scale in its BatchNorm; ours is 1 there. Its BatchNorm keeps
float32, in which a training step's gradients come apart (see torch_models.py); those, and the
auxiliary head, are measured against ``TorchInception``, whose tensors have torchvision's names.
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
from torch_inception import TorchInception
from torch_models import pixels, step_differences, torch
from torch_models import randomised as torch_randomised

from jaxdl import models
from jaxdl.tree_paths import leaf_paths

pytestmark = pytest.mark.slow

CLASSES, SIDE, ROWS, MANY = 11, 75, 4, 32
LABELS = np.array([0, 3, 10, 3])


def layers_in_order(params):
    """Our convolutions in the order in which Keras makes its own: as they are computed."""
    order = {"one": 0, "five": 1, "three": 1, "seven": 1, "double": 2, "pool": 3}
    # In the blocks that halve, Keras makes the branch with the 3x3 convolution first.
    names = {path.rsplit("/", 2)[0] for path in leaf_paths(params) if path.endswith("conv/kernel")}

    def place(name):
        if name.startswith("stem"):
            return (0, name, 0, 0)
        block, layer = name.split("/")
        branch = layer.split("_")[0]
        early = block == "mixed_7a" and branch == "three"
        return (1, block, -1 if early else order[branch], layer)

    return sorted(names, key=place)


def set_at(tree, path, value):
    *parents, last = path
    for parent in parents:
        tree = tree.setdefault(parent, {})
    tree[last] = value


def keras_order(other, kind):
    """Names of the layers of a kind in the order in which they were made, which numbers them."""

    def number(name):
        last = name.rsplit("_", 1)[-1]
        return int(last) if last.isdigit() else 0

    return sorted((x.name for x in other.layers if type(x).__name__ == kind), key=number)


def moved(other, shapes, trained, others=None):
    """``(params, batch_stats)`` of ours from Keras's arrays by path."""
    params, stats = {}, {}
    convs, norms = keras_order(other, "Conv2D"), keras_order(other, "BatchNormalization")
    ours = layers_in_order(shapes)
    assert len(ours) == len(convs) == len(norms) == 94
    for name, conv, norm in zip(ours, convs, norms, strict=True):
        path = name.split("/")
        bias = trained[f"{norm}/beta"]
        set_at(params, [*path, "conv", "kernel"], trained[f"{conv}/kernel"])
        set_at(params, [*path, "norm", "bias"], bias)
        set_at(params, [*path, "norm", "scale"], jnp.ones_like(bias))
        if others is not None:
            set_at(stats, [*path, "norm", "mean"], others[f"{norm}/moving_mean"])
            set_at(stats, [*path, "norm", "var"], others[f"{norm}/moving_variance"])
    head = {"kernel": trained["predictions/kernel"], "bias": trained["predictions/bias"]}
    return {**params, "head": head}, stats


def images(rows=ROWS, dtype=np.float32):
    return np.random.default_rng(0).normal(size=(rows, SIDE, SIDE, 3)).astype(dtype)


@functools.cache
def both():
    """Keras's model, ours, and the variables of ours."""
    application = keras().applications.InceptionV3
    options = {"weights": None, "classes": CLASSES, "classifier_activation": None}
    other = randomised(application(input_shape=(SIDE, SIDE, 3), **options))
    model = models.inception_v3(
        num_classes=CLASSES, auxiliary=False, dropout_rate=0.0, momentum=0.99
    )
    shapes = jax.eval_shape(model.init, jax.random.key(0), images())
    params, stats = moved(
        other,
        shapes["params"],
        by_path(other.trainable_variables, values(other.trainable_variables)),
        by_path(other.non_trainable_variables, values(other.non_trainable_variables)),
    )
    variables = {"params": params, "batch_stats": stats}
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, shapes)
    # Keras has no scales.
    scales = sum(x.size for path, x in paths_of(params) if path.endswith("/scale"))
    assert other.count_params() == sum(x.size for x in jax.tree.leaves(shapes)) - scales
    return other, model, variables


def paths_of(tree):
    return zip(leaf_paths(tree), jax.tree.leaves(tree), strict=True)


def test_evaluation_is_keras():
    other, model, variables = both()
    loss = cross_entropy(LABELS)
    logits, grads = our_evaluation(model, variables, images(), loss)
    expected, theirs = evaluated(other, images(), loss)
    assert difference(logits, expected) < 1e-4
    wanted = dict(paths_of(moved(other, grads, theirs)[0]))
    found = {path: x for path, x in paths_of(grads) if not path.endswith("/scale")}
    assert len(found) == 2 * 94 + 2
    assert worst(list(found.values()), [wanted[path] for path in found]) < 1e-3


# On the smallest images the last BatchNorms are over rows alone, hence more of them.
def test_training_is_keras():
    other, model, variables = both()
    expected, others = trained(other, images(MANY))
    run = jax.jit(functools.partial(model.apply, train=True, mutable=["batch_stats"]))
    logits, new = run(variables, images(MANY))
    assert difference(logits, expected) < 1e-4
    weights = by_path(other.trainable_variables, values(other.trainable_variables))
    _, running = moved(other, variables["params"], weights, others)
    assert worst(new["batch_stats"], running) < 1e-4


def test_a_training_step_is_torchs():
    torch.manual_seed(0)
    other = torch_randomised(TorchInception(CLASSES)).double()
    options = {"num_classes": CLASSES, "dropout_rate": 0.0, "count_padding": True}
    model = models.inception_v3(**options, param_dtype=jnp.float64)
    both_heads = cross_entropy(LABELS)

    def loss(outputs):
        return both_heads(outputs.logits) + 0.4 * both_heads(outputs.auxiliary)

    def run(other):
        first, second = other(pixels(images(dtype=np.float64)))
        entropy, labels = torch.nn.functional.cross_entropy, torch.from_numpy(LABELS)
        return (first, second), entropy(first, labels) + 0.4 * entropy(second, labels)

    found = step_differences(model, other, images(dtype=np.float64), loss, run)
    assert found.pop("gradients") < 1e-8
    assert max(found.values()) < 1e-10
