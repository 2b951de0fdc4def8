"""``module:name`` on a command line: found, and read as the arguments of a proof.

Reads from: errors, placement, protocols, recipe. Used by: cli.proving.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import tyro

from jaxdl.errors import ConfigError, closest
from jaxdl.placement import PlacedStep, PmappedStep
from jaxdl.protocols import TrainStep
from jaxdl.recipe import Recipe

__all__ = ["StepOptions", "arguments_of", "found_by_name"]

_Name = Annotated[str | None, tyro.conf.arg(metavar="MODULE:NAME")]


@dataclasses.dataclass(frozen=True)
class StepOptions:
    """Where the rest of a step's arguments is. Each is a value, or a function that returns it."""

    batches: _Name = None
    """A list of two or more batches, as the loop gives them."""
    state: _Name = None
    """The first state."""
    init: _Name = None
    """(key, batch) -> state, in place of a state."""
    loss: _Name = None
    """(params, batch) -> scalar; its gradient is held against finite differences."""
    frozen: tuple[str, ...] = ()
    """Regular expressions of parameters that must not move."""


def found_by_name(text: str) -> Any:
    """What ``module:name`` names; modules of the working directory are found too.

    Args:
        text: such as ``"my_project.training:step"``; the name may have dots.

    Raises:
        ConfigError: it has no colon, or there is no such module or name.
    """
    module_name, _, name = text.partition(":")
    if not module_name or not name:
        raise ConfigError(
            f"{text!r} names no step",
            expected="a file that ends in .py, or MODULE:NAME",
            do="such as examples/digits.py, or my_project.training:step",
        )
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:
        raise ConfigError(
            f"the module {module_name} cannot be imported: {type(error).__name__}: {error}",
            expected="a module that is installed, or lies in the working directory",
            do=f"python -c 'import {module_name}' shows the whole traceback",
        ) from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise ConfigError(
                f"{text} does not exist: there is no {part!r} in it",
                expected="a name that the module defines",
                do=closest(part, [each for each in dir(found) if not each.startswith("_")]),
            )
        found = getattr(found, part)
    return found


def arguments_of(target: str, options: StepOptions) -> Recipe | dict[str, Any]:
    """What a name on the command line is: a recipe, or the arguments of ``prove``.

    Args:
        target: ``module:name``.
        options: where the rest is.

    Raises:
        ConfigError: it is neither a step nor a function that returns what a proof needs.
    """
    found = found_by_name(target)
    if callable(found) and not _is_step(found) and not _needs_arguments(found):
        found = found()
    if isinstance(found, Recipe):
        return found
    if isinstance(found, Mapping):
        given = {str(name): value for name, value in found.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        missing = {"step", "batches"} - given.keys()
        if missing:
            raise ConfigError(
                f"{target} returned a dictionary without {' and '.join(sorted(missing))}",
                expected="the arguments of jaxdl.testing.prove: step, batches, state or init, ...",
                do="return dict(step=step, batches=[...], state=state)",
            )
        return given
    if not callable(found) and not isinstance(found, TrainStep):
        raise ConfigError(
            f"{target} is of type {type(found).__name__}",
            expected="a train step (state, batch) -> (state, metrics), or a function without "
            "arguments that returns a recipe or the arguments of prove",
            do="name the function itself",
        )
    return {"step": found, **_rest(target, options)}


def _rest(target: str, options: StepOptions) -> dict[str, Any]:
    if options.batches is None:
        raise ConfigError(
            f"{target} is a step, and there is no batch",
            expected="--batches MODULE:NAME, a list of batches or a function that returns one",
            do=f"jaxdl prove {target} --batches my_project:batches --state my_project:state",
        )
    given: dict[str, Any] = {"batches": list(_value(options.batches)), "frozen": options.frozen}
    if options.state is not None:
        given["state"] = _value(options.state)
    for name in ("init", "loss"):
        text = getattr(options, name)
        if text is not None:
            given[name] = found_by_name(text)
    return given


def _value(text: str) -> Any:
    found = found_by_name(text)
    return found() if inspect.isroutine(found) and not _needs_arguments(found) else found


def _is_step(found: Any) -> bool:
    return isinstance(found, TrainStep | PlacedStep | PmappedStep)


def _needs_arguments(function: Any) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return True
    return any(
        each.default is each.empty
        and each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
        for each in parameters
    )
