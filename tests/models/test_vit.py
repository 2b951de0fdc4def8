"""ViT against its formulas in NumPy, its published sizes, and positions of other image sizes."""

from __future__ import annotations

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from scipy import ndimage

from jaxdl.errors import BatchError, ConfigError
from jaxdl.models import (
    ViT,
    resize_positions,
    stack_layers,
    unstack_layers,
    vit,
    vit_b16,
    vit_l16,
    vit_s16,
    vit_ti16,
)
from jaxdl.tree_paths import leaf_paths

K, D, N, LAYERS, PATCH = 5, 16, 2, 2, 4
SIZES = {
    "num_classes": K,
    "num_layers": LAYERS,
    "num_heads": N,
    "hidden_dim": D,
    "patch_size": PATCH,
    "image_size": (8, 12),
}
IMAGES = np.random.default_rng(3).normal(size=(2, 8, 12, 3)).astype(np.float32)
POOLS = [{}, {"pool": "mean", "representation_dim": 7}]


def model(**options):
    return ViT(**{**SIZES, **options})


@functools.cache
def randomised(**options):
    """Parameters far from their start, so that every bias and scale matters."""
    params = jax.jit(model(**options).init)(jax.random.key(0), IMAGES)["params"]
    leaves, structure = jax.tree.flatten(params)
    rng = np.random.default_rng(1)
    moved = [np.asarray(x + 0.3 * rng.normal(size=x.shape), np.float32) for x in leaves]
    return jax.tree.unflatten(structure, moved)


def numpy_norm(x, p, epsilon):
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon)
    return scaled * p["scale"] + p["bias"]


def numpy_dense(x, p):
    return x @ p["kernel"] + p["bias"]


def numpy_attention(x, p):
    q, k, v = (numpy_dense(x, p[name]) for name in ("query", "key", "value"))
    out, size = np.zeros_like(x), x.shape[-1] // N
    for b in range(x.shape[0]):
        for n in range(N):
            own = slice(n * size, (n + 1) * size)
            scores = q[b, :, own] @ k[b, :, own].T / np.sqrt(size)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            out[b, :, own] = weights @ v[b, :, own] / weights.sum(-1, keepdims=True)
    return numpy_dense(out, p["out"])


def numpy_vit(params, images, *, pool="token", representation_dim=None, epsilon=1e-6):
    """Logits by the formulas of the paper, in float64."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    rows = []
    for i in range(images.shape[1] // PATCH):
        for j in range(images.shape[2] // PATCH):
            patch = images[:, PATCH * i : PATCH * (i + 1), PATCH * j : PATCH * (j + 1)]
            kernel = p["patch_embedding"]["kernel"].reshape(-1, D)
            rows.append(patch.reshape(len(images), -1) @ kernel + p["patch_embedding"]["bias"])
    x = np.stack(rows, axis=1)
    if pool == "token":
        first = np.broadcast_to(p["class_token"], (len(images), 1, D))
        x = np.concatenate([first, x], axis=1)
    x = x + p["position_embedding"]
    for layer in range(LAYERS):
        block = p[f"block_{layer}"]
        y = numpy_norm(x, block["attention_norm"], epsilon)
        x = x + numpy_attention(y, block["attention"])
        y = numpy_dense(numpy_norm(x, block["mlp_norm"], epsilon), block["mlp_in"])
        y = 0.5 * y * (1 + np.vectorize(math.erf)(y / math.sqrt(2)))
        x = x + numpy_dense(y, block["mlp_out"])
    x = numpy_norm(x, p["norm"], epsilon)
    x = x[:, 0] if pool == "token" else x.mean(axis=1)
    x = np.tanh(numpy_dense(x, p["representation"])) if representation_dim else x
    return numpy_dense(x, p["head"])


def apply(params, images=IMAGES, *, options=None, **call):
    run = jax.jit(functools.partial(model(**(options or {})).apply, **call))
    return run({"params": params}, images)


def close(got, expected, tolerance=2e-5):
    """Within a tolerance of the largest entry; see ``test_gpt`` on the key's bias."""
    floor = 1e-2 * max(np.max(np.abs(b)) for b in jax.tree.leaves(expected))

    def compare(a, b):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(np.max(np.abs(b)), floor))

    jax.tree.map(compare, got, expected)


@pytest.mark.slow
@pytest.mark.parametrize("options", POOLS, ids=["token", "mean"])
def test_logits_are_those_of_the_formulas(options):
    params = randomised(**options)
    logits = apply(params, options=options)
    assert logits.shape == (2, K)
    assert logits.dtype == jnp.float32
    close(logits, numpy_vit(params, IMAGES, **options))


def test_epsilon_is_read_and_a_mask_of_rows_changes_nothing():
    # So large that it shows.
    params, options = randomised(), {"epsilon": 0.5}
    logits = apply(params, options=options, mask=np.array([1, 0]), train=True)
    close(logits, numpy_vit(params, IMAGES, epsilon=0.5))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (vit_ti16, 5_717_416),
        (vit_s16, 22_050_664),
        (vit_b16, 86_567_656),
        (vit_l16, 304_326_632),
    ],
)
def test_published_sizes(make, expected):
    shapes = jax.eval_shape(
        make(scan_layers=True).init, jax.random.key(0), jnp.zeros((1, 224, 224, 3))
    )
    assert sum(x.size for x in jax.tree.leaves(shapes)) == expected


def test_no_head_gives_what_it_would_read():
    params = dict(randomised())
    head = params.pop("head")
    features = apply(params, options={"num_classes": None})
    assert features.shape == (2, D)
    close(numpy_dense(np.asarray(features), head), apply({**params, "head": head}))


def test_start():
    params = jax.jit(model().init)(jax.random.key(0), IMAGES)["params"]
    assert not np.any(params["head"]["kernel"])
    assert not np.any(params["class_token"])
    limit = np.sqrt(6 / (D + 4 * D))
    kernel = np.asarray(params["block_1"]["mlp_in"]["kernel"])
    assert 0.95 * limit < np.abs(kernel).max() <= limit
    # One row of positions is 16 numbers; all seven are 112.
    assert 0.015 < np.std(params["position_embedding"]) < 0.025


@pytest.mark.slow
@pytest.mark.parametrize("remat", [None, "full", "dots", "dots_no_batch"])
def test_scanned_and_rematerialised_layers_are_the_same(remat):
    params = randomised()

    def loss(params, **options):
        return jnp.sum(jnp.sin(model(**options).apply({"params": params}, IMAGES)))

    run = jax.jit(jax.value_and_grad(functools.partial(loss, scan_layers=True, remat=remat)))
    value, grads = run(stack_layers(params))
    close((value, unstack_layers(grads)), jax.jit(jax.value_and_grad(loss))(params))


def test_half_precision_computation_and_float32_logits():
    params = randomised()
    logits = apply(params, options={"dtype": jnp.bfloat16})
    assert logits.dtype == jnp.float32
    close(logits, numpy_vit(params, IMAGES), 0.05)


@pytest.mark.parametrize("scan_layers", [False, True])
def test_tensor_rules_divide_what_they_say(scan_layers):
    shapes = jax.eval_shape(
        model(scan_layers=scan_layers).init, jax.random.key(0), jnp.asarray(IMAGES)
    )["params"]
    rules = vit.SCANNED_TENSOR_RULES if scan_layers else vit.TENSOR_RULES
    found = {}
    for path, leaf in zip(leaf_paths(shapes), jax.tree.leaves(shapes), strict=True):
        specs = [spec for pattern, spec in rules if re.search(pattern, path)]
        assert len(specs) <= 1
        assert not specs or len(specs[0]) == leaf.ndim
        found[path] = specs[0] if specs else None
    leading = (None,) if scan_layers else ()
    block = "blocks" if scan_layers else "block_1"
    assert found[f"{block}/attention/key/kernel"] == P(*leading, None, "tensor")
    assert found[f"{block}/attention/out/kernel"] == P(*leading, "tensor", None)
    assert found[f"{block}/mlp_in/kernel"] == P(*leading, None, "tensor")
    assert found[f"{block}/mlp_out/kernel"] == P(*leading, "tensor", None)
    for whole in ("position_embedding", "patch_embedding/kernel", "head/kernel"):
        assert found[whole] is None
    for pattern, _ in rules:
        assert any(re.search(pattern, path) for path in found)


@pytest.mark.parametrize(
    ("old", "new", "tokens"),
    [
        ((2, 2), (6, 9), 1),
        ((3, 4), (4, 3), 0),
        ((3, 4), (1, 1), 1),
        ((1, 5), (4, 3), 1),
        ((5, 5), (5, 5), 0),
    ],
)
def test_positions_are_resized_as_scipy_zooms(old, new, tokens):
    table = np.random.default_rng(0).normal(size=(tokens + math.prod(old), 3)).astype(np.float32)
    got = np.asarray(resize_positions(table, new, from_grid=old))
    assert got.shape == (tokens + math.prod(new), 3)
    np.testing.assert_array_equal(got[:tokens], table[:tokens])
    grid = table[tokens:].reshape(*old, 3)
    # SciPy has its own mind about axes of one entry, which have no ends to lay on each other.
    if min(new) > 1 and min(old) > 1:
        zoomed = ndimage.zoom(grid, (new[0] / old[0], new[1] / old[1], 1), order=1)
        np.testing.assert_allclose(got[tokens:], zoomed.reshape(-1, 3), atol=1e-6)
    else:
        np.testing.assert_array_equal(got[tokens], grid[0, 0])


def test_positions_of_a_square_need_no_grid():
    table = np.random.default_rng(0).normal(size=(17, 3)).astype(np.float32)
    expected = resize_positions(table, (6, 6), from_grid=(4, 4))
    np.testing.assert_array_equal(resize_positions(table, (6, 6)), expected)
    np.testing.assert_array_equal(resize_positions(table[1:], (6, 6)), expected[1:])


def test_resized_weights_fit_a_larger_model():
    small, large = model(image_size=8), model(image_size=16)
    params = jax.eval_shape(small.init, jax.random.key(0), IMAGES[:, :, :8])["params"]
    places = jax.eval_shape(lambda x: resize_positions(x, (4, 4)), params["position_embedding"])
    expected = jax.eval_shape(large.init, jax.random.key(0), np.zeros((1, 16, 16, 3), np.float32))
    assert {**params, "position_embedding": places} == expected["params"]


def test_wrong_arguments_are_named():
    def refuse(error, match, model, images=IMAGES):
        with pytest.raises(error, match=match):
            jax.eval_shape(model.init, jax.random.key(0), images)

    refuse(BatchError, r"ViT got an input of shape \[8, 12, 3\]", model(), IMAGES[0])
    turned = np.swapaxes(IMAGES, 1, 2)
    refuse(BatchError, r"shape \[2, 12, 8, 3\](.|\n)*\[B, 8, 12, C\]", model(), turned)
    refuse(BatchError, r"dtype uint8(.|\n)*to_float", model(), IMAGES.astype(np.uint8))
    refuse(ConfigError, r"image_size=10 and patch_size=4", model(image_size=10))
    refuse(ConfigError, "3 heads do not divide 16 features", model(num_heads=3))
    with pytest.raises(ConfigError, match="7 positions are to be resized"):
        resize_positions(np.zeros((7, 2)), (2, 2))


@pytest.mark.usefixtures("untyped")
def test_an_unknown_pool_is_named():
    with pytest.raises(ConfigError, match=r"pool='tokens'(.|\n)*did you mean 'token'"):
        jax.eval_shape(model(pool="tokens").init, jax.random.key(0), IMAGES)
