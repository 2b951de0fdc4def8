"""PPO on CartPole: a loop of one's own, since a policy makes the data that it learns from.

Run it with ``python examples/cartpole.py``; ``--environment LunarLander-v3`` and the like take one
of Gymnasium's (the extra ``rl``), with discrete actions; without it CartPole is jaxdl's own.

It is no recipe: there batch ``k`` follows from a seed and ``k``, here it follows from the
parameters too. A run is still replayable: all that is drawn follows from ``--seed``. What is
jaxdl's: the step (compiled once for all of the run), its place, the objective, the advantages, the
environments.

Measured, seed 0: after 98,304 steps of 16 environments a mean return of 500.0, the highest there
is, over 100 episodes of other seeds, in 10 s on 2 CPU cores.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxdl
from jaxdl import data, losses, objectives

EVALUATED = 100


@dataclass(frozen=True)
class Config:
    """Settings, all on the command line."""

    environment: str = "CartPole"
    """CartPole is jaxdl's own; other names are Gymnasium's."""
    steps: int = 100_000
    """Steps of environments in all."""
    count: int = 16
    """Environments side by side."""
    length: int = 128
    """Steps of each environment between two rounds of updates."""
    epochs: int = 8
    """How often a round reads what was collected."""
    batch_size: int = 256
    """Rows of an update; divides count times length."""
    learning_rate: float = 2e-3
    """Of Adam at the start; it falls to 0 at the end."""
    discount: float = 0.99
    """What a reward is worth a step later."""
    decay: float = 0.95
    """Of generalized advantages: how far they look."""
    entropy_weight: float = 0.005
    """How much the policy is kept from being sure."""
    width: int = 64
    """Of the hidden layers."""
    seed: int = 0
    """Of parameters, actions, environments and the order of rows."""


class ActorCritic(nn.Module):
    """Two networks of two hidden layers: the policy, and the value of a state.

    Orthogonal kernels; the policy's last is small, so that it begins near uniform (Andrychowicz et
    al. 2020, arXiv:2006.05990, section 3.2).
    """

    actions: int
    width: int

    @nn.compact
    def __call__(self, observation: Any) -> tuple[jax.Array, jax.Array]:
        """Maps ``[B, ...]`` to logits ``[B, A]`` and values ``[B]``."""
        x = jnp.asarray(observation, jnp.float32).reshape(len(observation), -1)

        def head(name: str, outputs: int, scale: float) -> jax.Array:
            y = x
            for index in range(2):
                first = nn.initializers.orthogonal(2**0.5)
                y = nn.tanh(nn.Dense(self.width, kernel_init=first, name=f"{name}_{index}")(y))
            last = nn.initializers.orthogonal(scale)
            return nn.Dense(outputs, kernel_init=last, name=f"{name}_out")(y)

        return head("policy", self.actions, 0.01), head("value", 1, 1.0)[:, 0]


class Policy:
    """A network that acts: what ``data.collect`` calls."""

    def __init__(self, model: ActorCritic, params: Any, key: Any) -> None:
        self.params, self._key = params, key

        def outputs(params: Any, seen: Any) -> Any:
            return model.apply({"params": params}, seen)

        @jax.jit
        def act(params: Any, seen: Any, number: Any) -> dict[str, jax.Array]:
            logits, value = outputs(params, seen)
            action = jax.random.categorical(jax.random.fold_in(key, number), logits)
            log_prob = losses.action_log_probability(logits, action)
            return {"action": action, "log_prob": log_prob, "value": value}

        @jax.jit
        def best(params: Any, seen: Any) -> dict[str, jax.Array]:
            return {"action": jnp.argmax(outputs(params, seen)[0], axis=-1)}

        @jax.jit
        def values(params: Any, seen: Any) -> jax.Array:
            flat = seen.reshape(-1, *seen.shape[2:])
            return outputs(params, flat)[1].reshape(seen.shape[:2])

        self._act, self._best, self._values = act, best, values

    def __call__(self, seen: Any, number: int) -> dict[str, jax.Array]:
        """An action of each environment, drawn."""
        return self._act(self.params, seen, number)

    def best(self, seen: Any, number: int) -> dict[str, jax.Array]:
        """The likeliest action of each."""
        del number
        return self._best(self.params, seen)

    def values(self, seen: Any) -> jax.Array:
        """Of states ``[B, T, ...]``."""
        return self._values(self.params, seen)


def environments(config: Config, count: int, seed: int) -> data.Environments:
    """As the settings say."""
    if config.environment == "CartPole":
        return data.CartPole(count, seed=seed)
    return data.GymnasiumEnvironments(config.environment, count, seed=seed)


def rows(collected: dict[str, Any], policy: Policy, config: Config) -> dict[str, Any]:
    """What was collected as rows that the objective reads, advantages included."""
    next_values = policy.values(collected["next_observation"])
    advantages = losses.generalized_advantages(
        collected["reward"],
        collected["value"],
        next_values,
        collected["terminated"],
        collected["truncated"],
        discount=config.discount,
        decay=config.decay,
    )
    known = {
        "observation": collected["observation"],
        "action": collected["action"],
        "log_prob": collected["log_prob"],
        "advantage": losses.normalized_advantages(advantages),
        "return": advantages + collected["value"],
    }
    return {name: np.asarray(x).reshape(-1, *x.shape[2:]) for name, x in known.items()}


def batches(rows: dict[str, Any], config: Config, number: int) -> Iterator[dict[str, Any]]:
    """The rows, ``epochs`` times, each time in an order of its own."""
    count = len(rows["action"])
    for epoch in range(config.epochs):
        order = np.random.default_rng((config.seed, number, epoch)).permutation(count)
        for start in range(0, count, config.batch_size):
            chosen = order[start : start + config.batch_size]
            yield {name: x[chosen] for name, x in rows.items()}


def updates(config: Config) -> int:
    """How many steps of the optimizer the run takes."""
    collected = config.count * config.length
    if collected % config.batch_size:
        raise jaxdl.errors.ConfigError(
            f"batch_size {config.batch_size} does not divide {config.count} x {config.length} rows",
            expected="a divisor, so that every batch is full",
            do="change batch_size, count or length",
        )
    rounds = max(config.steps // collected, 1)
    return rounds * config.epochs * (collected // config.batch_size)


def main(config: Config) -> float:
    """Trains and returns the mean return of 100 episodes that training never saw."""
    total, began = updates(config), time.perf_counter()
    places = environments(config, config.count, config.seed)
    model = ActorCritic(places.actions, config.width)
    objective = objectives.ppo(model, entropy_weight=config.entropy_weight)
    rate = optax.linear_schedule(config.learning_rate, 0.0, total)
    optimizer = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(rate, eps=1e-5))
    # One device: the network is small, and what acts is beside what learns.
    step = jaxdl.jit(jaxdl.make_train_step(objective, optimizer), layout=jaxdl.layouts.single())
    seen = places.observation
    zero = np.zeros(len(seen), np.float32)
    named = dict.fromkeys(("log_prob", "advantage", "return"), zero)
    first = {"observation": seen, "action": zero.astype(np.int32), **named}
    state = step.init(
        config.seed, {k: np.resize(x, (config.batch_size, *x.shape[1:])) for k, x in first.items()}
    )
    policy = Policy(model, state.params, jax.random.key(config.seed + 1))
    rounds = max(config.steps // (config.count * config.length), 1)
    for number in range(rounds):
        policy.params = state.params
        collected = data.collect(
            policy=policy, environments=places, steps=config.length, start=number * config.length
        )
        window: list[Any] = []
        for batch in batches(rows(collected, policy, config), config, number):
            state, sums = step(state, batch)
            window.append(sums)
        if (number + 1) % 10 == 0 or number + 1 == rounds:
            show(number + 1, config, collected, window)
    policy.params = state.params
    fresh = environments(config, EVALUATED, config.seed + 1_000_003)
    score = float(np.mean(data.episode_returns(fresh, policy.best)))
    print(
        f"mean return of {EVALUATED} episodes: {score:.1f}  ({time.perf_counter() - began:.0f} s)"
    )
    return score


def show(number: int, config: Config, collected: dict[str, Any], window: list[Any]) -> None:
    """One line of progress."""
    report = jaxdl.report(jaxdl.metrics.total(window))
    ends = int(np.sum(collected["terminated"] | collected["truncated"]))
    print(
        f"steps {number * config.count * config.length:>8,}  episodes ended {ends:>4}  "
        f"reward {collected['reward'].sum() / max(ends, 1):7.1f} an episode  "
        f"entropy {report['entropy']:.3f}  old_kl {report['old_kl']:.4f}"
    )


def parsed() -> Config:
    """The settings on the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for field in dataclasses.fields(Config):
        default: Any = field.default
        name = f"--{field.name.replace('_', '-')}"
        parser.add_argument(name, type=type(default), default=default, help=f"default: {default}")
    return Config(**vars(parser.parse_args()))


if __name__ == "__main__":
    main(parsed())
