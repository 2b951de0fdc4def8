"""Keys: used twice, never, or the same at every step; bits that depend on the devices.

Reads from: replay, tree_paths, testing.dataflow, testing.report, testing.runs, testing.subject.
Used by: testing.proving, testing.sameness.
"""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.replay.places import line_of
from jaxdl.testing.dataflow import Draw, Flow, flow_of
from jaxdl.testing.report import Finding
from jaxdl.testing.runs import rows_of
from jaxdl.testing.subject import Subject
from jaxdl.tree_paths import leaf_paths

__all__ = ["check_randomness", "draws_of"]

_NAMED = re.compile(r"(^|[/_])(key|keys|rng|rngs|prng)s?($|[/_])", re.IGNORECASE)


def draws_of(subject: Subject) -> Flow:
    """The draws of a step and what its keys depend on.

    Args:
        subject: the step.
    """
    return subject.flow


def check_randomness(subject: Subject) -> list[Finding]:
    """All findings about keys.

    Args:
        subject: the step.
    """
    flow = draws_of(subject)
    bits = [draw for draw in flow.draws if draw.kind == "random_bits"]
    return [
        *_reused(flow.draws),
        *_kept(subject, flow),
        *_same_each_round(bits),
        *_not_folded(subject, bits),
        *_shared(subject),
        *_unused(subject, flow),
        *_dependent(bits),
    ]


def _line(draw: Draw) -> str:
    return line_of(draw.equations) or "a library's code"


def _recomputed(draw: Draw) -> bool:
    """Whether it is the backward pass of a remat, which draws the same bits once more."""
    return any(eqn.params.get("differentiated") is True for eqn in draw.equations)


def _exclusive(one: Draw, other: Draw) -> bool:
    """Whether they are in two branches of one conditional."""
    chosen = dict(one.branches)
    return any(which in chosen and chosen[which] != index for which, index in other.branches)


def _reused(draws: list[Draw]) -> list[Finding]:
    found: list[Finding] = []
    told: set[tuple[str, str]] = set()
    seen: dict[int, list[Draw]] = {}
    for draw in draws:
        if _recomputed(draw):
            continue
        for earlier in seen.setdefault(draw.key.number, []):
            places = (_line(earlier), _line(draw))
            if _exclusive(earlier, draw) or places in told:
                continue
            told.add(places)
            found.append(
                Finding(
                    "key-reused",
                    f"one key is used twice: by {_verb(earlier)} at {places[0]}, "
                    f"by {_verb(draw)} at {places[1]}",
                    places[1],
                    "give each use a key of its own: key, other = jax.random.split(key), and use "
                    "neither again",
                )
            )
            break
        seen[draw.key.number].append(draw)
    return found


def _kept(subject: Subject, flow: Flow) -> list[Finding]:
    """Keys that the step used and left in the state, where the next step uses them again."""
    used = {draw.key.number: draw for draw in flow.draws if not _recomputed(draw)}
    as_it_came = {value.number for value in flow.inputs}
    after = subject.after_one[0]
    return [
        Finding(
            "key-reused",
            f"state/{path} is the key that {_verb(used[value.number])} used at "
            f"{_line(used[value.number])}, and the next step starts from it",
            f"state/{path}",
            "keep one half of a split and use the other: key, sub = jax.random.split(key)",
        )
        for path, value in zip(leaf_paths(after), flow.outputs, strict=False)
        if value.number in used and value.number not in as_it_came
    ]


def _verb(draw: Draw) -> str:
    return "a draw" if draw.kind == "random_bits" else "jax.random.split"


def _same_each_round(bits: list[Draw]) -> list[Finding]:
    return [
        Finding(
            "key-reused",
            "a loop draws with the same key in each of its rounds",
            _line(draw),
            "fold the round's number into the key, jax.random.fold_in(key, i), or scan over "
            "jax.random.split(key, rounds)",
        )
        for draw in bits
        if draw.loops - draw.key.loops
    ]


def _moved(subject: Subject) -> int:
    """Bits of the inputs that are others at the next step: what moved, and the batch."""
    before, after = jax.tree.leaves(subject.state()), jax.tree.leaves(subject.after_one[0])
    moved = 0
    for index, (old, new) in enumerate(zip(before, after, strict=False)):
        if not np.array_equal(_host(old), _host(new)):
            moved |= 1 << index
    for index in range(len(jax.tree.leaves(subject.batches[0]))):
        moved |= 1 << (len(before) + index)
    return moved


def _host(leaf: Any) -> Any:
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf)


def _not_folded(subject: Subject, bits: list[Draw]) -> list[Finding]:
    moved = _moved(subject)
    lines: dict[str, Draw] = {}
    for draw in bits:
        if not draw.key.inputs & moved:
            lines.setdefault(_line(draw), draw)
    return [
        Finding(
            "key-not-folded",
            "the step draws the same numbers at every step: its key depends on nothing that changes"
            if draw.key.inputs
            else "the step draws the same numbers at every step: its key is a constant of the "
            "program",
            line,
            "derive the key from the step: key = jax.random.fold_in(state.key, state.step)",
        )
        for line, draw in lines.items()
    ]


def _shared(subject: Subject) -> list[Finding]:
    """Draws for rows that are the same on every device of a mapped axis."""
    rows = rows_of(subject.batches[0])
    if subject.mapped is None or subject.library or not rows:
        return []

    def update(state: Any, batch: Any) -> Any:
        return subject.update(state, batch, axis_name="data")

    traced = jax.make_jaxpr(update, axis_env=[("data", 2)])
    flow = flow_of(traced(subject.state(), subject.batches[0]))
    lines = {
        _line(draw)
        for draw in flow.draws
        if draw.kind == "random_bits"
        and draw.equations[-1].outvars[0].aval.shape[:1] == (rows,)
        and not draw.key.inputs & flow.place
    }
    return [
        Finding(
            "key-shared-by-devices",
            "each device of the mapped axis draws the same numbers for its rows",
            line,
            "fold the device into the key: jax.random.fold_in(key, jax.lax.axis_index(axis_name))",
        )
        for line in sorted(lines)
    ]


def _unused(subject: Subject, flow: Flow) -> list[Finding]:
    if subject.library:
        return []
    state = subject.state()
    used = 0
    for draw in flow.draws:
        if draw.kind == "random_bits":
            used |= draw.key.inputs
    found: list[Finding] = []
    for index, (path, leaf) in enumerate(
        zip(leaf_paths(state), jax.tree.leaves(state), strict=True)
    ):
        if _is_key(path, leaf) and not used >> index & 1:
            found.append(
                Finding(
                    "key-never-used",
                    "the state holds a key, and nothing that the step draws depends on it",
                    f"state/{path}",
                    "hand it to what should be random (rngs={'dropout': key}, and train=True, or "
                    "deterministic=False), or take it out of the state",
                )
            )
    return found


def _is_key(path: str, leaf: Any) -> bool:
    dtype, shape = jnp.result_type(leaf), jnp.shape(leaf)
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return True
    return dtype == jnp.uint32 and shape[-1:] in ((2,), (4,)) and bool(_NAMED.search(path))


def _dependent(bits: list[Draw]) -> list[Finding]:
    lines: dict[str, Draw] = {}
    for draw in bits:
        if "rbg" in draw.implementation:
            lines.setdefault(_line(draw), draw)
    return [
        Finding(
            "device-dependent-generator",
            f"random numbers come from the generator {draw.implementation}, whose bits depend on "
            "how many devices share the array, and on the version of the compiler",
            line,
            "make keys with jax.random.key(seed, impl='threefry2x32')",
        )
        for line, draw in lines.items()
    ]
