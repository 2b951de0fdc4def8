"""What a step hands on beside parameters: optimizer state, statistics, counters, averages.

Reads from: tree_paths, testing.dataflow, testing.memory, testing.report, testing.runs,
testing.subject. Used by: testing.learning.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.protocols import PyTree
from jaxdl.testing.dataflow import Flow
from jaxdl.testing.memory import equations_of
from jaxdl.testing.report import Finding
from jaxdl.testing.runs import on_host
from jaxdl.testing.subject import Subject
from jaxdl.tree_paths import leaf_paths

__all__ = ["AVERAGE", "check_carried", "is_frozen", "moves_of", "optimizer_paths"]

AVERAGE = re.compile(r"(^|_)(ema|average|polyak|averaged|target)(_|$)", re.IGNORECASE)
"""Names of averages and targets."""

_COUNTERS = {"step", "iteration", "global_step"}
_STATISTICS = re.compile(
    r"(^|/)(batch_stats|running_(mean|var)|moving_(mean|var)|\w*norm\w*/(mean|var))(/|$)",
    re.IGNORECASE,
)


def check_carried(subject: Subject, states: list[PyTree], flow: Flow) -> list[Finding]:
    """All findings about what is handed on.

    Args:
        subject: the step.
        states: the first state and those after a few steps.
        flow: of the step.
    """
    still = _still(states)
    return [
        *_frozen_optimizer(subject, states[0]),
        *_forgotten(states, flow),
        *_twice(subject, states),
        *_statistics(subject, states[0], still),
        *_uncounted(still, optimizer_paths(states[0])),
        *_late(subject, states),
    ]


def _still(states: list[PyTree]) -> dict[str, Any]:
    """The leaves that no step has changed, by path."""
    hosts = [jax.tree.leaves(on_host(state)) for state in states]
    return {
        path: leaf
        for path, leaf, *later in zip(leaf_paths(states[0]), *hosts, strict=True)
        if all(np.array_equal(leaf, other) for other in later)
    }


def moves_of(params: list[PyTree]) -> dict[str, float]:
    """How far each leaf of the first was from it in any later one; infinite for integers.

    Args:
        params: parameters on the host, one tree a state.
    """
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


def is_frozen(subject: Subject, path: str) -> bool:
    """Whether a parameter is named among those that stand still.

    Args:
        subject: the step.
        path: of the parameter.
    """
    return any(re.search(pattern, path) for pattern in subject.frozen)


def _frozen_optimizer(subject: Subject, state: PyTree) -> list[Finding]:
    if not subject.frozen:
        return []
    frozen = [path for path in leaf_paths(subject.params(state)) if is_frozen(subject, path)]
    leaves = jax.tree.leaves(state)
    found: list[Finding] = []
    for path, index in optimizer_paths(state).items():
        owner = next((name for name in frozen if path.endswith("/" + name)), None)
        if owner is not None and np.size(leaves[index]):
            found.append(
                Finding(
                    "frozen-optimizer-state",
                    f"state/{path} holds {np.size(leaves[index])} numbers for the frozen "
                    f"params/{owner}",
                    f"state/{path}",
                    "initialise the optimizer on the trained parameters alone, or use "
                    "optax.multi_transform with set_to_zero for the others",
                )
            )
    return found


def optimizer_paths(state: PyTree) -> dict[str, int]:
    """The leaves of optimizers' states with their places: Optax's, and what is so named.

    Args:
        state: of the step.
    """
    return {
        path: index
        for index, (path, marked) in enumerate(_under(state, _is_optax))
        if marked or "opt_state" in path.split("/")
    }


def _is_optax(node: Any) -> bool:
    return type(node).__module__.split(".")[0] == "optax" and "State" in type(node).__name__


def _is_equinox_state(node: Any) -> bool:
    return type(node).__module__.startswith("equinox.") and type(node).__name__ == "State"


def _under(state: PyTree, is_node: Callable[[Any], bool]) -> list[tuple[str, bool]]:
    """The path of each leaf, and whether it lies within a node of a kind."""

    def marked(node: Any) -> Any:
        inside = is_node(node)
        return jax.tree.map(lambda _: inside, node)

    marks = jax.tree.leaves(jax.tree.map(marked, state, is_leaf=is_node))
    return list(zip(leaf_paths(state), marks, strict=True))


def _forgotten(states: list[PyTree], flow: Flow) -> list[Finding]:
    paths = optimizer_paths(states[0])
    if not paths:
        return []
    hosts = [jax.tree.leaves(on_host(state)) for state in states]
    moved = any(
        not np.array_equal(hosts[0][index], later[index])
        for later in hosts[1:]
        for index in paths.values()
    )
    old = sum(1 << index for index in paths.values())
    carried = any(flow.outputs[index].inputs & old for index in paths.values())
    if moved and carried:
        return []
    evidence = (
        "no leaf of the new optimizer state depends on the old one: it is made anew in each step"
        if moved
        else f"none of the {len(paths)} leaves of the optimizer state moved in {len(states) - 1} "
        "steps"
    )
    return [
        Finding(
            "optimizer-state-forgotten",
            evidence,
            f"state/{next(iter(paths))}",
            "return the optimizer's new state: updates, opt_state = optimizer.update(...), and put "
            "opt_state into the new state; optimizer.init belongs before the loop",
        )
    ]


def _twice(subject: Subject, states: list[PyTree]) -> list[Finding]:
    """Optimizers that all count more than one update a step, where nothing else does."""
    names = [equation[-1].primitive.name for equation in equations_of(subject.traced[0].jaxpr)]
    if "scan" in names or "while" in names or len(states) < 3:
        return []  # several updates in a loop are meant
    before, after = (jax.tree.leaves(on_host(state)) for state in states[-2:])
    optimizers = optimizer_paths(states[0])
    counted: dict[bool, set[int]] = {True: set(), False: set()}
    for path, old, new in zip(leaf_paths(states[0]), before, after, strict=True):
        if _counts(path, old, path in optimizers):
            counted[path in optimizers].add(int(new) - int(old))
    rises = counted[True]
    if len(rises) != 1 or not min(rises) > 1 or rises & counted[False]:
        return []
    return [
        Finding(
            "optimizer-updated-twice",
            f"the optimizer counts {min(rises)} updates in one step",
            f"state/{next(iter(optimizers))}",
            "call optimizer.update once a step: its moments and schedules move with each call",
        )
    ]


def _statistics(subject: Subject, state: PyTree, still: Mapping[str, Any]) -> list[Finding]:
    """Running statistics of a normalisation that no batch changes."""
    equinox = [path for path, marked in _under(state, _is_equinox_state) if marked]
    names = {path for path in still if _STATISTICS.search(path)}
    if equinox and set(equinox) <= set(still):
        names.update(equinox)
    return [
        Finding(
            "statistics-not-updated",
            f"state/{path} holds running statistics, and no step changes them",
            f"state/{path}",
            "normalise by the batch in training (train=True, use_running_average=False, "
            "model.train()) and return the new statistics; if they are to stand still, name them: "
            "frozen=(...)",
        )
        for path, leaf in still.items()
        if path in names and np.ndim(leaf) and not is_frozen(subject, path)
    ][:1]


def _uncounted(still: Mapping[str, Any], optimizers: Mapping[str, int]) -> list[Finding]:
    """Counters of steps that stand still."""
    return [
        Finding(
            "step-not-counted",
            f"state/{path} is {leaf} before and after each step",
            f"state/{path}",
            "return it plus one: schedules and keys that follow from it stand still as well",
        )
        for path, leaf in still.items()
        if _counts(path, leaf, path in optimizers)
    ]


def _counts(path: str, leaf: Any, in_optimizer: bool) -> bool:
    """Whether a leaf counts steps; the counts of random streams and metrics do not."""
    name = path.removesuffix("/value").split("/")[-1]
    named = name in _COUNTERS or (in_optimizer and name == "count")
    return named and np.ndim(leaf) == 0 and np.issubdtype(np.asarray(leaf).dtype, np.integer)


def _averages(state: PyTree) -> dict[str, Any]:
    if isinstance(state, Mapping):
        parts = dict(state)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    elif hasattr(state, "_asdict"):
        parts = state._asdict()
    else:
        parts = getattr(state, "__dict__", {})
    return {str(name): part for name, part in parts.items() if AVERAGE.search(str(name))}


def _late(subject: Subject, states: list[PyTree]) -> list[Finding]:
    """An average that is mixed from the parameters before the update."""
    found: list[Finding] = []
    for name, average in _averages(states[0]).items():
        structure = jax.tree.structure(subject.params(states[0]))
        if average is None or jax.tree.structure(average) != structure:
            continue
        if "target" not in name and not any(
            moves_of([on_host(average), on_host(_averages(states[-1])[name])]).values()
        ):
            found.append(
                Finding(
                    "average-not-updated",
                    f"state/{name} did not move in {len(states) - 1} steps, and the parameters did",
                    f"state/{name}",
                    "return the new average: optax.incremental_update(new_params, ema, step_size)",
                )
            )
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
