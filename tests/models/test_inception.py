"""Inception v3: published sizes, small images, its second head, its objective."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdl
from jaxdl import losses, metrics, models
from jaxdl.errors import BatchError, ConfigError, ObjectiveError
from jaxdl.models.inception import AuxiliaryLogits, InceptionBlock
from jaxdl.objectives import with_auxiliary


def shapes(model, side=299):
    given = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
    return jax.eval_shape(model.init_with_output, jax.random.key(0), given)


def count(tree) -> int:
    return sum(x.size for x in jax.tree.leaves(tree))


@functools.cache
def whole():
    return shapes(models.inception_v3())


def test_published_parameter_counts():
    logits, variables = whole()
    assert logits.shape == (2, 1000)
    assert count(variables["params"]) == 27_161_264
    assert count(variables["batch_stats"]) == 36_224
    _, plain = shapes(models.inception_v3(auxiliary=False), 75)
    assert count(plain["params"]) == 23_834_568
    # Keras counts running statistics, and its BatchNorm has no scale.
    assert count(plain) - count(plain["batch_stats"]) // 2 == 23_851_784
    for figure in ("27,161,264", "23,834,568"):
        assert figure in models.inception_v3.__doc__


@pytest.mark.parametrize("side", [75, pytest.param(150, marks=pytest.mark.slow)])
def test_the_second_head_is_of_training_alone(side):
    model, (_, variables) = models.inception_v3(), whole()
    x = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)

    def call(train):
        rngs = {"dropout": jax.random.key(0)}
        options = {"train": train, "rngs": rngs, "mutable": ["batch_stats"]}
        return jax.eval_shape(lambda v, x: model.apply(v, x, **options), variables, x)

    outputs, new = call(True)
    assert isinstance(outputs, AuxiliaryLogits)
    assert {x.shape for x in outputs} == {(2, 1000)}
    assert jax.tree.structure(new["batch_stats"]) == jax.tree.structure(variables["batch_stats"])
    assert call(False)[0].shape == (2, 1000)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 74, 299, 3), np.float32), "at least 75 x 75"),
        (np.zeros((2, 80, 80, 3), np.uint8), "dtype uint8"),
        (np.zeros((2, 3, 80, 80), np.float32), "channels last"),
    ],
)
def test_wrong_images_are_named(images, message):
    with pytest.raises(BatchError, match=message):
        models.inception_v3().init(jax.random.key(0), images)


def test_wrong_attributes_are_named():
    for options in ({"num_classes": 0}, {"dropout_rate": 1.0}):
        with pytest.raises(ConfigError, match="InceptionV3 has num_classes"):
            shapes(models.inception_v3(**options), 75)


@pytest.mark.parametrize(
    ("kind", "features", "channels", "side"),
    [
        ("a", 32, 256, 9),
        ("b", 0, 480 + 5, 4),
        ("c", 128, 768, 9),
        ("d", 0, 512 + 5, 4),
        ("e", 0, 2048, 9),
    ],
)
def test_blocks_have_the_channels_of_the_paper(kind, features, channels, side):
    block = InceptionBlock(kind, features)
    given = jax.ShapeDtypeStruct((1, 9, 9, 5), jnp.float32)
    out, _ = jax.eval_shape(block.init_with_output, jax.random.key(0), given)
    assert out.shape == (1, side, side, channels)


class Heads(models.MLP):
    """A dense layer, and in training its outputs twice."""

    def __call__(self, x, *, train=False, mask=None):
        first = super().__call__(x)
        return AuxiliaryLogits(first, 2.0 * first) if train else first


def measured(train, **options):
    objective = with_auxiliary(
        Heads((3,)),
        losses.softmax_cross_entropy,
        metrics={"accuracy": metrics.accuracy()},
        inputs="x",
        **options,
    )
    rng = np.random.default_rng(0)
    batch = {
        "x": rng.normal(size=(5, 4)).astype(np.float32),
        "label": np.array([0, 1, 2, 0, 1]),
        "mask": np.array([1, 1, 1, 1, 0], np.float32),
    }
    params, state = objective.init(jax.random.key(0), batch)
    total, aux = objective.loss(params, state, batch, jax.random.key(1), train=train)
    logits = np.asarray(Heads((3,)).apply({"params": params}, batch["x"]))[:4]
    return float(total), aux, logits, batch["label"][:4]


def cross_entropy(logits, labels) -> float:
    top = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return -float(top[np.arange(len(labels)), labels].sum())


def test_the_objective_adds_the_second_loss_in_training():
    total, aux, logits, labels = measured(True)
    first, second = cross_entropy(logits, labels), cross_entropy(2 * logits, labels)
    assert total == pytest.approx(first + 0.4 * second, rel=1e-5)
    assert float(aux.weight) == 4
    assert aux.outputs.shape == (5, 3)
    total, aux, *_ = measured(False)
    assert total == pytest.approx(first, rel=1e-5)
    hits = (logits.argmax(axis=-1) == labels).mean()
    assert jaxdl.report(aux.metrics)["accuracy"] == pytest.approx(hits)
    assert measured(True, weight=0.0)[0] == pytest.approx(first, rel=1e-5)


@pytest.mark.parametrize("weight", [-0.1, float("nan"), float("inf")])
def test_a_weight_that_is_none_is_refused(weight):
    with pytest.raises(ObjectiveError, match="with_auxiliary got weight"):
        with_auxiliary(models.inception_v3(), losses.softmax_cross_entropy, weight=weight)
