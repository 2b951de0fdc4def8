"""What a step trains: frozen parameters, untrained ones, forgotten state, a late average.

Reads from: tree_paths, testing.report, testing.runs, testing.subject. Used by: testing.proving.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.protocols import PyTree
from jaxdl.testing.numerics import loss_of
from jaxdl.testing.report import Finding
from jaxdl.testing.runs import on_host
from jaxdl.testing.subject import Subject
from jaxdl.tree_paths import leaf_paths

__all__ = ["check_learning"]

_AVERAGE = re.compile(r"(^|_)(ema|average|polyak|averaged|target)(_|$)", re.IGNORECASE)


def check_learning(subject: Subject) -> list[Finding]:
    """All findings about what moves and what does not.

    Args:
        subject: the step.
    """
    if jax.tree.structure(subject.after_one[0]) != jax.tree.structure(subject.state()):
        return []  # there is no second step: a finding of its own
    states = _states(subject)
    params = [on_host(subject.params(state)) for state in states]
    return [
        *_frozen(subject, params),
        *_never_trained(subject, params),
        *_frozen_optimizer(subject, states[0]),
        *_forgotten(subject, states),
        *_late(subject, states),
        *_uphill(subject, states),
    ]


def _states(subject: Subject) -> list[PyTree]:
    """The first state, and the one after each of at least two steps."""
    update = subject.compiled
    states = [subject.state()]
    batches = subject.batches if len(subject.batches) > 1 else (*subject.batches, *subject.batches)
    for batch in batches[:4]:
        states.append(update(states[-1], batch)[0])
    return states


def _moves(params: list[PyTree]) -> dict[str, float]:
    first = jax.tree.leaves(params[0])
    moves = dict.fromkeys(leaf_paths(params[0]), 0.0)
    for later in params[1:]:
        for path, a, b in zip(moves, first, jax.tree.leaves(later), strict=True):
            if np.issubdtype(np.asarray(a).dtype, np.inexact) or a.dtype == jnp.bfloat16:
                gap = np.max(
                    np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)), initial=0
                )
                moves[path] = max(moves[path], float(gap))
            else:
                moves[path] = np.inf
    return moves


def _is_frozen(subject: Subject, path: str) -> bool:
    return any(re.search(pattern, path) for pattern in subject.frozen)


def _frozen(subject: Subject, params: list[PyTree]) -> list[Finding]:
    return [
        Finding(
            "frozen-moves",
            f"params/{path} is frozen, and moved by {move:.2e}",
            f"params/{path}",
            "leave it out of the gradient (jaxdl: freeze=...), or give it optax.set_to_zero() in "
            "optax.multi_transform; weight decay and momentum move what has no gradient too",
        )
        for path, move in _moves(params).items()
        if _is_frozen(subject, path) and 0 < move < np.inf
    ]


def _never_trained(subject: Subject, params: list[PyTree]) -> list[Finding]:
    still = [
        path for path, move in _moves(params).items() if move == 0 and not _is_frozen(subject, path)
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


def _frozen_optimizer(subject: Subject, state: PyTree) -> list[Finding]:
    optimizer = subject.optimizer_state(state)
    if optimizer is None or not subject.frozen:
        return []
    frozen = [path for path in leaf_paths(subject.params(state)) if _is_frozen(subject, path)]
    found: list[Finding] = []
    for path, leaf in zip(leaf_paths(optimizer), jax.tree.leaves(optimizer), strict=True):
        owner = next((name for name in frozen if path == name or path.endswith("/" + name)), None)
        if owner is not None and np.size(leaf):
            found.append(
                Finding(
                    "frozen-optimizer-state",
                    f"opt_state/{path} holds {np.size(leaf)} numbers for the frozen params/{owner}",
                    f"opt_state/{path}",
                    "initialise the optimizer on the trained parameters alone, or use "
                    "optax.multi_transform with set_to_zero for the others",
                )
            )
    return found


def _forgotten(subject: Subject, states: list[PyTree]) -> list[Finding]:
    optimizers = [subject.optimizer_state(state) for state in states]
    if optimizers[0] is None or not jax.tree.leaves(optimizers[0]):
        return []
    hosts = [jax.tree.leaves(on_host(each)) for each in optimizers]
    moved = any(
        not np.array_equal(a, b)
        for later in hosts[1:]
        for a, b in zip(hosts[0], later, strict=False)
    )
    if moved:
        return []
    return [
        Finding(
            "optimizer-state-forgotten",
            f"none of the {len(hosts[0])} leaves of opt_state moved in {len(states) - 1} steps",
            "state/opt_state",
            "return the optimizer's new state: updates, opt_state = optimizer.update(...), and put "
            "opt_state into the new state",
        )
    ]


def _averages(state: PyTree) -> dict[str, Any]:
    if isinstance(state, Mapping):
        parts = dict(state)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    elif hasattr(state, "_asdict"):
        parts = state._asdict()
    else:
        parts = getattr(state, "__dict__", {})
    return {str(name): part for name, part in parts.items() if _AVERAGE.search(str(name))}


def _late(subject: Subject, states: list[PyTree]) -> list[Finding]:
    """An average that is mixed from the parameters before the update."""
    found: list[Finding] = []
    for name, average in _averages(states[0]).items():
        structure = jax.tree.structure(subject.params(states[0]))
        if average is None or jax.tree.structure(average) != structure:
            continue
        old, new = (on_host(_averages(state)[name]) for state in states[-2:])
        before, after = (on_host(subject.params(state)) for state in states[-2:])
        if _mixed(new, old, after) > 1e-4 and _mixed(new, old, before) < 1e-4:
            found.append(
                Finding(
                    "average-late",
                    f"state/{name} is mixed from the parameters before the update, not after it",
                    f"state/{name}",
                    "average the new parameters: optax.incremental_update(new_params, ema, "
                    "step_size)",
                )
            )
    return found


def _mixed(new: PyTree, old: PyTree, params: PyTree) -> float:
    """How badly ``new`` is explained as a mixture of ``old`` and ``params``; 0 is wholly."""
    wide = [
        np.concatenate([np.ravel(np.asarray(x, np.float64)) for x in jax.tree.leaves(tree)])
        for tree in (new, old, params)
    ]
    change, towards = wide[0] - wide[1], wide[2] - wide[1]
    if not np.any(towards) or not np.any(change):
        return 0.0 if np.allclose(change, 0) and np.allclose(towards, 0) else 1.0
    share = float(change @ towards / (towards @ towards))
    return float(np.linalg.norm(change - share * towards) / np.linalg.norm(change))


def _uphill(subject: Subject, states: list[PyTree]) -> list[Finding]:
    """The loss of one batch at the parameters before an update on it and a little along it."""
    batch = subject.batches[0]
    params, new = subject.params(states[0]), subject.params(states[1])
    try:
        losses = [
            float(loss_of(subject.compiled(_moved(subject, states[0], share), batch)[1]))
            for share in (0.0, 1e-2, 1.0)
        ]
    except (TypeError, ValueError):
        return []
    del params, new
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
