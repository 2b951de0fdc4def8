"""Losses of reinforcement learning with discrete actions, one value a step of an environment.

Reads from: errors, losses.shapes. Used by: objectives, by choice.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxdl.errors import BatchError
from jaxdl.losses.shapes import check_float, check_same_shape

__all__ = [
    "action_log_probability",
    "clipped_policy",
    "clipped_value",
    "policy_entropy",
    "policy_gradient",
    "q_learning",
    "q_target",
]


def action_log_probability(logits: Any, actions: Any) -> jax.Array:
    """The logarithm of the probability that a softmax policy gives to what was done.

    Args:
        logits: floats, shape ``[..., A]`` for ``A`` actions.
        actions: integers from 0 to ``A - 1``, shape ``[...]``.

    Returns:
        Float32 in nats, shape ``[...]``.

    Raises:
        BatchError: the logits are no floats, or the actions do not fit them.

    Examples:
        >>> action_log_probability(jnp.zeros((1, 1)), jnp.array([0])).tolist()
        [0.0]
    """
    _check_actions(logits, actions, "action_log_probability")
    return _taken(jax.nn.log_softmax(_real(logits), axis=-1), actions)


def policy_entropy(logits: Any) -> jax.Array:
    """The entropy of a softmax policy.

    Args:
        logits: floats, shape ``[..., A]``.

    Returns:
        Float32 in nats, from 0 to ``log A``, shape ``[...]``.

    Raises:
        BatchError: the logits are no floats.
    """
    check_float(logits, "policy_entropy")
    log_share = jax.nn.log_softmax(_real(logits), axis=-1)
    share = jnp.exp(log_share)
    # An action that is ruled out, by a logit of -inf, adds 0 and not 0 times infinity.
    return -jnp.sum(share * jnp.where(share == 0, 0.0, log_share), axis=-1)


def policy_gradient(logits: Any, actions: Any, advantages: Any) -> jax.Array:
    r"""What has the policy's gradient: :math:`-A_t \log \pi(a_t | s_t)`.

    The advantage is a return, or a return less a baseline; it is not differentiated. Source:
    Williams 1992, "Simple statistical gradient-following algorithms for connectionist
    reinforcement learning" (REINFORCE).

    Args:
        logits: floats, shape ``[..., A]``.
        actions: integers, shape ``[...]``.
        advantages: floats, shape ``[...]``.

    Returns:
        Shape ``[...]``.

    Raises:
        BatchError: the shapes do not go together.
    """
    log_prob = action_log_probability(logits, actions)
    check_same_shape(log_prob, advantages, "policy_gradient")
    return -jax.lax.stop_gradient(_real(advantages)) * log_prob


def clipped_policy(
    logits: Any, actions: Any, old_log_prob: Any, advantages: Any, *, clip: float = 0.2
) -> jax.Array:
    r"""The clipped surrogate of PPO.

    .. math:: \ell_t = -\min(r_t A_t, clip(r_t, 1 - \epsilon, 1 + \epsilon) A_t)

    with :math:`r_t` the probability of the action now over that when it was taken. Source: Schulman
    et al. 2017, arXiv:1707.06347, equation 7.

    Args:
        logits: floats of the present policy, shape ``[..., A]``.
        actions: integers, shape ``[...]``.
        old_log_prob: in nats, by the policy that acted, shape ``[...]``.
        advantages: shape ``[...]``.
        clip: :math:`\epsilon`.

    Returns:
        Shape ``[...]``.

    Raises:
        BatchError: the shapes do not go together.

    Examples:
        >>> logits, action = jnp.log(jnp.array([[0.75, 0.25]])), jnp.array([0])
        >>> old = jnp.log(jnp.array([0.25]))
        >>> clipped_policy(logits, action, old, jnp.ones(1), clip=0.5).tolist()
        [-1.5]
    """
    log_prob = action_log_probability(logits, actions)
    check_same_shape(log_prob, old_log_prob, "clipped_policy")
    check_same_shape(log_prob, advantages, "clipped_policy")
    wanted = jax.lax.stop_gradient(_real(advantages))
    ratio = jnp.exp(log_prob - jax.lax.stop_gradient(_real(old_log_prob)))
    return -jnp.minimum(ratio * wanted, jnp.clip(ratio, 1 - clip, 1 + clip) * wanted)


def clipped_value(
    values: Any, returns: Any, old_values: Any = None, *, clip: float | None = None
) -> jax.Array:
    r"""Half the squared error of a value, or the worse of it and that of a clipped value.

    .. math:: \ell_t = \tfrac12 \max((v - R)^2, (v_{old} + clip(v - v_{old}, \pm\epsilon) - R)^2)

    Source: the clipping is of the code of Schulman et al. 2017, github.com/openai/baselines, ppo2.

    Args:
        values: floats of the present network, shape ``[...]``.
        returns: what they should be, shape ``[...]``.
        old_values: by the network that acted, shape ``[...]``; needed with ``clip``.
        clip: :math:`\epsilon`, in the unit of a return; ``None`` clips nothing.

    Returns:
        Shape ``[...]``.

    Raises:
        BatchError: the shapes differ, or there are no old values to clip by.
    """
    check_same_shape(values, returns, "clipped_value")
    values, returns = _real(values), jax.lax.stop_gradient(_real(returns))
    error = jnp.square(values - returns)
    if clip is None:
        return 0.5 * error
    if old_values is None:
        raise BatchError(
            f"clipped_value got clip={clip} and no old values",
            expected="the values of the network that acted",
            do="pass old_values, or leave clip None",
        )
    check_same_shape(values, old_values, "clipped_value")
    old = jax.lax.stop_gradient(_real(old_values))
    near = old + jnp.clip(values - old, -clip, clip)
    return 0.5 * jnp.maximum(error, jnp.square(near - returns))


def q_target(
    rewards: Any, terminated: Any, next_q: Any, *, discount: float, next_choice: Any = None
) -> jax.Array:
    r"""What a step's action value should be, :math:`r + \gamma \max_a Q(s', a)`.

    A step that terminated its episode has nothing after it. One that was only cut short (truncated)
    has, and ``next_q`` is of the state it was cut at.

    Source: Mnih et al. 2015, "Human-level control through deep reinforcement learning"; with
    ``next_choice`` double Q-learning, van Hasselt et al. 2015, arXiv:1509.06461.

    Args:
        rewards: shape ``[...]``.
        terminated: booleans or 0 and 1, shape ``[...]``.
        next_q: the target network's values of the next state, shape ``[..., A]``.
        discount: :math:`\gamma`, from 0 to 1.
        next_choice: values, shape ``[..., A]``, whose largest chooses the action that ``next_q``
            then judges; ``next_q`` itself when ``None``.

    Returns:
        Shape ``[...]``; it has no gradient.

    Raises:
        BatchError: the shapes do not go together.
    """
    chooser = next_q if next_choice is None else next_choice
    check_same_shape(next_q, chooser, "q_target")
    check_same_shape(rewards, terminated, "q_target")
    action = jnp.argmax(chooser, axis=-1)
    _check_actions(next_q, action, "q_target")
    after = _taken(_real(next_q), action)
    check_same_shape(after, rewards, "q_target")
    goes_on = jnp.asarray(terminated) == 0
    return jax.lax.stop_gradient(_real(rewards) + discount * jnp.where(goes_on, after, 0.0))


def q_learning(q: Any, actions: Any, targets: Any, *, delta: float = 1.0) -> jax.Array:
    """Huber's loss of the value of the action that was taken.

    Source: Mnih et al. 2015, "Human-level control through deep reinforcement learning": their error
    clipped to 1 is the gradient of Huber's loss with ``delta`` 1.

    Args:
        q: floats, shape ``[..., A]``.
        actions: integers, shape ``[...]``.
        targets: see ``q_target``, shape ``[...]``.
        delta: where the loss turns linear, in the unit of a return.

    Returns:
        Shape ``[...]``.

    Raises:
        BatchError: the shapes do not go together.
    """
    _check_actions(q, actions, "q_learning")
    taken = _taken(_real(q), actions)
    check_same_shape(taken, targets, "q_learning")
    wanted = jax.lax.stop_gradient(_real(targets))
    return optax.losses.huber_loss(taken, wanted, delta=delta)


def _taken(values: jax.Array, actions: Any) -> jax.Array:
    return jnp.take_along_axis(values, jnp.asarray(actions)[..., None], axis=-1)[..., 0]


def _real(x: Any) -> jax.Array:
    x = jnp.asarray(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _check_actions(values: Any, actions: Any, loss: str) -> None:
    check_float(values, loss)
    shape, dtype = jnp.shape(values), jnp.result_type(actions)
    whole = jnp.issubdtype(dtype, jnp.integer)
    if len(shape) < 2 or jnp.shape(actions) != shape[:-1] or not whole:
        raise BatchError(
            f"{loss} got values of shape {list(shape)} and {dtype} actions of shape "
            f"{list(jnp.shape(actions))}",
            expected="values [..., A] and integer actions [...]",
            do="give one action a state, and one value or logit an action",
        )
