"""The noise: of the right size, drawn once, the same on every device, also in half precision."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdl
from jaxdl import gradients, privacy
from jaxdl.errors import ConfigError
from jaxdl.protocols import Aux, Objective

SIZE, SIGMA, CLIP, EXPECTED = 20_000, 1.5, 0.8, 4
DEVIATION = SIGMA * CLIP / EXPECTED
KEY = jax.random.key(11)
BATCH = {"x": np.ones((8, 1), np.float32), "mask": np.zeros(8, np.float32)}


def still(dtype=jnp.float32):
    """An objective of much to move and nothing that moves it: what moves is noise."""

    def loss(params, state, batch, key, *, train):
        total = jnp.sum(batch["mask"]) * (jnp.sum(params["a"]) + jnp.sum(params["b"]))
        return total, Aux(jnp.sum(batch["mask"]), state, {})

    zeros = {"a": jnp.zeros((SIZE,), dtype), "b": jnp.zeros((SIZE // 100, 100), dtype)}
    return Objective(lambda key, batch: (zeros, {}), loss)


def step_of(optimizer=None, dtype=jnp.float32):
    optimizer = optax.sgd(1.0) if optimizer is None else optimizer
    noise = privacy.noise(SIGMA, CLIP, expected_batch_size=EXPECTED, key=KEY)
    return jaxdl.make_train_step(
        still(dtype),
        optax.chain(noise, optimizer),
        gradient=gradients.private(CLIP, expected_batch_size=EXPECTED),
    )


def after(placed, steps=1):
    state = placed.init(0, BATCH)
    for _ in range(steps):
        state, _ = placed(state, placed.put(BATCH))
    return jax.tree.map(np.asarray, state.params)


def assert_noise(params, deviation):
    """Mean, deviation and shape of a normal distribution, each within five standard errors."""
    for values in jax.tree.leaves(params):
        z = np.asarray(values, np.float64).ravel() / deviation
        assert abs(z.mean()) < 5 / np.sqrt(SIZE)
        assert abs(z.var() - 1) < 5 * np.sqrt(2 / SIZE)
        assert abs((z**4).mean() - 3) < 5 * np.sqrt(96 / SIZE)


@pytest.fixture(scope="module")
def on_one(devices):
    return after(jaxdl.jit(step_of(), devices=devices[:1]))


def test_the_variance_on_one_device(on_one):
    assert_noise(on_one, DEVIATION)
    correlation = np.corrcoef(on_one["a"], on_one["b"].ravel())[0, 1]
    assert abs(correlation) < 5 / np.sqrt(SIZE)


@pytest.mark.parametrize("layout", [jaxdl.data_parallel, jaxdl.fsdp], ids=["data", "fsdp"])
def test_on_eight_devices_it_is_the_same_noise_added_once(on_one, layout, devices):
    got = after(jaxdl.jit(step_of(), layout=layout(), devices=devices))
    assert_noise(got, DEVIATION)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), got, on_one)


def test_under_pmap_it_is_the_same_noise_added_once(on_one, devices):
    got = after(jaxdl.pmap(step_of(), devices=devices))
    for values, expected in zip(jax.tree.leaves(got), jax.tree.leaves(on_one), strict=True):
        assert len(values) == 8
        for copy in values:
            np.testing.assert_allclose(copy, expected, atol=1e-6)


def test_every_step_draws_anew(on_one, devices):
    got = after(jaxdl.jit(step_of(), devices=devices[:1]), steps=3)
    assert_noise(got, DEVIATION * np.sqrt(3))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_noised_in_float32_and_then_rounded(dtype, on_one):
    step = step_of(optax.adam(1e-3), dtype)
    state = step.init(KEY, BATCH)
    new, _ = step.update(state, BATCH)
    assert {x.dtype for x in jax.tree.leaves(new.params)} == {jnp.dtype(dtype)}
    transform = privacy.noise(SIGMA, CLIP, expected_batch_size=EXPECTED, key=KEY)
    zeros = jax.tree.map(jnp.zeros_like, state.params)
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), zeros)
    rounded, _ = transform.update(wide, transform.init(zeros), zeros)
    # One unit in the last place, where a compiler rounds the float32 before in another way.
    for got, want in zip(jax.tree.leaves(rounded), jax.tree.leaves(on_one), strict=True):
        exact = -want.astype(dtype).astype(np.float32)
        np.testing.assert_allclose(got.astype(jnp.float32), exact, rtol=jnp.finfo(dtype).eps)
        assert (np.asarray(got, np.float32) == exact).mean() > 0.999


def test_without_params_the_noise_stays_float32():
    transform = privacy.noise(1.0, 1.0, expected_batch_size=1, key=KEY)
    grads = {"a": jnp.zeros(3, jnp.bfloat16), "gap": None}
    noised, _ = transform.update(grads, transform.init(grads))
    assert noised["a"].dtype == jnp.float32
    assert noised["gap"] is None


def test_the_noise_is_a_function_of_the_key():
    def drawn(key):
        transform = privacy.noise(1.0, 1.0, expected_batch_size=1, key=key)
        return transform.update(jnp.zeros(4), transform.init(jnp.zeros(4)))[0]

    np.testing.assert_array_equal(drawn(KEY), drawn(jax.random.key(11)))
    assert not np.array_equal(drawn(KEY), drawn(jax.random.key(12)))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"noise_multiplier": -1.0}, r"noise\(noise_multiplier=-1.0\)"),
        ({"noise_multiplier": float("nan")}, "noise_multiplier=nan"),
        ({"clip_norm": 0.0}, r"noise\(clip_norm=0.0\)"),
        ({"expected_batch_size": float("inf")}, "expected_batch_size=inf"),
        ({"key": jax.random.PRNGKey(0)}, "one typed key"),
        ({"key": jax.random.split(KEY)}, "one typed key"),
    ],
)
def test_what_cannot_be_noise_is_refused(given, message):
    options = {"noise_multiplier": 1.0, "clip_norm": 1.0, "expected_batch_size": 8, "key": KEY}
    options |= given
    with pytest.raises(ConfigError, match=message):
        privacy.noise(
            options["noise_multiplier"],
            options["clip_norm"],
            expected_batch_size=options["expected_batch_size"],
            key=options["key"],
        )


def test_a_key_must_be_given():
    with pytest.raises(TypeError, match="key"):
        privacy.noise(1.0, 1.0, expected_batch_size=8)


def test_a_blind_optimizer_is_not_told_the_loss():
    plateau = optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau())
    step = jaxdl.make_train_step(still(), privacy.blind(plateau))
    with pytest.raises(TypeError, match="value"):
        step.update(step.init(KEY, BATCH), BATCH)
    seeing = jaxdl.make_train_step(still(), plateau)
    seeing.update(seeing.init(KEY, BATCH), BATCH)
