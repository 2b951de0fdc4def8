"""The folder of a run: what it holds, how it is made, how it is read back.

::

    runs/NAME-TIME/config.json      settings, options as given, versions
                   recipe.py        the file that was run
                   metrics.jsonl    records     tensorboard/   the same as event files
                   checkpoints/     by step     summary.json   scores of every split

Reads from: errors, checkpoints, cli.files. Used by: cli.training, cli.measuring.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import platform
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxdl.checkpoints import lock
from jaxdl.cli.files import Example, load
from jaxdl.errors import CheckpointError, ConfigError, closest

__all__ = ["create", "go_on", "is_run", "plain", "reopen"]

_PACKAGES = ("jaxdl", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def create(
    folder: Path | None,
    name: str,
    example: Example,
    config: Any,
    arguments: Sequence[str],
    *,
    overwrite: bool = False,
) -> Path:
    """Makes a run's folder, with what is needed to rebuild its recipe.

    Args:
        folder: ``runs/NAME-TIME`` in the working directory when ``None``.
        name: of the recipe.
        example: the file.
        config: its settings.
        arguments: the options that they were read from.
        overwrite: replace a run that is there. Anything that is no run is never replaced.

    Raises:
        ConfigError: the folder is taken.
        CheckpointError: it cannot be written.
    """
    folder = folder or _fresh(name)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        _make_room(folder, overwrite=overwrite)
    content = {
        "file": str(example.path.absolute()),
        "arguments": list(arguments),
        "config": plain(config),
        "versions": {package: importlib.metadata.version(package) for package in _PACKAGES},
        "python": platform.python_version(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(example.path, folder / "recipe.py")
        (folder / "config.json").write_text(json.dumps(content, indent=2) + "\n")
    except OSError as error:
        raise CheckpointError(
            f"the run folder {folder} cannot be written: {error}",
            expected="a folder that may be written",
            do="give another one with --run-dir",
        ) from error
    return folder


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run.

    Args:
        folder: it need not exist.
    """
    return (folder / "config.json").is_file() and (folder / "recipe.py").is_file()


def go_on(folder: Path, example: Example, config: Any) -> None:
    """Checks that a folder holds the run that is asked for, so that it can be gone on with.

    Args:
        folder: of the run.
        example: the file.
        config: its settings.

    Raises:
        ConfigError: the settings or the file are others.
    """
    _, _, recorded = reopen(folder)
    now = plain(config)
    changed = [
        f"{name}: {recorded.get(name)!r} became {now.get(name)!r}"
        for name in sorted({*now, *recorded})
        if now.get(name) != recorded.get(name)
    ]
    if example.path.read_bytes() != (folder / "recipe.py").read_bytes():
        changed.append(f"{example.path} is not the file that was run")
    if changed:
        raise ConfigError(
            f"{folder} holds another run already:\n    " + "\n    ".join(changed),
            expected="the file and the settings that it began with",
            do=f"jaxdl resume {folder} goes on with those; for a new run give another --run-dir, "
            "or add --overwrite",
        )


def reopen(folder: Path) -> tuple[Example, list[str], dict[str, Any]]:
    """The file of a run, the options it was started with, and its settings as recorded.

    Args:
        folder: of the run.

    Raises:
        CheckpointError: it is no run's folder.
    """
    try:
        content = json.loads((folder / "config.json").read_text())
        arguments, config = list(content["arguments"]), dict(content["config"])
        home = Path(content["file"]).parent
    except (OSError, ValueError, KeyError, TypeError) as error:
        near = sorted(folder.parent.glob("*/config.json"), key=lambda p: p.stat().st_mtime)
        raise CheckpointError(
            f"{folder} is no run folder: {error}",
            expected="a folder that jaxdl train made",
            do=closest(folder.name, [path.parent.name for path in near[-5:]])
            if near
            else "check the path; runs are in runs/ of the folder where they were started",
        ) from error
    return load(folder / "recipe.py", home=home), arguments, config


def plain(config: Any) -> dict[str, Any]:
    """A dataclass of settings as JSON holds it.

    Args:
        config: the instance.
    """
    return json.loads(json.dumps(dataclasses.asdict(config), default=str))


def _fresh(name: str) -> Path:
    stem = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    names = [stem, *(f"{stem}-{count}" for count in range(2, 100))]
    return next(path for path in map(Path("runs").joinpath, names) if not path.exists())


def _make_room(folder: Path, *, overwrite: bool) -> None:
    if not (overwrite and is_run(folder)):
        raise ConfigError(
            f"{folder} exists and is no run folder",
            expected="a new or empty folder, or that of a run",
            do="choose another --run-dir",
        )
    with lock(folder):
        shutil.rmtree(folder)
