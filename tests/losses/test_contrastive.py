"""NT-Xent against loops in NumPy, its gradient against differences, padding, and mapped axes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import losses
from jaxdl.errors import BatchError, ConfigError, ObjectiveError

RNG = np.random.default_rng(0)
FIRST, SECOND = RNG.normal(size=(2, 8, 5))


def by_loops(first, second, temperature, mask=None):
    count = len(first)
    real = np.ones(count) if mask is None else mask
    z = np.concatenate([first, second])
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    values = np.zeros(count)
    for i in range(2 * count):
        if not real[i % count]:
            continue
        below = 0.0
        for k in range(2 * count):
            if k != i and real[k % count]:
                below += np.exp(z[i] @ z[k] / temperature)
        other = (i + count) % (2 * count)
        values[i % count] -= 0.5 * np.log(np.exp(z[i] @ z[other] / temperature) / below)
    return values


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_values_are_those_of_loops(temperature):
    got = losses.nt_xent(jnp.float32(FIRST), jnp.float32(SECOND), temperature=temperature)
    np.testing.assert_allclose(got, by_loops(FIRST, SECOND, temperature), rtol=1e-5)


def test_gradients_are_differences():
    rng = np.random.default_rng(1)
    mask = np.array([1, 1, 0, 1, 1, 0, 1, 1])

    def total(first):
        values = losses.nt_xent(first, jnp.float32(SECOND), temperature=0.3, mask=mask)
        return jnp.sum(values * mask)

    grad = np.asarray(jax.grad(total)(jnp.float32(FIRST)), np.float64)
    for _ in range(4):
        way = rng.normal(size=FIRST.shape)
        up, down = (by_loops(FIRST + h * way, SECOND, 0.3, mask).sum() for h in (1e-6, -1e-6))
        assert np.sum(grad * way) == pytest.approx((up - down) / 2e-6, rel=1e-4)
    assert not grad[mask == 0].any()


def test_padding_is_nobodys_negative():
    mask = np.arange(8) < 5
    poisoned = np.where(mask[:, None], FIRST, 1e6)
    got = losses.nt_xent(jnp.float32(poisoned), jnp.float32(SECOND), mask=mask)
    np.testing.assert_allclose(got[:5], by_loops(FIRST[:5], SECOND[:5], 0.5), rtol=1e-5)
    assert np.all(np.isfinite(got))


@pytest.mark.slow
def test_one_example_and_zero_vectors_are_finite():
    one = jnp.ones((1, 3))
    assert losses.nt_xent(one, one).tolist() == [0]
    grad = jax.grad(lambda z: jnp.sum(losses.nt_xent(z, z)))(jnp.zeros((4, 3)))
    assert np.all(np.isfinite(grad))


def test_a_mapped_axis_sees_the_views_of_all(devices):
    first, second = (jnp.float32(x).reshape(4, 2, 5) for x in (FIRST, SECOND))
    mask = jnp.array([1, 1, 0, 1, 1, 0, 0, 0]).reshape(4, 2)

    def total(first, second, mask):
        values = losses.nt_xent(first, second, mask=mask, axis_name="data")
        return jnp.sum(values * mask), values

    mapped = jax.pmap(
        jax.value_and_grad(total, has_aux=True), axis_name="data", devices=devices[:4]
    )
    (_, values), grads = mapped(first, second, mask)
    whole = mask.reshape(-1)
    wanted = by_loops(FIRST, SECOND, 0.5, np.asarray(whole))
    np.testing.assert_allclose(np.asarray(values).ravel() * whole, wanted, rtol=1e-5, atol=1e-7)

    def everything(first):
        return jnp.sum(losses.nt_xent(first, jnp.float32(SECOND), mask=whole) * whole)

    expected = jax.grad(everything)(jnp.float32(FIRST))
    np.testing.assert_allclose(np.asarray(grads).reshape(8, 5), expected, rtol=1e-4, atol=1e-6)


def test_wrong_arguments_are_named():
    z = jnp.ones((4, 3))
    with pytest.raises(ObjectiveError, match="no such axis is mapped"):
        losses.nt_xent(z, z, axis_name="data")
    with pytest.raises(BatchError, match="nt_xent got"):
        losses.nt_xent(z, jnp.ones((3, 3)))
    with pytest.raises(BatchError, match=r"a mask of shape \[3\]"):
        losses.nt_xent(z, z, mask=jnp.ones(3))
    with pytest.raises(ConfigError, match="temperature=0"):
        losses.nt_xent(z, z, temperature=0.0)
