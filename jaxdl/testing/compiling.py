"""One compile: the state that comes back is the state that went in, and every batch is alike.

Reads from: replay, tree_paths, testing.report, testing.subject. Used by: testing.proving.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.protocols import PyTree
from jaxdl.testing.report import Finding
from jaxdl.testing.subject import Subject, split_static
from jaxdl.tree_paths import leaf_paths

__all__ = ["check_compiles", "check_fixed_point", "differences"]

_FIXED = "return each leaf of the state as it came; for a dtype, .astype(old.dtype)"
_PLACED = "put the first state where the step leaves it, or jit its init with the same shardings"


def check_fixed_point(subject: Subject) -> list[Finding]:
    """The state before and after: structure, shapes, dtypes, weak types.

    Args:
        subject: the step.
    """
    state = subject.state()
    after = jax.eval_shape(subject.update, state, subject.batches[0])[0]
    found = _weak(state, after)
    for path, what, old, new in differences(state, after):
        if what == "weak type" and old:
            continue
        if what == "structure":
            evidence = (
                f"the state's structure changes in a step: {path or 'a part that is no array'} "
                f"{new}"
            )
        elif what == "weak type":
            evidence = (
                f"state/{path} has a dtype before a step and that of a Python number after it, so "
                "that the second call compiles again"
            )
        else:
            evidence = (
                f"{what} of state/{path} is {old} before a step and {new} after it, so that the "
                "second call compiles again"
            )
        found.append(Finding("state-not-fixed", evidence, f"state/{path}", _FIXED))
    return found


def _weak(state: PyTree, after: PyTree) -> list[Finding]:
    """Leaves without a dtype of their own: it follows their neighbours."""
    then = _described(after)
    return [
        Finding(
            "weak-type-in-state",
            f"state/{path} is a Python number, or was made of one: "
            + (
                "its dtype follows its neighbours, and a state that is read back from a file "
                "computes other numbers"
                if _stays_weak(then.get(path))
                else "it comes back with a dtype, and the second call compiles again"
            ),
            f"state/{path}",
            "give it a dtype in the first state: jnp.zeros((), jnp.float32)",
        )
        for path, (_, dtype, weak) in _described(state).items()
        # A count stays one, as in Flax's TrainState, and widens no neighbour.
        if weak and not (_stays_weak(then.get(path)) and "float" not in dtype)
    ]


def _stays_weak(described: tuple[Any, ...] | None) -> bool:
    return described is not None and described[2]


def check_compiles(subject: Subject) -> list[Finding]:
    """What changes from call to call, over all batches and the states that come back.

    Args:
        subject: the step.
    """
    found: list[Finding] = []
    first = subject.batches[0]
    for index, batch in enumerate(subject.batches[1:], 1):
        for path, what, old, new in differences(first, batch):
            found.append(
                Finding(
                    "recompiles",
                    f"{what} of batch/{path} is {old} in batch 0 and {new} in batch {index}: the "
                    "step compiles again",
                    f"batch/{path}",
                    "give every batch one size, and a mask: jaxdl.data.pad_batch(batch, rows)"
                    if what in {"shape", "structure"}
                    else "give every batch the same dtypes",
                )
            )
    return [*found, *_placed_otherwise(subject), *_traced_again(subject)]


def _traced_again(subject: Subject) -> list[Finding]:
    """The user's own compiled function, counted: static parts that change show only there."""
    compiled = subject.given
    if not callable(getattr(compiled, "lower", None)):
        return []
    compiles = _Compiles()
    state = subject.whole(subject.state())
    with compiles:
        for batch in subject.batches[:2] or ():
            state, _ = compiled(state, batch)
        settled = compiles.count
        for batch in (*subject.batches, subject.batches[-1]):
            state, _ = compiled(state, batch)
    more = compiles.count - settled
    statics = _statics(subject, state)
    if not more or not statics:
        return []
    return [
        Finding(
            "recompiles",
            f"the step compiled {more} more time(s) after its second call: {statics} is no array, "
            "and is another in each state",
            "state, among its fields that are no arrays",
            "keep numbers that change as arrays, jnp.asarray(x, jnp.float32), not as static fields",
        )
    ]


def _statics(subject: Subject, state: PyTree) -> str:
    """The part of a state's structure that changed, in words."""
    first = subject.whole(subject.state())
    before, after = jax.tree.structure(first), jax.tree.structure(state)
    if before == after:
        numbers = zip(
            leaf_paths(first), jax.tree.leaves(first), jax.tree.leaves(state), strict=True
        )
        # Equinox's filter_jit takes a number of Python for a part of the program.
        moved = (
            f"{path}, {old!r} and then {new!r},"
            for path, old, new in numbers
            if isinstance(new, int | float) and isinstance(old, int | float) and new != old
        )
        return next(moved, "")
    old, new = str(before), str(after)
    start = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), 0)
    return (
        f"{old[max(0, start - 30) : start + 12]!r}, then {new[max(0, start - 30) : start + 12]!r},"
    )


class _Compiles:
    """Counts what JAX's backend compiles while it is entered."""

    def __init__(self) -> None:
        self.count = 0

    def _note(self, event: str, duration_secs: float, **kwargs: Any) -> None:
        del duration_secs, kwargs
        self.count += event == "/jax/core/compile/backend_compile_duration"

    def __enter__(self) -> None:
        jax.monitoring.register_event_duration_secs_listener(self._note)

    def __exit__(self, *_: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._note)


def _placed_otherwise(subject: Subject) -> list[Finding]:
    """The state's shardings and commitment before and after the user's own call."""
    compiled = subject.given
    if not callable(getattr(compiled, "lower", None)):
        return []
    state = subject.whole(subject.state())
    places = [_place(leaf) for leaf in jax.tree.leaves(split_static(state)[0])]
    whole = jax.block_until_ready(compiled(state, subject.batch())[0])
    after = split_static(whole)[0]
    paths = leaf_paths(after)
    now = [_place(leaf) for leaf in jax.tree.leaves(after)]
    if places == now or len(places) != len(now):
        return []
    # Some functions, such as those of jax.pmap, place their arguments themselves.
    compiles = _Compiles()
    with compiles:
        jax.block_until_ready(compiled(whole, subject.batch())[0])
    if not compiles.count:
        return []
    return [
        Finding(
            "recompiles",
            f"state/{path} lies on {old} before the first step and on {new} after it, so that the "
            "second call compiles again",
            f"state/{path}",
            _PLACED,
        )
        for path, old, new in zip(paths, places, now, strict=True)
        if old is not None and old != new
    ][:3]


def _place(leaf: Any) -> Any:
    if not isinstance(leaf, jax.Array):
        return None
    devices = len(leaf.sharding.device_set)
    spec = getattr(leaf.sharding, "spec", "")
    return f"{devices} device(s) {spec}".strip() if devices > 1 or leaf.committed else "1 device(s)"


def differences(old: PyTree, new: PyTree) -> Iterator[tuple[str, str, Any, Any]]:
    """``(path, what, old, new)`` of all that makes JAX compile again.

    Args:
        old: arrays, numbers or shapes.
        new: the same, later.
    """
    before, after = _described(old), _described(new)
    for path in before.keys() - after.keys():
        yield path, "structure", "there", "is missing"
    for path in after.keys() - before.keys():
        yield path, "structure", "missing", "was not there"
    if before.keys() == after.keys() and jax.tree.structure(old) != jax.tree.structure(new):
        yield "", "structure", jax.tree.structure(old), "has other fields that are no arrays"
    for path in before.keys() & after.keys():
        for what, a, b in zip(
            ("shape", "dtype", "weak type"), before[path], after[path], strict=True
        ):
            if a != b:
                yield path, what, a, b


def _described(tree: PyTree) -> dict[str, tuple[Any, ...]]:
    found: dict[str, tuple[Any, ...]] = {}
    for path, leaf in zip(leaf_paths(tree), jax.tree.leaves(tree), strict=True):
        number = isinstance(leaf, bool | int | float | complex)
        weak = number or bool(getattr(leaf, "weak_type", False))
        dtype = leaf.dtype if isinstance(leaf, jax.ShapeDtypeStruct) else jnp.result_type(leaf)
        found[path] = (np.shape(leaf), str(dtype), weak)
    return found
