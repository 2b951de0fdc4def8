"""VGG: published sizes, any size of image, where it pools, dropout, masks, tensor parallelism."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdl
from jaxdl import losses, models
from jaxdl.errors import BatchError, ConfigError
from jaxdl.models import vgg
from jaxdl.tree_paths import leaf_paths

IMAGES = np.random.default_rng(0).normal(size=(4, 9, 12, 3)).astype(np.float32)


def tiny(**options) -> models.VGG:
    small = {"stage_sizes": (1, 1), "num_classes": 5, "width": 4, "hidden_dim": 8}
    return models.VGG(**{**small, **options})


def shapes(model, side=224):
    given = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), given)


def count(tree) -> int:
    return sum(x.size for x in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vgg11", 132_863_336),
        ("vgg11_bn", 132_868_840),
        ("vgg13", 133_047_848),
        ("vgg13_bn", 133_053_736),
        ("vgg16", 138_357_544),
        ("vgg16_bn", 138_365_992),
        ("vgg19", 143_667_240),
        ("vgg19_bn", 143_678_248),
    ],
)
def test_published_parameter_counts(name, expected):
    model = getattr(models, name)()
    assert count(shapes(model)["params"]) == expected
    # The dense layers have one size for every image.
    assert count(shapes(model, 97)["params"]) == expected
    assert f"{expected:,} parameters" in getattr(models, name).__doc__


def test_the_head_of_cifar_is_one_dense_layer():
    params = shapes(models.vgg16(stem="cifar", num_classes=10), 32)["params"]
    assert count(params) == 14_714_688 + 512 * 10 + 10


@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
@pytest.mark.parametrize("size", [(1, 1, 1), (5, 9, 2), (24, 24, 3), (33, 32, 3)])
def test_any_size_of_image(stem, size):
    model = tiny(stem=stem, stage_sizes=(1, 1, 1, 1, 1), norm="batch")
    given = jax.ShapeDtypeStruct((3, *size), jnp.float32)
    out, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), given)
    assert out.shape == (3, 5)
    assert out.dtype == jnp.float32


@pytest.mark.parametrize(("side", "count"), [(7, 7), (3, 7), (10, 7), (14, 7), (1, 7), (5, 2)])
def test_adaptive_pool_takes_the_means_of_its_windows(side, count):
    x = np.random.default_rng(side).normal(size=(2, side, side + 3, 2)).astype(np.float32)
    got = vgg.adaptive_average_pool(x, (count, 1))
    for i in range(count):
        first, last = i * side // count, -(-(i + 1) * side // count)
        want = x[:, first:last].mean(axis=(1, 2))
        np.testing.assert_allclose(got[:, i, 0], want, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_kernels_start_as_torchvision_draws_them():
    params = jax.jit(tiny(width=64, hidden_dim=64).init)(jax.random.key(0), IMAGES)["params"]
    kernel = params["conv_1"]["kernel"]
    assert np.std(kernel) == pytest.approx(np.sqrt(2 / (9 * 128)), rel=0.02)
    assert np.std(params["dense_0"]["kernel"]) == pytest.approx(0.01, rel=0.02)
    assert not any(np.any(x["bias"]) for x in params.values())


def test_half_precision_computes_there():
    model = tiny(dtype=jnp.bfloat16, norm="batch")
    out, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), IMAGES)
    assert out.dtype == jnp.float32
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    text = str(jax.make_jaxpr(model.apply)(variables, IMAGES))
    assert "bf16[4,9,12,4] = conv_general_dilated" in text


@pytest.mark.slow
def test_dropout_is_after_both_hidden_layers_and_only_in_training():
    x, model = IMAGES, tiny(dropout_rate=0.999)
    variables = model.init(jax.random.key(0), x)
    drawn = {"dropout": jax.random.key(1)}
    np.testing.assert_array_equal(model.apply(variables, x, train=True, rngs=drawn), 0.0)
    assert np.any(model.apply(variables, x))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (IMAGES[0], r"VGG got an input of shape \[9, 12, 3\]"),
        (np.zeros((2, 8, 8, 3), np.uint8), "dtype uint8"),
        (np.zeros((2, 3, 8, 8), np.float32), r"VGG got an input of shape \[2, 3, 8, 8\]"),
        (np.zeros((2, 0, 8, 3), np.float32), r"shape \[2, 0, 8, 3\]"),
    ],
)
def test_wrong_images_are_named(images, message):
    with pytest.raises(BatchError, match=message) as caught:
        tiny().init(jax.random.key(0), images)
    assert caught.value.expected
    assert caught.value.do


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stem": "imagenett"}, "did you mean 'imagenet'"),
        ({"norm": "bach"}, "did you mean 'batch'"),
        ({"stage_sizes": ()}, "at least one stage"),
        ({"dropout_rate": 1.0}, "a rate in"),
        ({"hidden_dim": 0}, "nothing below 1"),
    ],
)
def test_wrong_attributes_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        jax.eval_shape(tiny(**options).init, jax.random.key(0), IMAGES)


def test_every_rule_of_tensor_parallelism_finds_its_leaf():
    import re

    params = shapes(models.vgg11())["params"]
    by_path = dict(zip(leaf_paths(params), jax.tree.leaves(params), strict=True))
    for rule, spec in vgg.TENSOR_RULES:
        found = [x for path, x in by_path.items() if re.search(rule, path)]
        assert len(found) == 1
        assert len(spec) == found[0].ndim


@pytest.mark.slow
def test_tensor_parallel_is_data_parallel(devices):
    objective = jaxdl.supervised(tiny(dropout_rate=0.3), losses.softmax_cross_entropy)
    step = jaxdl.make_train_step(objective, optax.sgd(0.1))
    batch = {"image": IMAGES, "label": np.arange(4, dtype=np.int32)}

    def trained(layout, count):
        placed = jaxdl.jit(step, layout=layout, devices=devices[:count])
        state = placed.init(jax.random.key(0), batch)
        for _ in range(2):
            state, _ = placed(state, batch)
        return jax.device_get(state.params)

    divided = jaxdl.tensor_parallel(vgg.TENSOR_RULES, tensor=2)
    got, wanted = trained(divided, 4), trained(jaxdl.data_parallel(), 1)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), got, wanted)
