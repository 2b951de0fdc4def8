"""A file that defines ``Config`` and ``recipe(config)``, loaded and checked.

Reads from: errors, recipe. Used by: cli.training, cli.measuring.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from jaxdl.errors import ConfigError, JaxdlError, closest
from jaxdl.recipe import Recipe

__all__ = ["Example", "load"]

_EXPECTED = "a file with a frozen dataclass Config and a function recipe(config) -> Recipe"


class Example(NamedTuple):
    """What a file defines.

    Attributes:
        path: the file.
        config: its dataclass of settings.
        build: from an instance of it to a ``Recipe``.
        about: the file's docstring.
    """

    path: Path
    config: type
    build: Callable[[Any], Recipe]
    about: str


def load(path: Path, *, home: Path | None = None) -> Example:
    """Imports a file. What lies beside it can be imported by it.

    Args:
        path: the file.
        home: the folder it was written in, when it is a copy.

    Raises:
        ConfigError: there is no such file, it cannot be imported, or lacks one of the two.
    """
    if path.suffix != ".py" or not path.is_file():
        near = [each.stem for each in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise ConfigError(
            f"there is no file {path}" if not path.exists() else f"{path} is no Python file",
            expected=_EXPECTED,
            do=closest(path.stem, near) if near else "check the path",
        )
    module = _imported(path, (home or path.parent).absolute())
    config: Any = getattr(module, "Config", None)
    build = getattr(module, "recipe", None)
    if not _is_frozen(config) or not callable(build):
        missing = "recipe(config)" if _is_frozen(config) else "Config, a frozen dataclass"
        raise ConfigError(
            f"{path} does not define {missing}",
            expected=_EXPECTED,
            do="see examples/digits.py for the pattern",
        )
    return Example(path, config, _checked(path, build), (module.__doc__ or "").strip())


def _is_frozen(kind: Any) -> bool:
    is_dataclass = isinstance(kind, type) and dataclasses.is_dataclass(kind)
    return is_dataclass and bool(kind.__dataclass_params__.frozen)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownArgumentType]  # not declared


def _imported(path: Path, home: Path) -> Any:
    name = f"jaxdl_example_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} cannot be imported", expected=_EXPECTED, do="check the file")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up to read annotations.
    sys.modules[name] = module
    if str(home) not in sys.path:
        sys.path.insert(0, str(home))
    try:
        spec.loader.exec_module(module)
    except JaxdlError:
        raise
    except Exception as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == spec.origin]
        line = frames[-1].lineno if frames else getattr(error, "lineno", None)
        raise ConfigError(
            f"{path}{f', line {line},' if line else ''} cannot be imported: "
            f"{type(error).__name__}: {error}",
            expected=_EXPECTED,
            do=f"python {path} shows the whole traceback",
        ) from error
    return module


def _checked(path: Path, build: Callable[[Any], Any]) -> Callable[[Any], Recipe]:
    def checked(config: Any) -> Recipe:
        made = build(config)
        if not isinstance(made, Recipe):
            raise ConfigError(
                f"recipe(config) of {path} returned a {type(made).__name__}",
                expected="a jaxdl.Recipe",
                do="return Recipe(name=..., objective=..., ...)",
            )
        return made

    return checked
