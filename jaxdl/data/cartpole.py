"""CartPole in numpy: an environment that needs nothing installed.

Reads from: errors, data.environments. Used by: loops, by choice.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from jaxdl.data.environments import Moved, check_actions, environment_seeds
from jaxdl.errors import ConfigError

__all__ = ["CartPole"]


class CartPole:
    """Poles balanced on carts, pushed left (0) or right (1); as Gymnasium's ``CartPole-v1``.

    A reward of 1 a step until a pole leans more than 12 degrees or a cart leaves the track (2.4 m);
    500 steps are the limit. Observed are place (m), speed (m/s), angle (rad) and its speed
    (rad/s). Motion is by Euler's method in steps of 0.02 s, in float64.

    Source: Barto, Sutton, Anderson 1983, "Neuronlike adaptive elements that can solve difficult
    learning control problems"; constants as in Gymnasium, whose ``CartPole-v1`` with the same seeds
    gives the same episodes.

    Args:
        count: how many.
        seed: of the first states.
        limit: steps of an episode.

    Raises:
        ConfigError: there is to be no environment or no step.

    Examples:
        >>> poles = CartPole(2, seed=0)
        >>> poles.step(np.array([0, 1])).reward.tolist()
        [1.0, 1.0]
    """

    actions = 2

    def __init__(self, count: int, *, seed: int = 0, limit: int = 500) -> None:
        if count < 1 or limit < 1:
            raise ConfigError(
                f"CartPole got count={count} and limit={limit}",
                expected="at least 1 of each",
                do="ask for an environment and a step",
            )
        self.count, self._limit = count, limit
        self._rngs = [np.random.default_rng(s) for s in environment_seeds(seed, count)]
        self._state = np.stack([self._first(index) for index in range(count)])
        self._steps = np.zeros(count, np.int64)

    @property
    def observation(self) -> npt.NDArray[np.float32]:
        """Place, speed, angle and angular speed, shape ``[B, 4]``."""
        return self._state.astype(np.float32)

    def step(self, actions: npt.NDArray[Any]) -> Moved:
        """Pushes each cart.

        Args:
            actions: 0 or 1, shape ``[B]``.

        Raises:
            BatchError: there is not one action from 0 to 1 for each environment.
        """
        actions = check_actions(actions, self.count, self.actions)
        self._state = _pushed(self._state, np.where(actions == 1, 10.0, -10.0))
        self._steps += 1
        reached = self.observation
        place, angle = self._state[:, 0], self._state[:, 2]
        terminated = (np.abs(place) > 2.4) | (np.abs(angle) > np.deg2rad(12))
        truncated = self._steps >= self._limit
        for index in np.flatnonzero(terminated | truncated):
            self._state[index] = self._first(int(index))
            self._steps[index] = 0
        reward = np.ones(self.count, np.float32)
        return Moved(self.observation, reached, reward, terminated, truncated)

    def _first(self, index: int) -> npt.NDArray[np.float64]:
        return self._rngs[index].uniform(-0.05, 0.05, 4)


def _pushed(state: npt.NDArray[Any], force: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The carts after 0.02 s: 1 kg, poles of 0.1 kg and 1 m, no friction."""
    mass, pole, half, time = 1.1, 0.1, 0.5, 0.02
    place, speed, angle, turning = state.T
    cosine, sine = np.cos(angle), np.sin(angle)
    pull = (force + pole * half * np.square(turning) * sine) / mass
    torque = (9.8 * sine - cosine * pull) / (half * (4 / 3 - pole * np.square(cosine) / mass))
    acceleration = pull - pole * half * torque * cosine / mass
    return np.stack(
        [
            place + time * speed,
            speed + time * acceleration,
            angle + time * turning,
            turning + time * torque,
        ],
        axis=1,
    )
