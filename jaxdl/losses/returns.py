"""Returns and advantages of episodes: what the losses of reinforcement learning are weighted by.

Everything is ``[B, T]``: ``T`` steps of ``B`` environments, several episodes in a row. An episode
ends in two ways. ``terminated``: nothing follows, so nothing is added. ``truncated`` (a time limit,
or the end of what was collected): something would have followed, and its value stands for it.

Reads from: errors. Used by: recipes and loops, by choice.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxdl.errors import BatchError

__all__ = ["discounted_returns", "generalized_advantages", "normalized_advantages"]


def discounted_returns(
    rewards: Any,
    terminated: Any,
    truncated: Any,
    *,
    discount: float,
    next_values: Any = None,
    mask: Any = None,
) -> jax.Array:
    r"""The discounted sum of what follows each step, :math:`R_t = r_t + \gamma R_{t+1}`.

    Where an episode was truncated, and at the last step of a row, :math:`R_{t+1}` is the value of
    the state that was reached.

    Args:
        rewards: shape ``[B, T]``.
        terminated: booleans or 0 and 1, shape ``[B, T]``.
        truncated: as ``terminated``; where both are set the episode terminated.
        discount: :math:`\gamma`, from 0 to 1.
        next_values: of the state after each step and before any reset, shape ``[B, T]``; zeros
            when ``None``.
        mask: shape ``[B, T]``, 0 on steps that do not count: they get 0, and nothing passes them.

    Returns:
        Float32, shape ``[B, T]``.

    Raises:
        BatchError: the shapes are not one ``[B, T]``.

    Examples:
        >>> ends = jnp.array([[0, 1, 0]])
        >>> discounted_returns(jnp.ones((1, 3)), ends, 0 * ends, discount=0.5).tolist()
        [[1.5, 1.0, 1.0]]
    """
    after = jnp.zeros_like(jnp.asarray(rewards)) if next_values is None else next_values
    parts = _checked(rewards, terminated, truncated, after, mask)

    def back(later: jax.Array, step: Any) -> tuple[jax.Array, jax.Array]:
        reward, ended, cut, value, counts = step
        following = jnp.where(ended, 0.0, jnp.where(cut, value, later))
        found = jnp.where(counts, reward + discount * following, 0.0)
        return found, found

    return _scanned(back, parts)


def generalized_advantages(
    rewards: Any,
    values: Any,
    next_values: Any,
    terminated: Any,
    truncated: Any,
    *,
    discount: float,
    decay: float,
    mask: Any = None,
) -> jax.Array:
    r"""Generalized advantage estimation.

    .. math:: A_t = \delta_t + \gamma \lambda A_{t+1},
        \quad \delta_t = r_t + \gamma V(s_{t+1}) - V(s_t)

    :math:`V(s_{t+1})` is 0 where the episode terminated; :math:`A_{t+1}` is 0 there, where it
    was truncated, and after the last step of a row. The targets of the values are the sum of the
    advantages and ``values``. Source: Schulman et al. 2015, arXiv:1506.02438, equation 16.

    Args:
        rewards: shape ``[B, T]``.
        values: of the state before each step, shape ``[B, T]``.
        next_values: of the state after each step and before any reset, shape ``[B, T]``.
        terminated: booleans or 0 and 1, shape ``[B, T]``.
        truncated: as ``terminated``; where both are set the episode terminated.
        discount: :math:`\gamma`, from 0 to 1.
        decay: :math:`\lambda`: 0 looks one step ahead, 1 to the end.
        mask: shape ``[B, T]``, 0 on steps that do not count: they get 0, and nothing passes them.

    Returns:
        Float32, shape ``[B, T]``; it has no gradient.

    Raises:
        BatchError: the shapes are not one ``[B, T]``.

    Examples:
        >>> zero, one = jnp.zeros((1, 2)), jnp.ones((1, 2))
        >>> generalized_advantages(one, zero, zero, zero, zero, discount=1.0, decay=0.5).tolist()
        [[1.5, 1.0]]
    """
    parts = _checked(rewards, terminated, truncated, next_values, mask)
    _same(rewards, values, "values")
    before = jnp.asarray(values, jnp.float32)

    def back(later: jax.Array, step: Any) -> tuple[jax.Array, jax.Array]:
        (reward, ended, cut, value, counts), here = step
        error = reward + discount * jnp.where(ended, 0.0, value) - here
        carried = jnp.where(ended | cut, 0.0, later)
        found = jnp.where(counts, error + discount * decay * carried, 0.0)
        return found, found

    # The last step of a row is cut: what it carries, zeros, is right for it without a word.
    return jax.lax.stop_gradient(_scanned(back, (parts, before)))


def normalized_advantages(advantages: Any, mask: Any = None, *, epsilon: float = 1e-8) -> jax.Array:
    """Advantages with mean 0 and deviation 1 over everything that was collected.

    Do it to a whole collection before it is cut into batches: within a loss it would mix rows, and
    change with the number of devices and microbatches.

    Args:
        advantages: any shape.
        mask: the same shape, 0 on steps that do not count: they get 0.
        epsilon: added to the deviation.

    Raises:
        BatchError: the mask has another shape.
    """
    advantages = jnp.asarray(advantages, jnp.float32)
    counts = jnp.ones(advantages.shape, bool) if mask is None else jnp.asarray(mask) != 0
    _same(advantages, counts, "mask")
    mean = jnp.mean(advantages, where=counts)
    deviation = jnp.std(advantages, where=counts)
    return jnp.where(counts, (advantages - mean) / (deviation + epsilon), 0.0)


def _scanned(back: Any, parts: Any) -> jax.Array:
    by_time = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), parts)
    start = jnp.zeros_like(jax.tree.leaves(by_time)[0][0])
    return jnp.swapaxes(jax.lax.scan(back, start, by_time, reverse=True)[1], 0, 1)


def _checked(rewards: Any, terminated: Any, truncated: Any, after: Any, mask: Any) -> Any:
    """The five arrays as they are scanned; a row's last step is cut if it did not terminate."""
    counts = jnp.ones(jnp.shape(rewards), bool) if mask is None else jnp.asarray(mask) != 0
    if jnp.ndim(rewards) != 2 or 0 in jnp.shape(rewards):
        raise BatchError(
            f"the rewards have shape {list(jnp.shape(rewards))}",
            expected="[B, T]: T steps of B environments, at least one of each",
            do="for one environment give rewards[None]",
        )
    for name, x in (
        ("terminated", terminated),
        ("truncated", truncated),
        ("next_values", after),
        ("mask", counts),
    ):
        _same(rewards, x, name)
    cut = (jnp.asarray(truncated) != 0).at[:, -1].set(True)
    # What follows padding is another story: the step before it is a row's last one.
    cut = cut.at[:, :-1].set(cut[:, :-1] | ~counts[:, 1:])
    floats = (jnp.asarray(x, jnp.float32) for x in (rewards, after))
    reward, value = floats
    return reward, jnp.asarray(terminated) != 0, cut, value, counts


def _same(rewards: Any, x: Any, name: str) -> None:
    if jnp.shape(x) != jnp.shape(rewards):
        raise BatchError(
            f"{name} has shape {list(jnp.shape(x))}, beside {list(jnp.shape(rewards))}",
            expected="one shape for all",
            do="give one entry a step",
        )
