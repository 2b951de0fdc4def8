"""Objectives of reinforcement learning: what they sum, and how the target network moves."""

from __future__ import annotations

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdl
from jaxdl import gradients, losses, models, objectives
from jaxdl.errors import BatchError, ObjectiveError

RATE = 0.25


class ActorCritic(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.tanh(nn.Dense(8)(x))
        return nn.Dense(3)(x), nn.Dense(1)(x)[..., 0]


def steps(rows: int = 12):
    rng = np.random.default_rng(0)
    logs = np.log(rng.uniform(0.2, 0.5, rows))
    return {
        "observation": rng.normal(size=(rows, 4)).astype(np.float32),
        "next_observation": rng.normal(size=(rows, 4)).astype(np.float32),
        "action": rng.integers(0, 3, rows).astype(np.int32),
        "log_prob": logs.astype(np.float32),
        "advantage": rng.normal(size=rows).astype(np.float32),
        "return": rng.normal(size=rows).astype(np.float32),
        "value": rng.normal(size=rows).astype(np.float32),
        "reward": rng.normal(size=rows).astype(np.float32),
        "terminated": rng.random(rows) < 0.3,
    }


def measured(objective, batch):
    params, state = objective.init(jax.random.key(0), batch)
    return params, objective.loss(params, state, batch, jax.random.key(1), train=True)


def test_ppo_is_equation_9():
    batch, model = steps(), ActorCritic()
    options = {"value_weight": 0.7, "entropy_weight": 0.1}
    params, (total, aux) = measured(objectives.ppo(model, **options), batch)
    logits, values = model.apply({"params": params}, batch["observation"])
    share = np.asarray(jax.nn.softmax(logits), np.float64)
    ratio = share[np.arange(12), batch["action"]] / np.exp(batch["log_prob"])
    gain = np.minimum(ratio * batch["advantage"], np.clip(ratio, 0.8, 1.2) * batch["advantage"])
    off = 0.5 * (np.asarray(values) - batch["return"]) ** 2
    entropy = -(share * np.log(share)).sum(1)
    assert float(total) == pytest.approx((-gain + 0.7 * off - 0.1 * entropy).sum(), rel=1e-4)
    assert float(aux.weight) == 12
    read = jaxdl.report(aux.metrics)
    assert read["clipped"] == pytest.approx((np.abs(ratio - 1) > 0.2).mean())
    assert read["old_kl"] == pytest.approx((ratio - 1 - np.log(ratio)).mean(), rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ppo", "policy_gradient"])
def test_padded_rows_count_nowhere(name):
    objective = getattr(objectives, name)(ActorCritic())
    batch = steps()
    wide = {k: np.concatenate([v, v[:4]]) for k, v in batch.items()}
    wide["mask"] = np.arange(16) < 12
    _, (total, aux) = measured(objective, batch)
    _, (again, aux_again) = measured(objective, wide)
    assert float(total) == pytest.approx(float(again), rel=1e-6)
    for a, b in zip(jax.tree.leaves(aux.metrics), jax.tree.leaves(aux_again.metrics), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


@pytest.mark.slow
def test_the_baseline_changes_the_gradient_of_the_policy_by_its_value_alone():
    batch, model = steps(), ActorCritic()
    objective = objectives.policy_gradient(model, value_weight=0.0)
    params, _ = objective.init(jax.random.key(0), batch)
    gradient = jax.grad(lambda p: objective.loss(p, {}, batch, jax.random.key(1), train=True)[0])(
        params
    )
    assert not np.any(gradient["Dense_2"]["kernel"])

    def by_hand(params):
        logits, values = model.apply({"params": params}, batch["observation"])
        log = jax.nn.log_softmax(logits)[jnp.arange(12), batch["action"]]
        return -jnp.sum(log * jax.lax.stop_gradient(batch["return"] - values))

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        gradient,
        jax.grad(by_hand)(params),
    )


def test_a_policy_without_a_value_has_no_baseline():
    batch, model = steps(), models.MLP((8, 3))
    params, (total, aux) = measured(objectives.policy_gradient(model), batch)
    logits = model.apply({"params": params}, batch["observation"])
    each = losses.policy_gradient(logits, batch["action"], batch["return"])
    assert float(total) == pytest.approx(float(each.sum()), rel=1e-5)
    assert set(aux.metrics) == {"entropy"}


def run_dqn(place=jaxdl.jit, devices=1, microbatches=1, count=6, **rule):
    objective = objectives.dqn(models.MLP((8, 3)), double=True)
    estimator = gradients.accumulate(microbatches) if microbatches > 1 else None
    pure = jaxdl.make_train_step(objective, optax.sgd(0.1), gradient=estimator)
    step = place(objectives.moving_target(pure, **rule), devices=jax.devices()[:devices])
    state, trail = step.init(0, steps(16)), []
    for _ in range(count):
        state, _ = step(state, steps(16))
        host = jaxdl.from_pmap_state(state) if place is jaxdl.pmap else state
        trail.append(jax.device_get((host.params, host.model_state["target"])))
    return trail


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def test_the_target_stands_still_and_then_becomes_the_network():
    trail = [(flat(params), flat(target)) for params, target in run_dqn(every=3)]
    np.testing.assert_array_equal(trail[0][1], trail[1][1])
    assert not np.array_equal(trail[1][0], trail[1][1])
    np.testing.assert_array_equal(trail[2][1], trail[2][0])
    np.testing.assert_array_equal(trail[4][1], trail[2][0])
    np.testing.assert_array_equal(trail[5][1], trail[5][0])


def test_the_target_follows_by_a_share():
    trail = [(flat(params), flat(target)) for params, target in run_dqn(rate=RATE, count=3)]
    for (_, before), (params, target) in itertools.pairwise(trail):
        np.testing.assert_allclose(target, before + RATE * (params - before), rtol=1e-5, atol=1e-7)


def test_microbatches_do_not_change_when_the_target_moves():
    expected = run_dqn(every=2, count=5)[-1]
    found = run_dqn(devices=2, microbatches=4, every=2, count=5)[-1]
    np.testing.assert_allclose(flat(found), flat(expected), rtol=1e-4, atol=1e-6)


def test_dqn_by_hand():
    batch, model = steps(), models.MLP((8, 3))
    objective = objectives.dqn(model, discount=0.9)
    params, _ = objective.init(jax.random.key(0), batch)
    target = jax.tree.map(lambda x: x + 0.1, params)
    total, aux = objective.loss(params, {"target": target}, batch, None, train=False)
    q = np.asarray(model.apply({"params": params}, batch["observation"]))
    after = np.asarray(model.apply({"params": target}, batch["next_observation"])).max(1)
    wanted = batch["reward"] + 0.9 * after * ~batch["terminated"]
    error = np.abs(q[np.arange(12), batch["action"]] - wanted)
    expected = np.where(error <= 1, 0.5 * error**2, error - 0.5).sum()
    assert float(total) == pytest.approx(expected, rel=1e-5)
    assert aux.model_state["target"] is target


class Normed(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.BatchNorm(use_running_average=True)(x)


def test_wrong_use_is_told():
    with pytest.raises(ObjectiveError, match="returned a"):
        measured(objectives.ppo(models.MLP((8, 3))), steps())
    with pytest.raises(ObjectiveError, match="batch_stats"):
        measured(objectives.dqn(Normed()), steps())
    pure = jaxdl.make_train_step(objectives.dqn(models.MLP((8, 3))), optax.sgd(0.1))
    for rule in ({}, {"every": 0}, {"rate": 1.5}, {"every": 2, "rate": 0.5}):
        with pytest.raises(ObjectiveError, match="moving_target got"):
            objectives.moving_target(pure, **rule)
    batch = steps()
    del batch["log_prob"]
    with pytest.raises(BatchError, match="log_prob"):
        measured(objectives.ppo(ActorCritic()), batch)
