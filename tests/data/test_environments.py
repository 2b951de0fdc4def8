"""Environments: CartPole is Gymnasium's, and what is collected is what happened."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from jaxdl import data
from jaxdl.errors import BatchError, ConfigError, DataError


def wobbling(seed: int):
    """A policy that draws by the step's number alone."""

    def policy(seen, number):
        rng = np.random.default_rng((seed, number))
        return {"action": rng.integers(0, 2, len(seen)), "number": np.full(len(seen), number)}

    return policy


def balancing(seen, number):
    del number
    return {"action": (seen[:, 2] + 0.5 * seen[:, 3] > 0).astype(int)}


@pytest.mark.parametrize("policy", [wobbling(1), balancing], ids=["falls", "stands"])
def test_cartpole_is_gymnasiums(policy):
    pytest.importorskip("gymnasium")
    theirs = data.GymnasiumEnvironments("CartPole-v1", 4, seed=5)
    found = data.collect(data.CartPole(4, seed=5), policy, 520)
    expected = data.collect(theirs, policy, 520)
    theirs.close()
    assert found.keys() == expected.keys()
    assert found["terminated"].any() != found["truncated"].any()
    for name, values in expected.items():
        assert found[name].dtype == values.dtype, name
        np.testing.assert_allclose(found[name], values, rtol=1e-6, atol=1e-6, err_msg=name)


def test_the_state_reached_is_not_the_one_that_follows_a_reset():
    found = data.collect(data.CartPole(3, seed=0), wobbling(0), 200)
    ends = found["terminated"] | found["truncated"]
    here, reached = found["observation"], found["next_observation"]
    goes_on = ~ends[:, :-1]
    np.testing.assert_array_equal(here[:, 1:][goes_on], reached[:, :-1][goes_on])
    assert np.all(np.abs(here[:, 1:][ends[:, :-1]]) <= 0.05)
    fell = np.abs(reached[found["terminated"]])
    assert np.all((fell[:, 0] > 2.4) | (fell[:, 2] > np.deg2rad(12)))


def test_collecting_twice_goes_on_and_the_same_seed_is_the_same_run():
    whole = data.collect(data.CartPole(3, seed=2), wobbling(0), 60)
    poles = data.CartPole(3, seed=2)
    first = data.collect(poles, wobbling(0), 25)
    second = data.collect(poles, wobbling(0), 35, start=25)
    for name, values in whole.items():
        np.testing.assert_array_equal(np.concatenate([first[name], second[name]], 1), values)
    other = data.collect(data.CartPole(3, seed=3), wobbling(0), 60)
    assert not np.array_equal(other["observation"][:, 0], whole["observation"][:, 0])
    assert len(np.unique(whole["observation"][:, 0, 0])) == 3


def test_the_time_limit_truncates():
    found = data.collect(data.CartPole(2, seed=0, limit=7), balancing, 21)
    assert np.flatnonzero(found["truncated"][0]).tolist() == [6, 13, 20]
    assert not found["terminated"].any()


def test_returns_are_of_each_environments_first_episode():
    assert data.episode_returns(data.CartPole(3, limit=11), balancing).tolist() == [11.0] * 3
    found = data.collect(data.CartPole(5, seed=1), wobbling(4), 300)
    first = np.argmax(found["terminated"], axis=1) + 1
    returns = data.episode_returns(data.CartPole(5, seed=1), wobbling(4))
    assert returns.tolist() == first.tolist()


def test_wrong_use_is_told(monkeypatch):
    poles = data.CartPole(2)
    for actions in (np.zeros(3, int), np.array([0, 2]), np.zeros(2)):
        with pytest.raises(BatchError, match="got actions of shape"):
            poles.step(actions)
    with pytest.raises(ConfigError, match="count=0"):
        data.CartPole(0)
    with pytest.raises(BatchError, match="expected: a field 'action'|gave move"):
        data.collect(poles, lambda seen, number: {"move": np.zeros(2, int)}, 1)
    with pytest.raises(BatchError, match="gave reward"):
        data.collect(
            poles, lambda seen, number: {"action": np.zeros(2, int), "reward": np.zeros(2)}, 1
        )
    with pytest.raises(DataError, match="not over after 5 steps"):
        data.episode_returns(data.CartPole(2), balancing, limit=5)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "gymnasium", None)
        with pytest.raises(DataError, match="not installed"):
            data.GymnasiumEnvironments("CartPole-v1", 1)


def test_environments_of_another_kind_are_refused():
    pytest.importorskip("gymnasium")
    with pytest.raises(ConfigError, match="makes no 'CartPoole-v1'"):
        data.GymnasiumEnvironments("CartPoole-v1", 1)
    with pytest.raises(ConfigError, match="Discrete actions and Box"):
        data.GymnasiumEnvironments("Pendulum-v1", 1)
    taxi = "FrozenLake-v1"
    with pytest.raises(ConfigError, match="Discrete actions and Box"):
        data.GymnasiumEnvironments(taxi, 1)
