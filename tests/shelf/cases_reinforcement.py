"""The objectives of reinforcement learning on fixed batches."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import numpy as np
from shelf_case import Case

import jaxdl
from jaxdl import objectives


class ActorCritic(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = nn.tanh(nn.Dense(8)(x))
        return nn.Dense(3)(x), nn.Dense(1)(x)[..., 0]


def steps(rows: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)

    def floats(*shape: int) -> np.ndarray:
        return rng.normal(size=(rows, *shape)).astype(np.float32)

    return {
        "observation": floats(4),
        "next_observation": floats(4),
        "action": rng.integers(0, 3, rows).astype(np.int32),
        "log_prob": np.log(rng.uniform(0.2, 0.5, rows)).astype(np.float32),
        "advantage": floats(),
        "return": floats(),
        "value": floats(),
        "reward": floats(),
        "terminated": (rng.random(rows) < 0.3).astype(np.int32),
    }


def case(name: str, made: Callable[[], jaxdl.Objective]) -> Case:
    def objective(dtype, _):
        return made() if dtype is None else objectives.with_precision(made(), "bf16")

    return Case(name, objective, steps)


CASES = [
    case("policy_gradient", lambda: objectives.policy_gradient(ActorCritic())),
    case("ppo", lambda: objectives.ppo(ActorCritic(), value_clip=0.2)),
    case("dqn", lambda: objectives.dqn(jaxdl.models.MLP((8, 3)))),
]
