"""FGSM and PGD: where the optimum is known, at the edges of ball and range, row by row."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.errors import BatchError, ConfigError, ObjectiveError
from jaxdl.robustness import Attack, fgsm, pgd

ROWS, SHAPE = 6, (4, 4, 1)
FREE = {"low": -np.inf, "high": np.inf}
KEYS = jax.random.split(jax.random.key(1), ROWS)


@pytest.fixture(scope="module")
def images() -> jax.Array:
    """With pixels at both ends of the range."""
    x = jax.random.uniform(jax.random.key(2), (ROWS, *SHAPE))
    return x.at[:, 0].set(0.0).at[:, 1].set(1.0)


@pytest.fixture(scope="module")
def weights() -> jax.Array:
    """Of a linear loss; one of them is 0."""
    w = jax.random.normal(jax.random.key(3), (ROWS, *SHAPE))
    return w.at[:, 2, 2].set(0.0)


def linear(weights):
    return lambda x: jnp.sum(x.astype(jnp.float32) * weights, axis=(1, 2, 3))


def flat(x) -> np.ndarray:
    return np.asarray(x, np.float64).reshape(len(x), -1)


def test_the_optimum_of_a_linear_loss_in_linf(images, weights):
    x, w = np.asarray(images), np.asarray(weights)
    expected = x + 0.3 * np.sign(w)
    for attack in (
        fgsm(0.3, **FREE),
        pgd(0.3, steps=3, step_size=0.2, random_start=False, **FREE),
    ):
        np.testing.assert_allclose(attack(linear(weights), images), expected, atol=1e-6)
    within = fgsm(0.3)(linear(weights), images)
    np.testing.assert_allclose(within, np.clip(expected, 0, 1), atol=1e-6)
    targeted = fgsm(0.3, targeted=True, **FREE)(linear(weights), images)
    np.testing.assert_allclose(targeted, x - 0.3 * np.sign(w), atol=1e-6)


def test_the_optimum_of_a_linear_loss_in_l2(images, weights):
    w = flat(weights)
    expected = flat(images) + 0.7 * w / np.linalg.norm(w, axis=1, keepdims=True)
    attacks = {
        "fgsm": fgsm(0.7, norm="l2", **FREE),
        "pgd": pgd(0.7, norm="l2", steps=60, step_size=0.2, **FREE),
    }
    for name, attack in attacks.items():
        found = attack(linear(weights), images, KEYS)
        np.testing.assert_allclose(flat(found), expected, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("radius", [0.3, 0.001])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_ball_and_range_hold_to_the_last_bit(images, weights, norm, radius, dtype):
    x = images.astype(dtype)
    attack = pgd(radius, norm=norm, steps=5)
    found = jax.jit(lambda x: attack(linear(weights), x, KEYS))(x)
    assert found.dtype == dtype
    exact = flat(found) - flat(x)
    length = np.abs(exact).max() if norm == "linf" else np.linalg.norm(exact, axis=1).max()
    assert 0 < length <= radius
    assert flat(found).min() >= 0
    assert flat(found).max() <= 1
    if dtype == jnp.float32 and norm == "linf":
        assert length > radius * (1 - 1e-4)


def test_an_image_outside_of_the_range_comes_no_further_out():
    x = jnp.array([[1.5, -0.5, 0.9]])
    found = fgsm(0.25)(lambda x: jnp.sum(x, axis=1), x)
    np.testing.assert_allclose(found, [[1.5, -0.25, 1.0]], atol=1e-6)
    found = fgsm(0.25, targeted=True)(lambda x: jnp.sum(x, axis=1), x)
    np.testing.assert_allclose(found, [[1.25, -0.5, 0.65]], atol=1e-6)


def test_a_range_for_each_channel():
    x = jnp.zeros((2, 2, 2, 3))
    found = fgsm(1.0, low=(-0.1, -0.2, -0.3), high=(0.1, 0.2, 0.3))(lambda x: jnp.sum(x), x)
    np.testing.assert_allclose(found[0, 0, 0], [0.1, 0.2, 0.3], atol=1e-7)
    with pytest.raises(BatchError, match="low has 2 numbers"):
        fgsm(1.0, low=(0.0, 0.0))(lambda x: jnp.sum(x), x)


def test_nothing_to_do_is_the_image_itself(images, weights):
    for attack in (
        pgd(0.0, steps=3, step_size=0.1),
        pgd(0.0, norm="l2", steps=3, step_size=0.1),
        pgd(0.3, steps=0, random_start=False),
        pgd(0.3, steps=4, step_size=0.0, random_start=False),
    ):
        np.testing.assert_array_equal(attack(linear(weights), images, KEYS), images)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_no_steps_leave_a_random_point_of_the_ball(norm):
    x = jnp.full((400, 3), 0.5)
    keys = jax.random.split(jax.random.key(0), 400)
    moved = flat(pgd(0.2, norm=norm, steps=0)(lambda x: jnp.sum(x), x, keys)) - flat(x)
    length = np.abs(moved).max(1) if norm == "linf" else np.linalg.norm(moved, axis=1)
    assert np.all(length <= 0.2)
    # Of a uniform point of a ball in three dimensions, (length / radius)**3 is uniform.
    assert abs(np.mean((length / 0.2) ** 3) - 0.5) < 0.05
    assert np.all(np.abs(moved.mean(0)) < 0.02)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_flat_loss_moves_nothing_and_a_tiny_gradient_as_far_as_any(images, weights, norm):
    attack = pgd(0.3, norm=norm, steps=3, random_start=False)
    np.testing.assert_array_equal(attack(lambda x: 0.0 * jnp.sum(x), images), images)
    big = attack(linear(weights), images)
    small = attack(lambda x: 1e-30 * linear(weights)(x), images)
    np.testing.assert_allclose(small, big, atol=1e-5)


def test_a_gradient_that_is_not_finite_is_seen(images):
    found = pgd(0.3, steps=2, random_start=False)(lambda x: jnp.nan * jnp.sum(x), images)
    assert np.all(np.isnan(found))


def test_rows_do_not_meet(images, weights):
    """Neither other rows, nor their number, their order, their weights or a mean change a row."""
    attack = pgd(0.3, norm="l2", steps=4)
    share = jnp.arange(1.0, ROWS + 1)

    def loss(weights, factor):
        return lambda x: jnp.sum(factor * jnp.sum(jnp.sin(5 * x) * weights, axis=(1, 2, 3)))

    whole = attack(loss(weights, 1.0), images, KEYS)
    np.testing.assert_allclose(attack(loss(weights, share / ROWS), images, KEYS), whole, atol=1e-5)
    alone = attack(loss(weights[3:4], 1.0), images[3:4], KEYS[3:4])
    np.testing.assert_allclose(alone[0], whole[3], atol=1e-5)


def test_starts_belong_to_the_key_of_the_row(images, weights):
    attack = pgd(0.3, steps=0)
    found = attack(linear(weights), images, KEYS)
    np.testing.assert_array_equal(attack(linear(weights), images, KEYS), found)
    np.testing.assert_array_equal(attack(linear(weights), images[::-1], KEYS[::-1])[::-1], found)
    other = attack(linear(weights), images, jax.random.split(jax.random.key(9), ROWS))
    assert not np.array_equal(other, found)


def test_of_restarts_the_worst_is_kept_row_by_row():
    """From the left of the hill one end of the ball is reached, from the right the other."""
    x = jnp.zeros((40, 1))
    keys = jax.random.split(jax.random.key(0), 40)

    def loss(x):
        return jnp.where(x[:, 0] > 0, 2.0, 1.0) * jnp.abs(x[:, 0])

    once = pgd(0.5, steps=10, **FREE)(loss, x, keys)
    assert 5 < np.sum(np.asarray(once) < 0) < 35
    best = pgd(0.5, steps=10, restarts=12, **FREE)(loss, x, keys)
    np.testing.assert_allclose(best, np.full((40, 1), 0.5), atol=1e-6)
    total = pgd(0.5, steps=10, restarts=12, **FREE)(lambda x: jnp.sum(loss(x)), x, keys, loss)
    np.testing.assert_array_equal(total, best)
    lowest = pgd(0.5, steps=10, restarts=12, targeted=True, **FREE)(lambda x: -loss(x), x, keys)
    np.testing.assert_array_equal(lowest, best)
    with pytest.raises(ObjectiveError, match=r"a loss of shape \[\]"):
        pgd(0.5, restarts=2)(lambda x: jnp.sum(loss(x)), x, keys)


def test_a_loop_is_its_steps_written_out(images, weights):
    def loss(x):
        return jnp.sum(jnp.sin(7 * x) * weights, axis=(1, 2, 3))

    looped, unrolled = (
        pgd(0.3, norm="l2", steps=6, unroll=unroll)(loss, images, KEYS) for unroll in (False, True)
    )
    np.testing.assert_allclose(looped, unrolled, atol=1e-5)


def test_nothing_flows_back_through_an_attack(images, weights):
    attack = pgd(0.3, steps=3)

    def through(scale, x):
        return jnp.sum(attack(lambda y: scale * linear(weights)(y), x, KEYS) ** 2)

    for gradient in jax.grad(through, argnums=(0, 1))(1.0, images):
        assert not np.any(gradient)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"radius": -0.1}, "radius is -0.1"),
        ({"radius": np.nan}, "radius is nan"),
        ({"step_size": -1.0}, "step_size -1.0"),
        ({"norm": "l1"}, "norm is 'l1'"),
        ({"steps": -1}, "steps is -1"),
        ({"restarts": 0, "random_start": True}, "restarts is 0"),
        ({"restarts": 2}, "2 restarts from the same image"),
        ({"low": 1.0, "high": 1.0}, "the range is 1.0 to 1.0"),
        ({"low": (0.0, 2.0)}, r"the range is \(0.0, 2.0\)"),
    ],
)
def test_settings_that_cannot_be_meant(untyped, settings, message):
    with pytest.raises(ConfigError, match=message):
        Attack(**{"radius": 0.3, **settings})


def test_inputs_that_cannot_be_attacked(images):
    with pytest.raises(BatchError, match="uint8"):
        fgsm(0.3)(lambda x: jnp.sum(x), jnp.zeros((2, 3), jnp.uint8))
    with pytest.raises(ConfigError, match="no keys"):
        pgd(0.3)(lambda x: jnp.sum(x), images)


def test_defaults_are_those_of_the_papers():
    assert pgd(0.3, steps=10).step_size == pytest.approx(0.075)
    assert fgsm(0.3).step_size == 0.3
    assert fgsm(0.3, random_start=True).step_size == pytest.approx(0.375)
    assert pgd(0.3, steps=0).step_size == 0.75
