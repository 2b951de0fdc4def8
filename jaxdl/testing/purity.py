"""A step that is no function: traced twice, with everything outside it compared.

Reads from: tree_paths, testing.outside, testing.report, testing.subject. Used by: testing.proving.
"""

from __future__ import annotations

import builtins
import contextlib
import inspect
import random
import re
import sysconfig
import time
from collections.abc import Callable, Generator
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from jaxdl.testing.outside import Seen, changed_between, digest, seen_by
from jaxdl.testing.report import Finding
from jaxdl.testing.subject import Subject, split_static
from jaxdl.tree_paths import leaf_paths

__all__ = ["check_purity", "is_users"]

_ADDRESS = re.compile(r" at 0x[0-9a-f]+|0x[0-9a-f]+")
_CHECKERS = re.compile(rf"/(?:jaxtyping|beartype)/|beartype|^{re.escape(__file__)}$")
_LIBRARY = re.compile(r"/(?:site|dist)-packages/")
_STANDARD = sysconfig.get_paths()["stdlib"]
_DRAWS = (
    *("random", "uniform", "randint", "randrange", "choice", "choices", "sample", "shuffle"),
    *("gauss", "normalvariate", "getrandbits"),
)
_NUMPY_DRAWS = (
    *("rand", "randn", "random", "random_sample", "normal", "uniform", "randint", "choice"),
    *("permutation", "shuffle", "standard_normal"),
)
_CLOCKS = ("time", "time_ns", "perf_counter", "perf_counter_ns", "monotonic", "monotonic_ns")
_HOST_DRAW = (
    "draw with jax.random from a key that follows from the state: "
    "jax.random.fold_in(state.key, state.step)"
)


def check_purity(subject: Subject) -> list[Finding]:
    """All findings about what the step reads and changes beside its arguments.

    Args:
        subject: the step.
    """
    calls: list[tuple[str, str]] = []
    mutated: dict[str, str] = {}
    before = seen_by(subject.function)
    with _watched(calls):
        first = _trace(_noting(subject, mutated), subject)
    after = seen_by(subject.function)
    second = _trace(subject.update, subject)
    leaked = _leaked(after)
    return [
        *leaked,
        *_changed(before, after, {finding.where for finding in leaked}),
        *_mutated(mutated, subject),
        *_called(calls),
        *_differing(first, second, known=bool(calls)),
    ]


def _trace(function: Callable[..., Any], subject: Subject) -> Any:
    # What JAX remembers of an inner function would hide that it is another now.
    jax.clear_caches()
    return jax.make_jaxpr(function)(subject.state(), subject.batches[0])


def _noting(subject: Subject, mutated: dict[str, str]) -> Callable[..., Any]:
    """The step's update, noting which of its arguments it changed in place."""

    def update(state: Any, batch: Any) -> Any:
        whole = subject.whole(state)
        before = {"state": jax.tree.leaves(whole), "batch": jax.tree.leaves(batch)}
        out = subject.function(whole, batch)
        for name, tree in (("state", whole), ("batch", batch)):
            leaves = jax.tree.leaves(tree)
            same = len(leaves) == len(before[name])
            if not same or any(a is not b for a, b in zip(leaves, before[name], strict=True)):
                mutated[name] = ", ".join(leaf_paths(tree))
        return split_static(out)[0]

    return update


def is_users(file: str) -> bool:
    """Whether a file is neither an installed library's nor Python's own.

    Args:
        file: its path.
    """
    return not _LIBRARY.search(file) and not file.startswith((_STANDARD, "<"))


@contextlib.contextmanager
def _watched(calls: list[tuple[str, str]]) -> Generator[None]:
    """Notes calls of clocks, generators and ``print`` from the user's own lines."""

    def noting(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **options: Any) -> Any:
            frame = inspect.currentframe()
            # Checkers of types may stand between the caller and this.
            while frame is not None and _CHECKERS.search(frame.f_code.co_filename):
                frame = frame.f_back
            if frame is not None and is_users(frame.f_code.co_filename):
                calls.append((name, f"{frame.f_code.co_filename}:{frame.f_lineno}"))
            return original(*args, **options)

        return called

    kept = [
        (module, name, getattr(module, name))
        for module, names in ((time, _CLOCKS), (random, _DRAWS), (np.random, _NUMPY_DRAWS))
        for name in names
    ]
    kept.append((builtins, "print", builtins.print))
    for module, name, original in kept:
        setattr(module, name, noting(f"{module.__name__}.{name}", original))
    try:
        yield
    finally:
        for module, name, original in kept:
            setattr(module, name, original)


def _called(calls: list[tuple[str, str]]) -> list[Finding]:
    found: list[Finding] = []
    for name, line in dict.fromkeys(calls):
        if name == "builtins.print":
            evidence = "print runs while the step is traced: once, and never again"
            mend = "jax.debug.print('{x}', x=x) prints at every step; or return it as a metric"
            found.append(Finding("host-print", evidence, line, mend))
        elif "random" in name:
            evidence = f"{name}() is drawn while the step is traced: the numbers are constants then"
            found.append(Finding("host-randomness", evidence, line, _HOST_DRAW))
        else:
            evidence = f"{name}() is read while the step is traced: its value is a constant then"
            mend = "measure time around the step, or hand it in with the batch"
            found.append(Finding("host-clock", evidence, line, mend))
    return found


def _line_of(subject: Subject) -> str:
    try:
        line = inspect.getsourcelines(subject.function)[1]
        return f"{inspect.getsourcefile(subject.function)}:{line}"
    except (TypeError, OSError):
        return subject.name


def _leaked(after: Seen) -> list[Finding]:
    return [
        Finding(
            "leaked-tracer",
            f"{place} holds a tracer ({value.aval}) after the step was traced",
            place,
            "return the value among the state or the metrics; keep nothing outside",
        )
        for place, value in after.items()
        if isinstance(value, Tracer)
    ]


def _changed(before: Seen, after: Seen, leaked: set[str]) -> list[Finding]:
    lines = [(place, how) for place, how in changed_between(before, after) if place not in leaked]
    # A container and its first new part are one change.
    return [
        Finding(
            "changed-outside",
            f"{place} {how} after the step was traced: it changes when JAX traces, not when the "
            "step runs",
            place,
            "keep it in the state and return it, or count outside of the step",
        )
        for place, how in lines
        if not any(place != other and place.startswith(other) for other, _ in lines)
    ]


def _mutated(mutated: dict[str, str], subject: Subject) -> list[Finding]:
    # What is compiled works on containers of its own, and may change them.
    if hasattr(subject.given, "lower"):
        return []
    return [
        Finding(
            "mutated-argument",
            f"the step changed the {name} it was given; its leaves are now {paths}",
            _line_of(subject),
            f"make a new one: {{**{name}, ...}} or dataclasses.replace({name}, ...)",
        )
        for name, paths in mutated.items()
    ]


def _differing(first: Any, second: Any, *, known: bool) -> list[Finding]:
    old, new = (_ADDRESS.sub("", str(each)).splitlines() for each in (first, second))
    line = next((pair for pair in zip(old, new, strict=False) if pair[0] != pair[1]), None)
    if line is None and len(old) != len(new):
        line = (f"{len(old)} equations", f"{len(new)} equations")
    if line is None:
        moved = [
            index
            for index, (a, b) in enumerate(zip(first.consts, second.consts, strict=True))
            if digest(a) != digest(b)
        ]
        if moved:
            line = (f"constant {moved[0]}", "another value")
    if line is None or known:
        return []
    return [
        Finding(
            "impure-trace",
            f"traced twice, the step is two programs: {line[0].strip()} / {line[1].strip()}",
            "the traced program",
            "let it depend on its arguments alone: no host randomness, clock, counter or order of "
            "a set",
        )
    ]
