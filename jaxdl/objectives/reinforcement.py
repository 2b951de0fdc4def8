"""Reinforcement learning with discrete actions: policy gradient, PPO and DQN on collected steps.

They are objectives like any other: a batch has steps of an environment in its rows, whoever
collected them. What must be known of whole episodes (returns, advantages) is in the batch's fields,
see ``losses.generalized_advantages``, so no row of a batch needs another.

Reads from: errors, protocols, reductions, losses, objectives.fields, objectives.applying. Used by:
recipes and loops, by choice.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdl import losses
from jaxdl.errors import ObjectiveError
from jaxdl.objectives.applying import applied, first_variables
from jaxdl.objectives.fields import call_options, field
from jaxdl.protocols import MASK, Aux, Batch, Mean, ModelState, Objective, Params, TrainStep
from jaxdl.reductions import masked_sum

__all__ = ["dqn", "moving_target", "policy_gradient", "ppo"]

OBSERVATION, ACTION, NEXT = "observation", "action", "next_observation"


def policy_gradient(
    model: nn.Module, *, value_weight: float = 0.5, entropy_weight: float = 0.0
) -> Objective:
    r"""REINFORCE, with a learned baseline where the model has one.

    The loss of a step is :math:`-(R - b) \log \pi(a|s)`, with :math:`b` the model's value of the
    state, plus ``value_weight`` times half of :math:`(b - R)^2`, less ``entropy_weight`` times the
    entropy. The batch has the fields ``observation [B, ...]``, ``action [B]`` and ``return [B]``.

    Source: Williams 1992, "Simple statistical gradient-following algorithms for connectionist
    reinforcement learning".

    Args:
        model: a Linen module, observations to ``logits [B, A]`` or to ``(logits, values [B])``.
        value_weight: of the baseline's error.
        entropy_weight: of the entropy.

    Raises:
        ObjectiveError: ``model`` is no Linen module.
        BatchError: while tracing, when a field is missing or does not fit.
    """

    def values(outputs: Any, batch: Batch) -> tuple[Any, dict[str, Any]]:
        logits, baseline = outputs if isinstance(outputs, tuple) else (outputs, None)
        returns = jnp.asarray(field(batch, "return"), jnp.float32)
        advantage, off = returns, None
        if baseline is not None:
            off = losses.clipped_value(baseline, returns)
            advantage = returns - jax.lax.stop_gradient(baseline)
        entropy = losses.policy_entropy(logits)
        total = losses.policy_gradient(logits, field(batch, ACTION), advantage)
        total = total - entropy_weight * entropy
        if off is None:
            return total, {"entropy": entropy}
        return total + value_weight * off, {"entropy": entropy, "value_loss": off}

    return _objective(model, values, "policy_gradient")


def ppo(
    model: nn.Module,
    *,
    clip: float = 0.2,
    value_weight: float = 0.5,
    value_clip: float | None = None,
    entropy_weight: float = 0.01,
) -> Objective:
    """Proximal policy optimization, the clipped objective.

    The loss of a step is ``losses.clipped_policy`` plus ``value_weight`` times
    ``losses.clipped_value``, less ``entropy_weight`` times the entropy. The batch has the fields
    ``observation [B, ...]``, ``action [B]``, ``log_prob [B]`` (of the policy that acted),
    ``advantage [B]``, ``return [B]``, and with ``value_clip`` ``value [B]``. Normalise advantages
    over the whole collection first, see ``losses.normalized_advantages``.

    Source: Schulman et al. 2017, arXiv:1707.06347, equation 9.

    Args:
        model: a Linen module, observations to ``(logits [B, A], values [B])``.
        clip: how far the ratio of probabilities may count from 1.
        value_weight: of the value's error.
        value_clip: how far a value may count from the old one; ``None`` clips nothing.
        entropy_weight: of the entropy.

    Returns:
        An ``Objective``. It measures ``entropy`` (nats), ``value_loss``, ``clipped`` (the share of
        steps beyond ``clip``) and ``old_kl``, an estimate of the distance from the policy that
        acted (nats; Schulman 2020, "Approximating KL divergence", the third).

    Raises:
        ObjectiveError: ``model`` is no Linen module.
        BatchError: while tracing, when a field is missing or does not fit.
    """

    def values(outputs: Any, batch: Batch) -> tuple[Any, dict[str, Any]]:
        logits, found = _pair(outputs)
        action, old = field(batch, ACTION), jnp.asarray(field(batch, "log_prob"), jnp.float32)
        policy = losses.clipped_policy(logits, action, old, field(batch, "advantage"), clip=clip)
        before = None if value_clip is None else field(batch, "value")
        off = losses.clipped_value(found, field(batch, "return"), before, clip=value_clip)
        entropy = losses.policy_entropy(logits)
        step = losses.action_log_probability(logits, action) - old
        measured = {
            "entropy": entropy,
            "value_loss": off,
            "clipped": (jnp.abs(jnp.expm1(step)) > clip).astype(jnp.float32),
            "old_kl": jnp.expm1(step) - step,
        }
        return policy + value_weight * off - entropy_weight * entropy, measured

    return _objective(model, values, "ppo")


def dqn(
    model: nn.Module, *, discount: float = 0.99, delta: float = 1.0, double: bool = False
) -> Objective:
    """Q-learning by a network, against a target network that stands still.

    The batch has the fields ``observation [B, ...]``, ``action [B]``, ``reward [B]``,
    ``next_observation [B, ...]`` and ``terminated [B]``.

    The target network's parameters are the model state, ``{"target": ...}``, which the loss never
    moves: were it to, the number of microbatches would change when. ``moving_target`` moves them
    after whole updates. A model may have no other state.

    Source: Mnih et al. 2015, "Human-level control through deep reinforcement learning"; ``double``
    is van Hasselt et al. 2015, arXiv:1509.06461.

    Args:
        model: a Linen module, observations to action values ``[B, A]``.
        discount: of what follows, a step.
        delta: where Huber's loss turns linear, in the unit of a return.
        double: the trained network chooses the next action and the target network judges it.

    Raises:
        ObjectiveError: ``model`` is no Linen module, or has state.
        BatchError: while tracing, when a field is missing or does not fit.
    """
    _check_module(model, "dqn")

    def init(key: Any, batch: Batch) -> tuple[Params, ModelState]:
        x = field(batch, OBSERVATION)
        params, state = first_variables(model, key, x, call_options(model, batch, train=False))
        if state:
            raise ObjectiveError(
                f"{type(model).__name__} has the state {', '.join(state)}",
                expected="a module of parameters alone, for a network and its target",
                do="use a norm without running statistics, such as LayerNorm",
            )
        return params, {"target": jax.tree.map(jnp.copy, params)}

    def loss_sum(
        params: Params, model_state: ModelState, batch: Batch, key: Any, *, train: bool
    ) -> tuple[Any, Aux]:
        def called(weights: Params, name: str, *, train: bool) -> Any:
            call = call_options(model, batch, train=train)
            x = field(batch, name)
            return applied(model, (weights, {}), batch, x, key, call, train=train)

        q, _ = called(params, OBSERVATION, train=train)
        following, _ = called(model_state["target"], NEXT, train=False)
        choice = called(params, NEXT, train=False)[0] if double else None
        wanted = losses.q_target(
            field(batch, "reward"),
            field(batch, "terminated"),
            following,
            discount=discount,
            next_choice=choice,
        )
        values = losses.q_learning(q, field(batch, ACTION), wanted, delta=delta)
        total, weight = masked_sum(values, batch.get(MASK))
        sums = _means({"q": jnp.max(q, axis=-1)}, batch)
        return total, Aux(weight, model_state, sums, q)

    return Objective(init, loss_sum)


def moving_target(
    train_step: TrainStep, *, every: int | None = None, rate: float | None = None
) -> TrainStep:
    """A train step of ``dqn`` whose target network follows the trained one, by rule.

    It depends on nothing but the state, so a step is the same wherever it runs, and a run that goes
    on from a checkpoint is the run that was not interrupted.

    Args:
        train_step: of ``make_train_step(dqn(...), ...)``, before ``jit`` or ``pmap``.
        every: the target becomes the network after each so many updates (Mnih et al. 2015: 10,000).
        rate: the target moves by this share of its distance after each update (Lillicrap et al.
            2015, arXiv:1509.02971: 0.001). Give one of the two.

    Raises:
        ObjectiveError: not exactly one of the two is given, or it is out of range.

    Examples:
        >>> import jaxdl, optax
        >>> objective = dqn(jaxdl.models.MLP((4, 16, 2)))
        >>> step = moving_target(jaxdl.make_train_step(objective, optax.adam(1e-3)), every=100)
    """
    wrong = (every is not None and every < 1) or (rate is not None and not 0 < rate <= 1)
    if wrong or (every is None) == (rate is None):
        raise ObjectiveError(
            f"moving_target got every={every} and rate={rate}",
            expected="every=, from 1, or rate=, above 0 and at most 1",
            do="give one of the two",
        )

    def update(
        state: Any, batch: Batch, *, axis_name: str | None = None, batch_sharding: Any = None
    ) -> tuple[Any, Any]:
        state, sums = train_step.update(
            state, batch, axis_name=axis_name, batch_sharding=batch_sharding
        )

        def moved(old: jax.Array, new: jax.Array) -> jax.Array:
            if every is not None:
                return jnp.where(state.step % every == 0, new, old)
            return old + jnp.asarray(rate, old.dtype) * (new - old)

        target = jax.tree.map(moved, state.model_state["target"], state.params)
        return state.replace(model_state={**state.model_state, "target": target}), sums

    return TrainStep(train_step.init, update)


def _objective(model: nn.Module, values: Any, name: str) -> Objective:
    """An objective of ``values(outputs, batch) -> (loss [B], {name: measured [B]})``."""
    _check_module(model, name)

    def init(key: Any, batch: Batch) -> tuple[Params, ModelState]:
        x = field(batch, OBSERVATION)
        return first_variables(model, key, x, call_options(model, batch, train=False))

    def loss_sum(
        params: Params, model_state: ModelState, batch: Batch, key: Any, *, train: bool
    ) -> tuple[Any, Aux]:
        call = call_options(model, batch, train=train)
        x = field(batch, OBSERVATION)
        variables = (params, model_state)
        outputs, model_state = applied(model, variables, batch, x, key, call, train=train)
        each, measured = values(outputs, batch)
        total, weight = masked_sum(each, batch.get(MASK))
        return total, Aux(weight, model_state, _means(measured, batch), outputs)

    return Objective(init, loss_sum)


def _means(measured: dict[str, Any], batch: Batch) -> dict[str, Mean]:
    return {
        name: Mean(*masked_sum(jax.lax.stop_gradient(value), batch.get(MASK)))
        for name, value in measured.items()
    }


def _pair(outputs: Any) -> tuple[Any, Any]:
    if isinstance(outputs, tuple) and len(outputs) == 2:  # pyright: ignore[reportUnknownArgumentType]
        return outputs  # pyright: ignore[reportUnknownVariableType]
    raise ObjectiveError(
        f"the model returned a {type(outputs).__name__}",
        expected="(logits [B, A], values [B])",
        do="give the module a second output: its value of the state",
    )


def _check_module(model: Any, name: str) -> None:
    if not isinstance(model, nn.Module):
        raise ObjectiveError(
            f"{name} got a {type(model).__name__}",
            expected="an instance of a flax.linen.Module",
            do="write Objective(init, loss) by hand for another kind of model",
        )
