"""Layers inside models: read and put back, and Grad-CAM."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxdl import explain, models
from jaxdl.errors import BatchError, ConfigError, PathError

CLASSES = 3


class Residual(nn.Module):
    """A convolution with a path around it, and one that is called twice."""

    @nn.compact
    def __call__(self, x):
        x = x + nn.tanh(nn.Conv(x.shape[-1], (3, 3), name="conv")(x))
        twice = nn.Dense(4, name="twice")
        x = twice(nn.Dense(4, name="once")(x)) + twice(nn.relu(x @ jnp.ones((2, 4))))
        return nn.Dense(CLASSES, name="head")(jnp.mean(x, axis=(1, 2)))


class Convolved(nnx.Module):
    """The same idea in NNX, with layers in a list."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(2, 2, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(2, rngs=rngs)
        self.blocks = nnx.List([nnx.Linear(2, 4, rngs=rngs), nnx.Linear(4, 4, rngs=rngs)])
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(4, CLASSES, rngs=rngs)

    def __call__(self, x):
        x = x + jnp.tanh(self.norm(self.conv(x)))
        for block in self.blocks:
            x = block(x)
        return self.head(self.drop(x.mean((1, 2))))


@pytest.fixture(scope="module")
def residual():
    model = Residual()
    x = np.random.default_rng(0).normal(size=(3, 4, 5, 2)).astype(np.float32)
    variables = model.init(jax.random.key(0), x)
    return (lambda x: model.apply(variables, x)), variables["params"], x


def test_what_is_called_is_listed(residual):
    fn, _, x = residual
    found = explain.linen_layers(fn, x)
    assert [(layer.path, layer.kind) for layer in found] == [
        *(("conv", "Conv"), ("once", "Dense"), ("twice", "Dense"), ("twice", "Dense")),
        *(("head", "Dense"), ("", "Residual")),
    ]
    assert (found[0].input.shape, found[1].output.shape) == ((3, 4, 5, 2), (3, 4, 5, 4))


def test_a_layer_is_read_and_put_back(residual):
    fn, params, x = residual
    for path, at, wanted in (
        ("conv", "output", nn.Conv(2, (3, 3)).apply({"params": params["conv"]}, x)),
        ("conv", "input", x),
    ):
        layer = explain.linen_layer(fn, path, at=at)
        read = jax.jit(layer.read)(x)
        np.testing.assert_allclose(read, wanted, atol=1e-6)
        np.testing.assert_allclose(layer.resume(x, read), fn(x), atol=1e-6)
        # Another activation gives other scores: the path around the layer is the inputs' still.
        zero = layer.resume(x, jnp.zeros_like(read))
        assert not np.allclose(zero, fn(x), atol=1e-4)
    silent = explain.linen_layer(fn, "conv").resume(x, np.zeros((3, 4, 5, 2), np.float32))
    muted = jax.tree.map(jnp.zeros_like, params["conv"])
    wanted = Residual().apply({"params": {**params, "conv": muted}}, x)
    np.testing.assert_allclose(silent, wanted, atol=1e-6)


def test_layers_that_cannot_be_read(residual):
    fn, _, x = residual
    with pytest.raises(PathError, match="no layer 'convv' is called") as caught:
        explain.linen_layer(fn, "convv").read(x)
    assert "did you mean 'conv'" in caught.value.do
    with pytest.raises(ConfigError, match="'twice' is called 2 times"):
        explain.linen_layer(fn, "twice").read(x)
    for wrapped in (jax.jit(fn), lambda x: jax.vmap(lambda row: fn(row[None])[0])(x)):
        with pytest.raises(ConfigError, match="cannot be read: it is inside"):
            explain.linen_layer(wrapped, "conv").read(x)


class Doubled(nn.Dense):
    """A layer that calls its parent's call."""

    def __call__(self, x):
        return 2 * super().__call__(x)


def test_a_layer_that_calls_its_parents_call_is_called_once():
    x = np.ones((2, 3), np.float32)
    model = nn.Sequential([Doubled(4), nn.Dense(CLASSES)])
    variables = model.init(jax.random.key(0), x)
    fn = lambda x: model.apply(variables, x)  # noqa: E731 - to be intercepted
    assert [layer.kind for layer in explain.linen_layers(fn, x)] == [
        *("Doubled", "Dense", "Sequential")
    ]
    layer = explain.linen_layer(fn, "layers_0")
    kernel = variables["params"]["layers_0"]["kernel"]
    np.testing.assert_allclose(layer.read(x), 2 * (x @ kernel), atol=1e-6)
    np.testing.assert_allclose(layer.resume(x, layer.read(x)), fn(x), atol=1e-6)


@pytest.mark.parametrize("path", ["conv", "norm", "blocks/0", "blocks/1", "head"])
def test_an_nnx_layer_is_read_and_put_back(path):
    model = Convolved(nnx.Rngs(0))
    model.eval()
    x = np.random.default_rng(0).normal(size=(3, 4, 5, 2)).astype(np.float32)
    before = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    layer = explain.nnx_layer(model, path)
    read = jax.jit(layer.read)(x)
    np.testing.assert_allclose(layer.resume(x, read), model(x), atol=1e-6)
    assert not np.allclose(layer.resume(x, read + 1), model(x), atol=1e-4)
    after = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    jax.tree.map(np.testing.assert_array_equal, before, after)
    assert type(model.conv) is nnx.Conv


def test_nnx_layers_that_are_not_there():
    model = Convolved(nnx.Rngs(0))
    for path, hint in (("con", "'conv'"), ("blocks/2", "'blocks/1'"), ("head/kernel", "head")):
        with pytest.raises(PathError, match=f"there is no layer '{path}'") as caught:
            explain.nnx_layer(model, path)
        assert hint in caught.value.do


def test_grad_cam_is_its_definition(residual):
    fn, _, x = residual
    layer = explain.linen_layer(fn, "conv")
    activation = layer.read(x)
    target = np.array([0, 2, 1])
    for relu in (True, False):
        found = jax.jit(lambda x, relu=relu: explain.grad_cam(layer, x, target, relu=relu))(x)
        for row in range(3):

            def score(a, row=row):
                return layer.resume(x, activation.at[row].set(a))[row, target[row]]

            slope = jax.grad(score)(activation[row])
            wanted = np.sum(np.mean(slope, axis=(0, 1))[None, None] * activation[row], axis=-1)
            np.testing.assert_allclose(
                found[row], np.maximum(wanted, 0) if relu else wanted, atol=1e-6
            )
    assert explain.grad_cam(layer, x, 1, size=(9, 7)).shape == (3, 9, 7)
    masked = explain.grad_cam(layer, x, 1, relu=False, mask=np.array([1, 0, 1]))
    assert np.abs(masked).max(axis=(1, 2)).astype(bool).tolist() == [True, False, True]


def test_two_functions_and_a_path_are_one_layer():
    model = models.CNN(num_classes=CLASSES)
    x = np.random.default_rng(0).uniform(size=(2, 12, 12, 1)).astype(np.float32)
    variables = model.init(jax.random.key(0), x)
    fn = lambda x: model.apply(variables, x)  # noqa: E731 - to be intercepted
    whole = explain.linen_layer(fn, "conv_1")
    split = explain.split_layer(whole.read, lambda a: whole.resume(x, a))
    np.testing.assert_allclose(explain.grad_cam(whole, x, 1), explain.grad_cam(split, x, 1))


def test_grad_cam_takes_integers_and_refuses_what_it_cannot_map(residual):
    fn, _, x = residual
    layer = explain.linen_layer(lambda x: fn(x / 8.0), "conv")
    assert explain.grad_cam(layer, (8 * x).astype(np.int32), 0).shape == (3, 4, 5)
    with pytest.raises(ConfigError, match=r"size is \(9,\)"):
        explain.grad_cam(layer, x, 0, size=(9,))
    with pytest.raises(BatchError, match="activation is float32"):
        explain.grad_cam(explain.split_layer(lambda x: x, lambda a: a), jnp.ones(3))
    with pytest.raises(BatchError, match="target of row 0 is 3"):
        explain.grad_cam(layer, x, CLASSES)
