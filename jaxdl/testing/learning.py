"""What a step trains: frozen parameters, untrained ones, those that start anew, the way downhill.

Reads from: tree_paths, testing.carried, testing.dataflow, testing.numerics, testing.report,
testing.runs, testing.subject. Used by: testing.proving.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.protocols import PyTree
from jaxdl.testing.carried import AVERAGE, check_carried, is_frozen, moves_of, optimizer_paths
from jaxdl.testing.dataflow import Flow
from jaxdl.testing.numerics import loss_of
from jaxdl.testing.report import Finding
from jaxdl.testing.runs import on_host
from jaxdl.testing.subject import Subject
from jaxdl.tree_paths import leaf_paths

__all__ = ["check_learning"]

_STEPS = 24


def check_learning(subject: Subject) -> list[Finding]:
    """All findings about what moves and what does not.

    Args:
        subject: the step.
    """
    if jax.tree.structure(subject.after_one[0]) != jax.tree.structure(subject.state()):
        return []  # there is no second step: a finding of its own
    flow = subject.flow
    states = _states(subject)
    params = [on_host(subject.params(state)) for state in states]
    return [
        *_frozen(subject, params),
        *_never_trained(subject, params, flow),
        *_not_carried(subject, params, flow),
        *check_carried(subject, states, flow),
        *_uphill(subject, states),
    ]


def _states(subject: Subject) -> list[PyTree]:
    """The first state, and the one after each of a few steps.

    More steps are made while parameters stand still: some optimizers move them now and then.
    """
    update = subject.compiled
    states = [subject.state()]
    while len(states) < _STEPS:
        batch = subject.batches[(len(states) - 1) % len(subject.batches)]
        states.append(update(states[-1], batch)[0])
        if len(states) > max(2, min(4, len(subject.batches))) and all(
            moves_of([on_host(subject.params(state)) for state in (states[0], states[-1])]).values()
        ):
            break
    return states


def _frozen(subject: Subject, params: list[PyTree]) -> list[Finding]:
    return [
        Finding(
            "frozen-moves",
            f"params/{path} is frozen, and moved by {move:.2e}",
            f"params/{path}",
            "leave it out of the gradient (jaxdl: freeze=...), or give it optax.set_to_zero() in "
            "optax.multi_transform; weight decay and momentum move what has no gradient too",
        )
        for path, move in moves_of(params).items()
        if is_frozen(subject, path) and 0 < move < np.inf
    ]


def _never_trained(subject: Subject, params: list[PyTree], flow: Flow) -> list[Finding]:
    moves = moves_of(params)
    others = _no_parameters(subject, flow, moves)
    still = [
        path
        for path, move in moves.items()
        if move == 0 and not is_frozen(subject, path) and path not in others
    ]
    if not still:
        return []
    return [
        Finding(
            "never-trained",
            f"params/{path} did not move in {len(params) - 1} steps: no gradient reaches it",
            f"params/{path}",
            "look for stop_gradient, an argmax or a rounding on its way to the loss, or a layer "
            "that is made and not used; if it is to stand still, name it: frozen=(...)",
        )
        for path in still
    ]


def _not_carried(subject: Subject, params: list[PyTree], flow: Flow) -> list[Finding]:
    """Parameters that move, and follow from others than those in the state."""
    state = subject.state()
    given = jax.tree.leaves(state)
    known = {id(leaf): index for index, leaf in enumerate(given)}
    own = subject.params(state)
    if jax.tree.structure(own) == jax.tree.structure(state):
        return []
    moves = moves_of(params)
    found = [
        path
        for path, leaf in zip(leaf_paths(own), jax.tree.leaves(own), strict=True)
        if id(leaf) in known and 0 < moves[path] < np.inf
        for index in [known[id(leaf)]]
        if not flow.outputs[index].inputs >> index & 1
    ]
    return [
        Finding(
            "params-not-carried",
            f"the new params/{path} does not depend on the old one: each step starts from the same",
            f"params/{path}",
            "differentiate and update the parameters of the state, not those of a closure, an "
            "object or a model made outside of the step",
        )
        for path in found[:1]
    ]


def _no_parameters(subject: Subject, flow: Flow, moves: Mapping[str, float]) -> set[str]:
    """Where nobody has said which part of a state is trained: what is surely something else.

    That is single numbers, such as rates and scales, averages, the optimizer's, and where something
    is trained, what the step hands on as it is.
    """
    state = subject.state()
    if jax.tree.structure(subject.params(state)) != jax.tree.structure(state):
        return set()
    optimizer = optimizer_paths(state)
    trains = any(0 < move < np.inf and path not in optimizer for path, move in moves.items())
    return {
        path
        for path, leaf, old, new in zip(
            leaf_paths(state), jax.tree.leaves(state), flow.inputs, flow.outputs, strict=False
        )
        if np.ndim(leaf) == 0
        or path in optimizer
        or (trains and old.number == new.number)
        or any(AVERAGE.search(part) for part in path.split("/"))
    }


def _uphill(subject: Subject, states: list[PyTree]) -> list[Finding]:
    """The loss of one batch at the parameters before an update on it and a little along it."""
    batch = subject.batches[0]
    if _several_losses(subject.after_one[1]):
        return []
    try:
        losses = [
            float(loss_of(subject.compiled(_moved(subject, states[0], share), batch)[1]))
            for share in (0.0, 1e-2, 1.0)
        ]
    except (TypeError, ValueError):
        return []
    start, near, far = losses
    if not near > start + 1e-6 * abs(start) or not far > start:
        return []
    return [
        Finding(
            "climbs",
            f"the loss of a batch grows along the update made on it: {start:.6g}, then {near:.6g} "
            f"a hundredth of the way, {far:.6g} at its end",
            subject.name,
            "subtract the gradient: optax.apply_updates adds updates that an optimizer has already "
            "signed",
        )
    ]


def _several_losses(metrics: PyTree) -> bool:
    """Whether there is more than one, and none is the whole: players of a game go apart."""
    if not isinstance(metrics, Mapping) or "loss" in metrics:
        return False
    return sum(str(name).endswith("loss") for name in metrics) > 1  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]


def _moved(subject: Subject, state: PyTree, share: float) -> PyTree:
    after = subject.after_one[0]
    params, new = subject.params(state), subject.params(after)

    def between(old: Any, other: Any) -> Any:
        if not jnp.issubdtype(jnp.result_type(old), jnp.inexact):
            return old
        return (old + share * (other - old)).astype(jnp.result_type(old))

    mixed = jax.tree.map(between, params, new)
    known = {id(leaf): index for index, leaf in enumerate(jax.tree.leaves(params))}
    leaves = jax.tree.leaves(mixed)
    return jax.tree.map(lambda leaf: leaves[known[id(leaf)]] if id(leaf) in known else leaf, state)
