"""Every optimizer by shared contracts, and the article's formulas by hand."""

from __future__ import annotations

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdl import optimizers
from jaxdl.errors import ConfigError, PathError
from jaxdl.optimizers import OptimizerConfig, OptimizerName
from jaxdl.schedules import ScheduleName, make_schedule
from jaxdl.tree_paths import leaf_paths

NAMES = get_args(OptimizerName)
RATES = {"lars": 30.0}


def parameters(dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0))
    return {
        "dense": {
            "kernel": jax.random.normal(keys[0], (4, 3), dtype),
            "bias": jax.random.normal(keys[1], (3,), dtype),
        }
    }


def gradients_like(params, seed=1):
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    drawn = [jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, drawn)


def signature(tree):
    return jax.tree.map(lambda x: (jnp.shape(x), x.dtype, getattr(x, "weak_type", False)), tree)


def build(name: str, **options) -> optax.GradientTransformation:
    return OptimizerConfig(name=name, learning_rate=RATES.get(name, 0.1), **options).build(50)


@pytest.mark.parametrize("schedule", get_args(ScheduleName))
@pytest.mark.parametrize("name", NAMES)
def test_state_is_a_fixed_point(name, schedule):
    optimizer = build(
        name, schedule=schedule, warmup_steps=5, boundaries=(10,), weight_decay=0.01, clip_norm=1.0
    )
    params = parameters()

    def update(state, grads, params):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state = jax.eval_shape(optimizer.init, params)
    new_params, new_state = jax.eval_shape(update, state, params, params)
    assert jax.tree.structure(state) == jax.tree.structure(new_state)
    assert signature(new_state) == signature(state)
    assert signature(new_params) == signature(jax.eval_shape(lambda: params))


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_parameters_stay(name):
    optimizer, params = build(name), parameters(jnp.bfloat16)
    updates, _ = optimizer.update(gradients_like(params), optimizer.init(params), params)
    kept = optax.apply_updates(params, updates)
    assert {x.dtype for x in jax.tree.leaves(kept)} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize("name", NAMES)
def test_converges_on_a_bowl(name):
    optimizer = build(name, schedule="linear")
    params = parameters()

    def loss(params):
        return sum(jnp.sum(jnp.square(x - 0.5)) for x in jax.tree.leaves(params))

    @jax.jit
    def update(params, state):
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    state, start = optimizer.init(params), loss(params)
    for _ in range(50):
        params, state = update(params, state)
    assert loss(params) < 0.3 * start
    assert update._cache_size() == 1


def test_gradient_descent_by_the_article():
    r""":math:`\theta \leftarrow \theta - \eta g`, three times."""
    optimizer, params = optimizers.gradient_descent(0.3), parameters()
    by_hand = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    state = optimizer.init(params)
    for seed in range(3):
        grads = gradients_like(params, seed)
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        by_hand = jax.tree.map(lambda p, g: p - 0.3 * np.asarray(g, np.float64), by_hand, grads)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), params, by_hand
    )


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_by_hand(nesterov):
    optimizer, params = optimizers.sgd(0.1, momentum=0.8, nesterov=nesterov), parameters()
    p = np.asarray(params["dense"]["kernel"], np.float64)
    v, state = np.zeros_like(p), optimizer.init(params)
    for seed in range(4):
        grads = gradients_like(params, seed)
        g = np.asarray(grads["dense"]["kernel"], np.float64)
        v = 0.8 * v + g
        p = p - 0.1 * (g + 0.8 * v if nesterov else v)
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params["dense"]["kernel"], p, rtol=1e-5, atol=1e-6)


def adam_by_hand(grads, *, corrected: bool, rate=0.01, b1=0.9, b2=0.999, eps=1e-8):
    """The steps that Adam takes: Kingma & Ba's, or the article's without bias correction."""
    m = v = np.zeros_like(grads[0])
    steps = []
    for t, g in enumerate(grads, start=1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        first = m / (1 - b1**t) if corrected else m
        second = v / (1 - b2**t) if corrected else v
        steps.append(-rate * first / (np.sqrt(second) + eps))
    return steps


def test_adam_is_the_papers_and_the_articles_up_to_bias_correction():
    optimizer, params = optimizers.adam(0.01), {"w": jnp.zeros((5,))}
    state = optimizer.init(params)
    drawn = [np.random.default_rng(t).normal(size=5) for t in range(6)]
    ours = []
    for g in drawn:
        updates, state = optimizer.update({"w": jnp.asarray(g, jnp.float32)}, state, params)
        ours.append(np.asarray(updates["w"]))
    np.testing.assert_allclose(ours, adam_by_hand(drawn, corrected=True), rtol=1e-4)
    article = adam_by_hand(drawn, corrected=False, eps=0.0)
    for t, (step, plain) in enumerate(zip(ours, article, strict=True), start=1):
        factor = np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        np.testing.assert_allclose(step, plain * factor, rtol=1e-3)
    first = np.abs(article[0] / ours[0])
    np.testing.assert_allclose(first, 0.1 / np.sqrt(0.001), rtol=1e-3)


@pytest.mark.parametrize("name", ["adamw", "lion", "lamb", "muon", "sgd", "adam"])
def test_decay_spares_biases_by_default(name):
    """With a gradient of zero only decay moves a parameter."""
    optimizer, params = build(name, weight_decay=0.1), parameters()
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    np.testing.assert_array_equal(updates["dense"]["bias"], 0.0)
    assert np.all(np.asarray(updates["dense"]["kernel"]) != 0.0)


def test_decay_by_pattern():
    optimizer = optimizers.adamw(0.1, weight_decay=0.1, decay_mask="bias$")
    params = parameters()
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    np.testing.assert_allclose(updates["dense"]["bias"], -0.01 * params["dense"]["bias"], rtol=1e-5)
    np.testing.assert_array_equal(updates["dense"]["kernel"], 0.0)
    with pytest.raises(PathError, match="matches no parameter"):
        wrong = optimizers.adamw(0.1, decay_mask="weight$")
        wrong.update(zeros, wrong.init(params), params)


def test_frozen_parameters_have_no_state():
    optimizer, params = optimizers.freeze(optax.adam(0.1), "kernel$"), parameters()
    state = optimizer.init(params)
    moments = [p for p in leaf_paths(state) if "/mu/" in p or "/nu/" in p]
    assert moments
    assert all("bias" in path for path in moments)
    updates, _ = optimizer.update(gradients_like(params), state, params)
    np.testing.assert_array_equal(updates["dense"]["kernel"], 0.0)
    assert np.all(np.asarray(updates["dense"]["bias"]) != 0.0)
    with pytest.raises(PathError, match="matches no parameter"):
        optimizers.freeze(optax.adam(0.1), "kernle").init(params)


def test_clipping_is_by_the_global_norm():
    optimizer, params = (
        OptimizerConfig(name="gradient_descent", learning_rate=1.0, clip_norm=0.5).build(1),
        parameters(),
    )
    updates, _ = optimizer.update(gradients_like(params), optimizer.init(params), params)
    assert float(optax.tree.norm(updates)) == pytest.approx(0.5, rel=1e-5)


def test_schedules_meet_their_ends():
    rate = make_schedule("cosine", 2.0, steps=100, warmup_steps=10)
    assert [float(rate(s)) for s in (0, 5, 10, 55, 100)] == pytest.approx([0, 1, 2, 1, 0])
    rate = make_schedule("rsqrt", 2.0, steps=100, warmup_steps=10)
    assert [float(rate(s)) for s in (10, 40)] == pytest.approx([2.0, 1.0])
    rate = make_schedule("piecewise", 1.0, steps=100, boundaries=(30, 60), factor=0.5)
    assert [float(rate(s)) for s in (0, 29, 31, 61)] == pytest.approx([1, 1, 0.5, 0.25])
    rate = make_schedule("constant", 0.3, steps=5)
    assert float(rate(4)) == pytest.approx(0.3)


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "adamm"}, "no optimizer 'adamm'(.|\n)*did you mean 'adam'"),
        ({"schedule": "cosin"}, "no schedule 'cosin'(.|\n)*did you mean 'cosine'"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0"),
        ({"momentum": 1.0}, "momentum is 1.0"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1"),
        ({"warmup_steps": 10}, "warmup_steps is 10 in a run of 10 steps"),
        ({"clip_norm": 0.0}, "clip_norm is 0.0"),
        ({"schedule": "piecewise"}, "has no boundaries"),
        ({"schedule": "piecewise", "boundaries": (50,)}, r"boundaries \[50\] lie outside"),
    ],
)
def test_wrong_settings_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        OptimizerConfig(**options).build(10)
