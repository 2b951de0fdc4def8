"""Steps collected from environments by a policy, and the returns of whole episodes.

Reads from: errors, data.environments. Used by: loops, by choice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from jaxdl.data.environments import Environments
from jaxdl.errors import BatchError, ConfigError, DataError

__all__ = ["collect", "episode_returns"]


def collect(
    environments: Environments,
    policy: Callable[[npt.NDArray[Any], int], Mapping[str, Any]],
    steps: int,
    *,
    start: int = 0,
) -> dict[str, npt.NDArray[Any]]:
    """Acts in every environment for some steps, from where it is.

    Args:
        environments: they go on from here at the next call.
        policy: ``(observations [B, ...], number of the step) -> fields``, each ``[B, ...]``, with
            ``action [B]`` among them. All fields are kept (``log_prob``, ``value``, ...). A policy
            that draws folds the number into its key.
        steps: ``T``.
        start: number of the first step: what was collected before.

    Returns:
        Arrays ``[B, T, ...]``: the policy's fields, and ``observation``, ``next_observation``
        (before any new episode), ``reward``, ``terminated``, ``truncated``.

    Raises:
        BatchError: the policy gave no ``action``, or a field that a step has already.
        ConfigError: ``steps`` is less than 1.
    """
    if steps < 1:
        raise ConfigError(
            f"collect got steps={steps}", expected="at least 1", do="collect a step or more"
        )
    kept: dict[str, list[npt.NDArray[Any]]] = {}
    for number in range(start, start + steps):
        seen = environments.observation
        done = {name: np.asarray(x) for name, x in policy(seen, number).items()}
        moved = environments.step(_action(done))
        step = {
            "observation": seen,
            "next_observation": moved.reached,
            "reward": moved.reward,
            "terminated": moved.terminated,
            "truncated": moved.truncated,
        }
        _check_names(done, step)
        for name, x in {**done, **step}.items():
            kept.setdefault(name, []).append(x)
    return {name: np.stack(xs, axis=1) for name, xs in kept.items()}


def episode_returns(
    environments: Environments,
    policy: Callable[[npt.NDArray[Any], int], Mapping[str, Any]],
    *,
    limit: int = 100_000,
) -> npt.NDArray[np.float64]:
    """The undiscounted return of the first episode of each environment: one a seed, none chosen.

    Args:
        environments: new ones.
        policy: as for ``collect``.
        limit: steps after which an episode is too long.

    Returns:
        Shape ``[B]``.

    Raises:
        DataError: an episode did not end within ``limit`` steps.
        BatchError: as ``collect``.
    """
    total = np.zeros(environments.count)
    running = np.ones(environments.count, bool)
    for number in range(limit):
        fields = policy(environments.observation, number)
        moved = environments.step(_action(fields))
        total += np.where(running, moved.reward, 0.0)
        running &= ~(moved.terminated | moved.truncated)
        if not running.any():
            return total
    raise DataError(
        f"{int(running.sum())} episodes were not over after {limit} steps",
        expected="episodes that end",
        do="raise limit, or give the environment a time limit",
    )


def _action(fields: Mapping[str, Any]) -> npt.NDArray[Any]:
    if "action" not in fields:
        raise BatchError(
            f"the policy gave {', '.join(fields) or 'nothing'}",
            expected="a field 'action' [B]",
            do="return {'action': ...} with whatever else is to be kept",
        )
    return np.asarray(fields["action"])


def _check_names(done: Mapping[str, Any], step: Mapping[str, Any]) -> None:
    both = sorted(set(done) & set(step))
    if both:
        raise BatchError(
            f"the policy gave {', '.join(both)}",
            expected="names that a collected step does not have already",
            do="rename them",
        )
