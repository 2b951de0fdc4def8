"""Memory: a state whose buffers are reused, nothing sent to the host, no large constant.

Reads from: replay, tree_paths, testing.outside, testing.report, testing.subject. Used by:
testing.proving.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.extend import core

from jaxdl.placement.guard import leaf_bytes
from jaxdl.replay.places import line_of
from jaxdl.testing.outside import names_of
from jaxdl.testing.report import Finding
from jaxdl.testing.subject import Subject
from jaxdl.tree_paths import leaf_paths
from jaxdl.units import size as written_bytes

__all__ = ["check_constants", "check_donation", "check_host_calls", "equations_of"]

_CALLBACKS = {"pure_callback", "io_callback", "debug_callback", "debug_print", "outfeed", "infeed"}
_LARGE = 1 << 20


def check_donation(subject: Subject, *, compiles: bool = True) -> list[Finding]:
    """Whether every leaf of a donated state is reused, and the donated one left alone.

    Args:
        subject: the step.
        compiles: ask the compiled program too, not the shapes alone.
    """
    state, batch = subject.state(), subject.batches[0]
    with warnings.catch_warnings():
        # JAX warns of what is found here by its path.
        warnings.simplefilter("ignore")
        lowered = jax.jit(subject.update, donate_argnums=0, keep_unused=True).lower(state, batch)
    after = lowered.out_info[0]
    found = _dropped(state, after)
    if compiles and not found:
        found += _not_aliased(lowered, state)
    return [*found, *_read_afterwards(subject)]


def _not_aliased(lowered: Any, state: Any) -> list[Finding]:
    """What the compiled program does not reuse."""
    memory: Any = lowered.compile().memory_analysis()
    needed = sum(leaf_bytes(x) for x in jax.tree.leaves(state) if hasattr(x, "dtype"))
    if memory is None or memory.alias_size_in_bytes >= needed:
        return []
    return [
        Finding(
            "not-donated",
            f"{needed - memory.alias_size_in_bytes} of the state's {needed} bytes are not reused "
            "by the step",
            "state",
            "return each leaf of the state with its own shape and dtype",
        )
    ]


def _dropped(state: Any, after: Any) -> list[Finding]:
    """Leaves that no leaf of the new state can take the memory of, by path."""
    new = dict(zip(leaf_paths(after), jax.tree.leaves(after), strict=True))
    found: list[Finding] = []
    for path, leaf in zip(leaf_paths(state), jax.tree.leaves(state), strict=True):
        if not hasattr(leaf, "dtype"):
            continue
        other = new.get(path)
        if other is not None and (other.shape, other.dtype) == (leaf.shape, leaf.dtype):
            continue
        how = "is not in the new state" if other is None else f"comes back as {other.dtype}"
        found.append(
            Finding(
                "not-donated",
                f"state/{path} ({written_bytes(leaf_bytes(leaf))}) {how}: its memory is not reused",
                f"state/{path}",
                "return it with its own shape and dtype, or leave it out of the state",
            )
        )
    return found


def _read_afterwards(subject: Subject) -> list[Finding]:
    """Whether the user's own function reads a buffer that it gave away."""
    if not _gives_away(subject):
        return []
    try:
        jax.block_until_ready(subject.given(subject.whole(subject.state()), subject.batch()))
    except (RuntimeError, ValueError) as error:
        if "deleted" not in str(error):
            raise
        return [
            Finding(
                "donated-buffer-read",
                f"the step reads an array after it was donated: {str(error).splitlines()[0]}",
                subject.name,
                "take what you need from the new state, or before the call that donates; keep no "
                "older state",
            )
        ]
    return []


def _gives_away(subject: Subject) -> bool:
    """Whether a compiled function that is called within the step takes buffers over."""
    calls = (chain[-1] for chain in equations_of(subject.traced[0].jaxpr))
    return any(any(call.params.get("donated_invars", ())) for call in calls)


def check_host_calls(subject: Subject) -> list[Finding]:
    """Calls of the host within the program.

    Args:
        subject: the step.
    """
    found: dict[tuple[str, str], Finding] = {}
    for chain in equations_of(subject.traced[0].jaxpr):
        name = chain[-1].primitive.name
        if name in _CALLBACKS:
            line = line_of(chain) or "a library's code"
            found[name, line] = Finding(
                "host-callback",
                f"the program calls the host at each step ({name}): the accelerator waits for it",
                line,
                "return the value as a metric and read it outside of the step; keep "
                "jax.debug.print and callbacks for debugging",
            )
    return list(found.values())


def equations_of(jaxpr: Any, around: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every equation of a program, those of calls and loops too, each with those around it.

    Args:
        jaxpr: an open jaxpr.
        around: the equations around it, outermost first.
    """
    for eqn in jaxpr.eqns:
        yield (*around, eqn)
        for inner in core.jaxprs_in_params(eqn.params):
            yield from equations_of(getattr(inner, "jaxpr", inner), (*around, eqn))


def check_constants(subject: Subject) -> list[Finding]:
    """Large arrays that the program holds as constants.

    Args:
        subject: the step.
    """
    names = names_of(subject.function)
    found: list[Finding] = []
    for const in subject.traced[0].consts:
        size = int(getattr(const, "nbytes", 0))
        if size < _LARGE:
            continue
        shape = f"{const.dtype}{list(np.shape(const))}"
        place = names.get(id(const), "made of NumPy or of a global while the step is traced")
        found.append(
            Finding(
                "large-constant",
                f"the program holds a constant of {written_bytes(size)}, {shape}, on every device: "
                "it is compiled in and never donated",
                place,
                "hand it in with the state or the batch",
            )
        )
    return found
