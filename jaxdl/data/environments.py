"""Environments of reinforcement learning side by side: what they are, and those of Gymnasium.

Many environments take a step at once, so that a policy is called on a batch. All randomness comes
from seeds: the same policy in environments of the same seed collects the same steps.

Reads from: errors. Used by: data.cartpole, data.collecting, loops.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from jaxdl.errors import BatchError, ConfigError, DataError

__all__ = ["Environments", "GymnasiumEnvironments", "Moved", "check_actions", "environment_seeds"]


class Moved(NamedTuple):
    """What a step of ``B`` environments led to.

    Attributes:
        observation: to act on next, shape ``[B, ...]``: of a new episode where one ended.
        reached: what the step itself led to, before any new episode, shape ``[B, ...]``.
        reward: float32 ``[B]``.
        terminated: booleans ``[B]``: nothing follows.
        truncated: booleans ``[B]``: cut short, as by a time limit.
    """

    observation: npt.NDArray[Any]
    reached: npt.NDArray[Any]
    reward: npt.NDArray[Any]
    terminated: npt.NDArray[Any]
    truncated: npt.NDArray[Any]


@runtime_checkable
class Environments(Protocol):
    """``B`` environments with discrete actions that begin a new episode where one ends.

    Attributes:
        count: ``B``.
        actions: how many actions there are.
        observation: what the policy sees now, shape ``[B, ...]``.
    """

    @property
    def count(self) -> int:
        """``B``."""
        ...

    @property
    def actions(self) -> int:
        """How many actions there are."""
        ...

    @property
    def observation(self) -> npt.NDArray[Any]:
        """What the policy sees now, shape ``[B, ...]``."""
        ...

    def step(self, actions: npt.NDArray[Any]) -> Moved:
        """Takes one step in each environment."""
        ...


class GymnasiumEnvironments:
    """Environments of Gymnasium (the extra ``rl``) with discrete actions and array observations.

    Args:
        name: as registered, such as ``CartPole-v1``.
        count: how many.
        seed: of all of them; each has its own from it.
        **options: for ``gymnasium.make``.

    Raises:
        DataError: Gymnasium is not installed.
        ConfigError: there is no such environment, or its actions or observations are of another
            kind.
    """

    def __init__(self, name: str, count: int, *, seed: int = 0, **options: Any) -> None:
        self._made = _made(name, count, options)
        self.count = count
        self.actions, self._low = _discrete(self._made[0], name)
        first = [
            env.reset(seed=s)[0]
            for env, s in zip(self._made, environment_seeds(seed, count), strict=True)
        ]
        self._now = np.stack([np.asarray(x) for x in first])

    @property
    def observation(self) -> npt.NDArray[Any]:
        """What the policy sees now, shape ``[B, ...]``."""
        return self._now.copy()

    def step(self, actions: npt.NDArray[Any]) -> Moved:
        """Takes one step in each environment.

        Args:
            actions: from 0, shape ``[B]``.

        Raises:
            BatchError: there is not one action of those there are for each environment.
        """
        actions = check_actions(actions, self.count, self.actions)
        results = [
            env.step(int(action) + self._low)
            for env, action in zip(self._made, actions, strict=True)
        ]
        reached = np.stack([np.asarray(result[0]) for result in results])
        reward = np.asarray([result[1] for result in results], np.float32)
        terminated = np.asarray([bool(result[2]) for result in results])
        truncated = np.asarray([bool(result[3]) for result in results])
        self._now = reached.copy()
        for index in np.flatnonzero(terminated | truncated):
            self._now[index] = self._made[int(index)].reset()[0]
        return Moved(self.observation, reached, reward, terminated, truncated)

    def close(self) -> None:
        """Closes what the environments hold open."""
        for env in self._made:
            env.close()


def environment_seeds(seed: int, count: int) -> list[int]:
    """A seed for each environment; those of one seed and of the next have nothing in common.

    Args:
        seed: of all of them.
        count: how many.
    """
    return [int(np.random.SeedSequence((seed, k)).generate_state(1)[0]) for k in range(count)]


def _made(name: str, count: int, options: Mapping[str, Any]) -> Sequence[Any]:
    try:
        import gymnasium
    except ImportError as error:
        raise DataError(
            f"the environment {name!r} is Gymnasium's, which is not installed",
            expected="the package gymnasium",
            do="pip install 'jaxdl[rl]', or use data.CartPole, which needs nothing",
        ) from error
    if count < 1:
        raise ConfigError(
            f"GymnasiumEnvironments got count={count}", expected="at least 1", do="ask for one"
        )
    try:
        return [gymnasium.make(name, **options) for _ in range(count)]
    except gymnasium.error.Error as error:
        raise ConfigError(
            f"Gymnasium makes no {name!r}: {error}",
            expected="the name of a registered environment, and what it needs installed",
            do="see gymnasium.envs.registry for the names",
        ) from error


def _discrete(env: Any, name: str) -> tuple[int, int]:
    """How many actions there are, and Gymnasium's number of the first."""
    actions, observations = env.action_space, env.observation_space
    if type(actions).__name__ != "Discrete" or type(observations).__name__ != "Box":
        raise ConfigError(
            f"{name!r} has actions {actions} and observations {observations}",
            expected="Discrete actions and Box observations",
            do="wrap the environment, or write a class with the members of data.Environments",
        )
    return int(actions.n), int(actions.start)


def check_actions(actions: Any, count: int, known: int) -> npt.NDArray[np.int64]:
    """One action for each environment.

    Args:
        actions: from a policy.
        count: how many environments there are.
        known: how many actions there are.

    Raises:
        BatchError: they are no integers ``[count]`` from 0 to ``known - 1``.
    """
    actions = np.asarray(actions)
    whole = np.issubdtype(actions.dtype, np.integer) and actions.shape == (count,)
    if not whole or (actions < 0).any() or (actions >= known).any():
        raise BatchError(
            f"got actions of shape {list(actions.shape)} and dtype {actions.dtype}",
            expected=f"integers from 0 to {known - 1}, shape {[count]}",
            do="give each environment one action",
        )
    return actions.astype(np.int64)
