"""What a function sees outside its arguments, closures, globals, objects, and what changed there.

Reads from: nothing of jaxdl. Used by: testing.purity, testing.memory.
"""

from __future__ import annotations

import hashlib
import re
import sysconfig
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

__all__ = ["Seen", "changed_between", "digest", "names_of", "seen_by"]

Seen = dict[str, Any]
"""Places, such as ``"global history"`` or ``"closure counter[0]"``, and what was there."""

_DEEP = 4
_WIDE = 200
_INSTALLED = re.compile(r"/(?:site|dist)-packages/")
_STANDARD = sysconfig.get_paths()["stdlib"]


def seen_by(function: Callable[..., Any]) -> Seen:
    """Everything that a function and the functions it names can reach, in a form to compare.

    Code of installed packages and of the standard library is not entered.

    Args:
        function: of Python.
    """
    found: Seen = {}
    for place, value in _reached(function, set()):
        _describe(place, value, found, _DEEP)
    return found


def names_of(function: Callable[..., Any]) -> dict[int, str]:
    """The place of each array that a function can reach, by the array's ``id``.

    Args:
        function: of Python.
    """
    return {
        id(value): place
        for place, value in seen_by(function).items()
        if isinstance(value, jax.Array | np.ndarray)
    }


def changed_between(before: Seen, after: Seen) -> list[tuple[str, str]]:
    """Places that are new, gone or hold something else, with what is said of each.

    Args:
        before: from ``seen_by``.
        after: the same, later.
    """
    lines = [(place, "is new") for place in after if place not in before]
    lines += [(place, "is gone") for place in before if place not in after]
    for place in before.keys() & after.keys():
        old, new = digest(before[place]), digest(after[place])
        if old != new:
            lines.append((place, f"was {old}, is {new}"))
    return sorted(lines)


def _is_users(function: types.FunctionType) -> bool:
    file = function.__code__.co_filename
    if _INSTALLED.search(file):
        return False
    return not file.startswith(_STANDARD)


def _reached(function: Any, done: set[int]) -> Iterator[tuple[str, Any]]:
    """``(place, value)`` of closures, globals and bound objects, functions followed."""
    if isinstance(function, types.MethodType):
        yield f"self of {function.__name__}", function.__self__
        function = function.__func__
    partial = getattr(function, "func", None)
    if partial is not None and hasattr(function, "keywords"):
        yield from _reached(partial, done)
        return
    function = getattr(function, "__wrapped__", function)
    if not isinstance(function, types.FunctionType) or id(function) in done:
        return
    if not _is_users(function):
        return
    done.add(id(function))
    for place, value in [*_closed_over(function), *_globals(function)]:
        if callable(value) and not isinstance(value, type):
            yield from _reached(value, done)
        if not isinstance(value, types.ModuleType | type | types.FunctionType):
            yield place, value


def _closed_over(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield f"closure {name}", cell.cell_contents
        except ValueError:  # not filled yet
            continue
    for name, value in zip(
        reversed(function.__code__.co_varnames[: function.__code__.co_argcount]),
        reversed(function.__defaults__ or ()),
        strict=False,
    ):
        yield f"default {name}", value


def _globals(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    codes, names = [function.__code__], set[str]()
    while codes:
        code = codes.pop()
        names.update(code.co_names)
        codes += [const for const in code.co_consts if isinstance(const, types.CodeType)]
    for name in sorted(names & function.__globals__.keys()):
        yield f"global {name}", function.__globals__[name]


def _describe(place: str, value: Any, found: Seen, depth: int) -> None:
    if len(found) >= _WIDE * 10:
        return
    plain = isinstance(value, str | bytes | int | float | complex | bool | type(None))
    if plain or isinstance(value, np.ndarray | np.generic | jax.Array):
        found[place] = value
        return
    parts = _parts(value) if depth > 0 else None
    if parts is None:
        found[place] = type(value)
        return
    found[place] = (type(value).__name__, len(parts))
    for name, part in list(parts.items())[:_WIDE]:
        _describe(f"{place}{name}", part, found, depth - 1)


def _parts(value: Any) -> dict[str, Any] | None:
    if isinstance(value, Mapping):
        return {f"[{key!r}]": part for key, part in value.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, list | tuple):
        return {f"[{index}]": part for index, part in enumerate(value)}  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    if isinstance(value, set | frozenset):
        return {f"[{index}]": part for index, part in enumerate(sorted(value, key=repr))}  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    module = type(value).__module__.split(".")[0]
    attributes = getattr(value, "__dict__", None)
    if isinstance(attributes, dict) and module not in {"jax", "jaxlib", "flax", "optax", "numpy"}:
        return {f".{name}": part for name, part in attributes.items()}  # pyright: ignore[reportUnknownVariableType]
    return None


def digest(value: Any) -> str:
    """A short text, equal for equal values.

    Args:
        value: as ``Seen`` holds it.
    """
    if isinstance(value, Tracer):
        return f"a tracer {value.aval}"
    if isinstance(value, jax.Array) and jax.numpy.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        host = np.asarray(value)
        if host.size == 1:
            return f"{host.dtype} {host.item()!r}"
        return f"{host.dtype}{list(host.shape)} {hashlib.sha256(host.tobytes()).hexdigest()[:8]}"
    if isinstance(value, tuple):
        return f"{value[0]} of {value[1]}"
    return repr(value)
