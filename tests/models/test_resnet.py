"""ResNet: published sizes, shapes, padding, masks, remat, and that it learns wherever it lies."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdl
from jaxdl import losses, metrics, models
from jaxdl.errors import BatchError, ConfigError
from jaxdl.models.resnet import ConvNorm, ResNet
from jaxdl.tree_paths import leaf_paths

IMAGES = np.random.default_rng(0).normal(size=(8, 16, 16, 3)).astype(np.float32)


def tiny(**options) -> ResNet:
    return ResNet(
        **{
            "stage_sizes": (1, 1),
            "bottleneck": False,
            "num_classes": 5,
            "stem": "cifar",
            "width": 4,
            **options,
        }
    )


def shapes(model, side=224, channels=3):
    given = jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), given)


def by_path(tree) -> dict:
    return dict(zip(leaf_paths(tree), jax.tree.leaves(tree), strict=True))


def first(model):
    return jax.jit(model.init)(jax.random.key(0), IMAGES)


@functools.cache
def randomised(model):
    """Variables far from their start; NumPy makes them, as compiling ``init`` takes longer."""
    rng = np.random.default_rng(1)

    def one(x):
        scale = 0.3 * x.size**-0.25 if len(x.shape) > 1 else 0.3
        return jnp.asarray(scale * rng.normal(size=x.shape) + (len(x.shape) == 1), x.dtype)

    return jax.tree.map(one, jax.eval_shape(model.init, jax.random.key(0), IMAGES))


def count(tree) -> int:
    return sum(x.size for x in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", 11_689_512),
        ("resnet34", 21_797_672),
        ("resnet50", 25_557_032),
        ("resnet101", 44_549_160),
        ("resnet152", 60_192_808),
    ],
)
def test_published_parameter_counts(name, expected):
    variables = shapes(getattr(models, name)())
    assert count(variables["params"]) == expected
    # A running mean and variance for every scale and bias.
    norms = [x for path, x in by_path(variables["params"]).items() if "/norm/" in path]
    assert count(variables["batch_stats"]) == count(norms)
    assert f"{expected:,} parameters" in getattr(models, name).__doc__


def test_stem_of_cifar_is_small():
    large, small = (shapes(models.resnet18(stem=stem)) for stem in ("imagenet", "cifar"))
    assert count(large["params"]) - count(small["params"]) == 64 * 3 * (49 - 9)


@pytest.mark.parametrize("bottleneck", [False, True])
@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
@pytest.mark.parametrize("size", [(1, 1, 1), (5, 9, 2), (32, 32, 3)])
def test_any_size_of_image(bottleneck, stem, size):
    model = tiny(bottleneck=bottleneck, stem=stem, stage_sizes=(1, 2, 1))
    given = jax.ShapeDtypeStruct((3, *size), jnp.float32)
    out, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), given)
    assert out.shape == (3, 5)
    assert out.dtype == jnp.float32


@pytest.mark.parametrize("taps", [3, 7])
def test_padding_is_symmetric(taps):
    """With stride 2 the first output looks at the first pixel with the middle of its taps."""
    layer, middle = ConvNorm(1, taps, 2, norm="none"), taps // 2
    kernel = jnp.arange(taps**2, dtype=jnp.float32).reshape(taps, taps, 1, 1)
    params = {"conv": {"kernel": kernel, "bias": jnp.zeros(1)}}
    corner = jnp.zeros((1, 8, 8, 1)).at[0, 0, 0].set(1)
    out = layer.apply({"params": params}, corner)
    assert out.shape == (1, 4, 4, 1)
    assert out[0, 0, 0, 0] == kernel[middle, middle, 0, 0]


@pytest.mark.slow
def test_zero_init_starts_each_block_as_its_shortcut():
    assert not models.resnet50().zero_init
    params = by_path(first(tiny(zero_init=True, width=1))["params"])
    scales = {path: float(x.mean()) for path, x in params.items() if path.endswith("scale")}
    zeros = {path for path, value in scales.items() if value == 0}
    assert set(scales.values()) == {0.0, 1.0}
    assert zeros == {f"stage_{i}_block_0/layer_1/norm/scale" for i in range(2)}
    params = first(tiny(zero_init=True, norm="none", stage_sizes=(1,)))["params"]
    assert not np.any(params["stage_0_block_0"]["layer_1"]["conv"]["kernel"])
    assert np.any(params["stage_0_block_0"]["layer_0"]["conv"]["kernel"])


def test_kernels_start_as_he_et_al_say():
    params = first(tiny(width=64, num_classes=99, stage_sizes=(1,)))["params"]
    kernel = params["stage_0_block_0"]["layer_1"]["conv"]["kernel"]
    assert np.std(kernel) == pytest.approx(np.sqrt(2 / (9 * 64)), rel=0.02)
    assert np.abs(kernel).max() > 3 * np.std(kernel)
    assert np.std(params["head"]["kernel"]) == pytest.approx(0.01, rel=0.05)


def gradient(model, variables, x=IMAGES, **options):
    def loss(params):
        out, new = model.apply(
            {**variables, "params": params}, x, train=True, mutable=["batch_stats"], **options
        )
        rows = np.ones(len(x)) if (mask := options.get("mask")) is None else mask
        return jnp.sum(jnp.sin(out) * rows[:, None]), new

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])


def close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4), a, b)


@pytest.mark.slow
def test_padded_rows_count_in_no_statistic():
    model = tiny(bottleneck=True)
    variables = randomised(model)
    poisoned = IMAGES.copy()
    poisoned[5:] = 1e3
    mask = np.arange(8) < 5
    close(gradient(model, variables, poisoned, mask=mask), gradient(model, variables, IMAGES[:5]))


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["dots", pytest.param("full", marks=pytest.mark.slow)])
def test_remat_changes_no_number(remat):
    variables = randomised(tiny())
    close(gradient(tiny(remat=remat), variables), gradient(tiny(), variables))


def test_remat_keeps_convolutions_or_their_input():
    from jaxdl.tpu import count_flops

    def flops(remat):
        model = tiny(remat=remat)
        variables = randomised(model)
        return count_flops(lambda v: gradient(model, v), variables)

    plain = flops(None)
    assert flops("full").model == flops("dots").total == plain.total
    assert (
        flops("full").recomputed
        > 0
        == flops("dots").recomputed
        == flops("dots_no_batch").recomputed
    )


def test_half_precision_computes_there_and_keeps_statistics_wide():
    model = tiny(dtype=jnp.bfloat16)
    out, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), IMAGES)
    assert out.dtype == jnp.float32
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    half = tiny(dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)
    variables = jax.eval_shape(half.init, jax.random.key(0), IMAGES)
    assert {x.dtype for x in jax.tree.leaves(variables["params"])} == {jnp.dtype("bfloat16")}
    (_, new), grads = jax.eval_shape(lambda v: gradient(half, v), variables)
    assert {x.dtype for x in jax.tree.leaves(new)} == {jnp.dtype("float32")}
    assert {x.dtype for x in jax.tree.leaves(grads)} == {jnp.dtype("bfloat16")}
    text = str(jax.make_jaxpr(model.apply)(randomised(model), IMAGES))
    assert "bf16[8,16,16,4] = conv_general_dilated" in text


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (IMAGES[0], r"ResNet got an input of shape \[16, 16, 3\]"),
        (np.moveaxis(IMAGES, -1, 1), r"\[8, 3, 16, 16\]"),
        (np.zeros((2, 8, 8, 3), np.uint8), "dtype uint8"),
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
        ({"remat": "fulll"}, "did you mean 'full'"),
        ({"stage_sizes": ()}, "at least one stage"),
        ({"stage_sizes": (1, 0)}, "nothing below 1"),
        ({"num_classes": 0}, "nothing below 1"),
    ],
)
def test_wrong_attributes_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        first(tiny(**options))


BATCH = {"image": IMAGES, "label": np.arange(8, dtype=np.int32) % 5}


def objective(model):
    accuracy = {"accuracy": metrics.accuracy()}
    return jaxdl.supervised(model, losses.softmax_cross_entropy, metrics=accuracy)


def trained(step, steps):
    state, reports = step.init(jax.random.key(0), BATCH), []
    for _ in range(steps):
        state, sums = step(state, BATCH)
        reports.append(jaxdl.report(sums))
    return state, reports


def learns(model, devices, steps, rate, *, compared=3, below=0.1):
    """Overfits one batch on 8 devices; its first steps are those of one device."""
    step = jaxdl.make_train_step(objective(model), optax.adam(rate))
    state, reports = trained(jaxdl.jit(step, devices=devices), steps)
    # The head starts near 0, so that the first guess is that all classes are equal.
    assert reports[0]["loss"] == pytest.approx(np.log(5), rel=0.1)
    assert reports[-1]["loss"] < below
    assert reports[-1]["accuracy"] == 1.0
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(state.model_state))
    _, alone = trained(jaxdl.jit(step, devices=devices[:1]), compared)
    for got, wanted in zip(reports, alone, strict=False):
        assert got["loss"] == pytest.approx(wanted["loss"], rel=1e-3)


@pytest.mark.slow
def test_it_learns_one_batch_and_eight_devices_are_one(devices):
    learns(tiny(), devices, 30, 3e-2)


@pytest.mark.slow
def test_resnet18_learns_one_batch(devices):
    # Adam makes a step of its own of each rounding error, and 18 layers enlarge it.
    model = models.resnet18(num_classes=5, stem="cifar", width=4, zero_init=True)
    learns(model, devices, 60, 1e-2, compared=2, below=0.3)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["fsdp", "zero1"])
def test_other_layouts_and_pmap_agree(devices, layout):
    # Plain descent: Adam would make a step of its own of each rounding error.
    step = jaxdl.make_train_step(objective(tiny(bottleneck=True)), optax.sgd(1e-2))
    wanted, _ = trained(jaxdl.jit(step, devices=devices[:1]), 2)
    chosen = getattr(jaxdl, layout)(min_size=64)
    got, _ = trained(jaxdl.jit(step, layout=chosen, devices=devices), 2)
    close(got.params, wanted.params)
    close(got.model_state, wanted.model_state)


@pytest.mark.slow
def test_pmap_agrees(devices):
    step, mapped = (
        jaxdl.make_train_step(objective(tiny(axis_name=name)), optax.sgd(1e-2))
        for name in (None, "data")
    )
    wanted, _ = trained(jaxdl.jit(step, devices=devices[:1]), 2)
    got, _ = trained(jaxdl.pmap(mapped), 2)
    close(jax.tree.map(lambda x: np.asarray(x)[0], got.params), wanted.params)
