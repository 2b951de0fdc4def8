"""What a run's folder holds, read without its recipe and without devices.

A run that was cut, or of which parts are missing or damaged, is read as far as it goes.

Reads from: errors, protocols, checkpoints, tpu.plans.encoding. Used by: the rest of reporting, cli.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxdl.checkpoints.reading import PARAMS, list_steps, open_step
from jaxdl.errors import CheckpointError, JaxdlError
from jaxdl.protocols import Record
from jaxdl.tpu.plans import encoding

__all__ = ["RunFolder", "Tensor", "read_run"]

_OWN = {"config.json", "summary.json"}
_LARGEST = 64 << 20
_CONFIG = {"config": dict, "versions": dict, "arguments": list}
_SUMMARY = {"scores": dict, "devices": list, "seconds": (int, float), "parameters": int}


class Tensor(NamedTuple):
    """A parameter.

    Attributes:
        path: its name.
        shape: of it.
        dtype: its type's name.
        size: how many numbers.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    size: int


class RunFolder(NamedTuple):
    """What was found.

    Attributes:
        path: the folder.
        config: of ``config.json``.
        recipe: the text of ``recipe.py``, or ``None``.
        records: of ``metrics.jsonl``.
        unreadable: how many of its lines are no records.
        summary: of ``summary.json``; ``None`` for a run that did not end.
        steps: that have a checkpoint.
        parameters: of the newest whole checkpoint.
        parameters_missing: why there are none, or an empty text.
        documents: other JSON files, by kind: ``plan``, ``judging``, ``robustness``, ``privacy``;
            each a list of file names and contents.
    """

    path: Path
    config: dict[str, Any]
    recipe: str | None
    records: tuple[Record, ...]
    unreadable: int
    summary: dict[str, Any] | None
    steps: tuple[int, ...]
    parameters: tuple[Tensor, ...]
    parameters_missing: str
    documents: dict[str, list[tuple[str, dict[str, Any]]]]

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.path.resolve().name

    @property
    def scores(self) -> dict[str, dict[str, Any]]:
        """Measures by split; empty when the run was not measured."""
        found = (self.summary or {}).get("scores")
        if not isinstance(found, Mapping):
            return {}
        return {str(k): dict(v) for k, v in found.items() if isinstance(v, Mapping)}


def read_run(folder: Path) -> RunFolder:
    """Reads a run's folder.

    Args:
        folder: of the run.

    Raises:
        CheckpointError: it is no run's folder.
    """
    config = _document(folder / "config.json", _CONFIG)
    if config is None:
        raise CheckpointError(
            f"{folder} is no run folder: it has no config.json that can be read",
            expected="a folder that jaxdl train made",
            do="check the path; runs are in runs/ of the folder where they were started",
        )
    records, unreadable = _records(folder / "metrics.jsonl")
    parameters, missing = _parameters(folder / "checkpoints")
    return RunFolder(
        folder,
        config,
        _text(folder / "recipe.py"),
        records,
        unreadable,
        _document(folder / "summary.json", _SUMMARY),
        tuple(list_steps(folder / "checkpoints")),
        parameters,
        missing,
        _documents(folder),
    )


def _text(path: Path) -> str | None:
    try:
        if path.stat().st_size > _LARGEST:
            return None
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def _document(
    path: Path, kinds: Mapping[str, type | tuple[type, ...]] | None = None
) -> dict[str, Any] | None:
    """A JSON object, without what should be of another kind."""
    text = _text(path)
    try:
        found = None if text is None else json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    return {k: v for k, v in found.items() if isinstance(v, (kinds or {}).get(k, object))}


def _records(path: Path) -> tuple[tuple[Record, ...], int]:
    """The records, and how many lines are none."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return (), 0
    found: list[Record] = []
    for line in lines:
        try:
            values = json.loads(line)
            step, split = int(values.pop("step")), str(values.pop("split"))
            values.pop("time", None)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            continue
        found.append(Record(step, split, values))
    return tuple(found), sum(1 for line in lines if line.strip()) - len(found)


def _parameters(folder: Path) -> tuple[tuple[Tensor, ...], str]:
    steps = list_steps(folder)
    if not steps:
        return (), "The folder has no checkpoint, so that the parameters are not known."
    why = ""
    for step in reversed(steps):
        try:
            manifest, _ = open_step(folder, step)
        except JaxdlError as error:
            why = why or f"No checkpoint can be read: {error.what}."
            continue
        specs = {
            name.removeprefix(PARAMS): entry.spec
            for name, entry in manifest.tensors.items()
            if name.startswith(PARAMS)
        }
        tensors = [
            Tensor(name, tuple(spec.shape), str(spec.dtype), _size(spec.shape))
            for name, spec in specs.items()
        ]
        return tuple(tensors), "" if tensors else "The checkpoint holds no parameters."
    return (), why


def _size(shape: tuple[int, ...]) -> int:
    total = 1
    for side in shape:
        total *= int(side)
    return total


def _documents(folder: Path) -> dict[str, list[tuple[str, dict[str, Any]]]]:
    """Other JSON files of the folder and of the folders in it, by what they are."""
    paths = [path for path in sorted(folder.glob("*.json")) if path.name not in _OWN]
    for inner in ("judging", "robustness", "privacy", "plans"):
        paths += sorted((folder / inner).glob("*.json"))
    found: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for path in paths:
        content = _document(path)
        kind = "" if content is None else _kind(path, content)
        if content is not None and kind:
            name = path.relative_to(folder).as_posix()
            found.setdefault(kind, []).append((name, content))
    return found


def _kind(path: Path, content: Mapping[str, Any]) -> str:
    if content.get("format") == encoding.FORMAT:
        return "plan"
    if content.get("kind") in ("pairs", "ratings") and "agreement" in content:
        return "judging"
    for kind in ("robustness", "privacy"):
        if kind in (path.parent.name, path.stem) or path.stem.startswith(kind):
            return kind
    return ""
