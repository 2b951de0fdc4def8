"""Inception v3 against ``keras.applications`` on JAX: outputs, statistics, gradients.

Keras has no auxiliary head and no scale in its BatchNorm; ours is 1 there.
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

from jaxdl import models
from jaxdl.tree_paths import leaf_paths

pytestmark = pytest.mark.slow

CLASSES, ROWS, SIDE = 11, 4, 107


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


@functools.cache
def both():
    """Keras's model, ours, images, and the variables of ours."""
    application = keras().applications.InceptionV3
    options = {"weights": None, "classes": CLASSES, "classifier_activation": None}
    other = randomised(application(input_shape=(SIDE, SIDE, 3), **options))
    model = models.inception_v3(
        num_classes=CLASSES,
        auxiliary=False,
        dropout_rate=0.0,
        momentum=0.99,
    )
    x = np.random.default_rng(0).normal(size=(ROWS, SIDE, SIDE, 3)).astype(np.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    trained = by_path(other.trainable_variables, values(other.trainable_variables))
    others = by_path(other.non_trainable_variables, values(other.non_trainable_variables))
    params, stats = moved(other, shapes["params"], trained, others)
    variables = {"params": params, "batch_stats": stats}
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, shapes)
    return other, model, x, variables


def test_outputs_and_statistics():
    other, model, x, variables = both()
    expected, _ = call(other, x, train=False)
    assert difference(jax.jit(model.apply)(variables, x), expected) < 1e-4
    expected, others = call(other, x, train=True)
    run = functools.partial(model.apply, train=True, mutable=["batch_stats"])
    logits, new = jax.jit(run)(variables, x)
    assert difference(logits, expected) < 1e-4
    trained = by_path(other.trainable_variables, values(other.trainable_variables))
    _, running = moved(other, variables["params"], trained, others)
    pairs = zip(jax.tree.leaves(new["batch_stats"]), jax.tree.leaves(running), strict=True)
    assert all(difference(got, want) < 1e-4 for got, want in pairs)


# In training a rounding error of one value moves the statistics of four rows of few pixels, and
# through 48 layers of those gradients come apart in float32. (Keras's BatchNorm has no float64.)
@pytest.mark.parametrize(("train", "limit"), [(False, 1e-3), (True, 5e-2)])
def test_gradients(train, limit):
    other, model, x, variables = both()
    loss = cross_entropy(np.array([0, 3, 10, 3]))

    @jax.jit
    @jax.grad
    def gradient(params):
        given = {**variables, "params": params}
        return loss(model.apply(given, x, train=train, mutable=["batch_stats"])[0])

    grads = gradient(variables["params"])
    expected, _ = moved(other, grads, gradients(other, x, loss, train=train))
    # Keras trains no scale.
    without = [
        jax.tree_util.tree_map_with_path(lambda p, g: None if p[-1].key == "scale" else g, tree)
        for tree in (grads, expected)
    ]
    assert len(jax.tree.leaves(without[0])) == 2 * 94 + 2
    assert apart(*without) < limit
