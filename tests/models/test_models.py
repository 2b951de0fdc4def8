"""Models: shapes, parameter counts of the sources, and a BatchNorm that knows of padding."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.errors import BatchError
from jaxdl.models import CNN, MLP, BatchNorm, to_float


def count(params) -> int:
    return sum(x.size for x in jax.tree.leaves(params))


def shapes(model, shape, **options):
    return jax.eval_shape(
        lambda key: model.init(key, jnp.zeros(shape), **options), jax.random.key(0)
    )["params"]


def test_the_articles_network():
    params = shapes(MLP((128, 64, 10)), (1, 28, 28, 1))
    assert count(params) == 784 * 128 + 128 + 128 * 64 + 64 + 64 * 10 + 10 == 109_386
    assert sorted(params) == ["dense_0", "dense_1", "dense_2"]


@pytest.mark.parametrize(
    ("shape", "norm", "expected"),
    [((1, 28, 28, 1), "none", 61_706), ((1, 28, 28, 1), "batch", 61_706 - 22 + 2 * 22)],
)
def test_lenet_counts(shape, norm, expected):
    assert count(shapes(CNN(10, norm=norm), shape)) == expected


@pytest.mark.parametrize("shape", [(2, 28, 28, 1), (2, 8, 8, 1), (2, 32, 32, 3), (2, 4, 4, 1)])
def test_cnn_shapes(shape):
    out = jax.eval_shape(
        lambda key: CNN(7).init_with_output(key, jnp.zeros(shape))[0], jax.random.key(0)
    )
    assert out.shape == (2, 7)


def test_integer_images_are_scaled():
    np.testing.assert_allclose(to_float(jnp.array([0, 51, 255], jnp.uint8)), [0, 0.2, 1], rtol=1e-6)
    x = jnp.array([3.0])
    assert to_float(x) is x
    model = MLP((3,))
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 1)).astype(np.uint8)
    params = model.init(jax.random.key(0), images)
    np.testing.assert_allclose(
        model.apply(params, images), model.apply(params, images / np.float32(255)), rtol=1e-5
    )


def test_dropout_is_on_in_training_only():
    model, x = MLP((64, 2), dropout_rate=0.5), jnp.ones((4, 8))
    params = model.init(jax.random.key(0), x)
    first = model.apply(params, x, train=True, rngs={"dropout": jax.random.key(1)})
    again = model.apply(params, x, train=True, rngs={"dropout": jax.random.key(2)})
    assert not np.array_equal(first, again)
    np.testing.assert_array_equal(model.apply(params, x), model.apply(params, x))


def test_wrong_ranks_are_named():
    with pytest.raises(BatchError, match=r"CNN got an input of shape \[2, 28, 28\]"):
        CNN().init(jax.random.key(0), jnp.zeros((2, 28, 28)))
    with pytest.raises(BatchError, match=r"MLP got an input of shape \[5\]"):
        MLP((2,)).init(jax.random.key(0), jnp.zeros((5,)))


X = jax.random.normal(jax.random.key(0), (12, 5, 3)) * 2 + 7


def apply_norm(norm, variables, x, **options):
    return norm.apply(variables, x, mutable=["batch_stats"], **options)


def test_batchnorm_equals_flax_on_full_batches():
    ours, theirs = BatchNorm(), nn.BatchNorm(use_running_average=False, momentum=0.9, epsilon=1e-5)
    variables = ours.init(jax.random.key(0), X)

    def run(norm, params, **options):
        given = {"params": params, "batch_stats": variables["batch_stats"]}
        out, new = apply_norm(norm, given, X, **options)
        return jnp.sum(jnp.sin(out)), (out, new["batch_stats"])

    params = {"scale": jnp.array([1.0, 2.0, 3.0]), "bias": jnp.array([0.5, 0.0, -1.0])}
    (_, a), a_grads = jax.value_and_grad(lambda p: run(ours, p, train=True), has_aux=True)(params)
    (_, b), b_grads = jax.value_and_grad(lambda p: run(theirs, p), has_aux=True)(params)
    for got, expected in zip(
        jax.tree.leaves((a, a_grads)), jax.tree.leaves((b, b_grads)), strict=True
    ):
        np.testing.assert_allclose(got, expected, rtol=2e-4, atol=2e-4)


def test_batchnorm_with_padding_equals_the_batch_without():
    norm = BatchNorm()
    variables = norm.init(jax.random.key(0), X)
    mask = jnp.arange(12) < 7
    poisoned = X.at[7:].set(1e4)
    out, new = apply_norm(norm, variables, poisoned, train=True, mask=mask)
    expected, expected_new = apply_norm(norm, variables, X[:7], train=True)
    np.testing.assert_allclose(out[:7], expected, rtol=1e-4, atol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), new, expected_new)


def test_batchnorm_of_nothing_but_padding():
    norm = BatchNorm()
    variables = norm.init(jax.random.key(0), X)

    def loss(x):
        out, new = apply_norm(norm, variables, x, train=True, mask=jnp.zeros(12))
        return jnp.sum(out**2), new

    grads, new = jax.grad(loss, has_aux=True)(X)
    assert np.all(np.isfinite(grads))
    jax.tree.map(np.testing.assert_array_equal, new["batch_stats"], variables["batch_stats"])


def test_batchnorm_over_uneven_devices_is_that_of_the_whole(devices):
    norm = BatchNorm(axis_name="data")
    x = jax.random.normal(jax.random.key(1), (8, 4, 3)) + 3
    mask = np.ones((8, 4), np.float32)
    mask[5, 2:] = mask[6] = mask[7] = 0
    variables = norm.init(jax.random.key(0), x[0])

    def one(x, mask):
        return apply_norm(norm, variables, x, train=True, mask=mask)

    out, new = jax.pmap(one, axis_name="data", devices=devices)(x, mask)
    flat = x.reshape(32, 3)[mask.reshape(32) > 0]
    expected, expected_new = apply_norm(BatchNorm(), variables, flat, train=True)
    got = np.asarray(out).reshape(32, 3)[mask.reshape(32) > 0]
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    for a, b in zip(jax.tree.leaves(new), jax.tree.leaves(expected_new), strict=True):
        np.testing.assert_allclose(a, np.broadcast_to(b, a.shape), rtol=1e-5)


def test_running_statistics_are_used_outside_training():
    norm = BatchNorm()
    stats = {"mean": jnp.full((3,), 7.0), "var": jnp.full((3,), 4.0)}
    variables = {**norm.init(jax.random.key(0), X), "batch_stats": stats}
    out = norm.apply(variables, X)
    np.testing.assert_allclose(out, (X - 7.0) / np.sqrt(4.0 + 1e-5), rtol=1e-4, atol=1e-5)
