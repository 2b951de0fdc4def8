"""Where in the user's model and files an equation comes from, read from what JAX keeps of it.

An equation inside a loop or call knows only its own part: it is given here as the chain of the
equations around it, the outermost first, itself last.

Reads from: objectives. Used by: replay.nonfinite.
"""

from __future__ import annotations

import re
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from jaxdl.objectives import dropout

__all__ = ["direction_of", "layer_of", "line_of"]

_WRAPPER = re.compile(r"^\w+\((.*)\)$")
_NOT_LAYERS = {"", "checkpoint", "rematted_computation"}
_INSTALLED = re.compile(r"/(?:site|dist)-packages/(\w+)")
_LIBRARIES = {"beartype", "chex", "flax", "jax", "jaxlib", "jaxtyping", "optax"}
_STANDARD = sysconfig.get_paths()["stdlib"]
# A module's call passes through the last file, whatever the layer; no line of it is the cause.
_SKIPPED = (str(Path(__file__).parent), str(dropout.__file__))


def _scopes(equations: Sequence[Any]) -> list[str]:
    names = [str(eqn.source_info.name_stack) for eqn in equations]
    return "/".join(name for name in names if name).split("/")


def layer_of(equations: Sequence[Any]) -> str:
    """The modules around an equation, such as ``"MLP/dense_1"``, or ``""``.

    What JAX writes around them (``transpose(jvp(MLP))/dense_1``) is taken off.

    Args:
        equations: the chain of equations, innermost last.
    """
    layers: list[str] = []
    for scope in _scopes(equations):
        bare = scope
        while match := _WRAPPER.match(bare):
            bare = match[1]
        if bare in _NOT_LAYERS or "<" in bare:
            continue
        if bare != scope and layers and bare == layers[0]:
            # Recomputed in the backward pass: the whole chain of names is written once more.
            layers = []
        layers.append(bare)
    return "/".join(layers)


def direction_of(equations: Sequence[Any]) -> Literal["forward", "backward"] | None:
    """The pass that an equation belongs to, or ``None`` when nothing is differentiated there.

    Args:
        equations: the chain of equations, innermost last.
    """
    scopes = _scopes(equations)
    if any("transpose(" in scope for scope in scopes):
        return "backward"
    return "forward" if any("jvp(" in scope for scope in scopes) else None


def line_of(equations: Sequence[Any]) -> str | None:
    """``file:line`` of the innermost code that is no library's, or ``None``.

    Files below the working directory are named from there.

    Args:
        equations: the chain of equations, innermost last.
    """
    for eqn in reversed(equations):
        traceback = eqn.source_info.traceback
        for frame in () if traceback is None else traceback.frames:
            if _is_users(frame.file_name):
                return f"{_short(frame.file_name)}:{frame.line_num}"
    return None


def _is_users(file: str) -> bool:
    if file.startswith(("<", *_SKIPPED)):
        return False
    installed = _INSTALLED.search(file)
    if installed:
        return installed[1] not in _LIBRARIES
    return not file.startswith(_STANDARD)


def _short(file: str) -> str:
    path = Path(file)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else file
