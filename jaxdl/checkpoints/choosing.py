"""Which checkpoint is meant: of a run or a folder of checkpoints, one step or the newest whole one.

Reads from: errors, checkpoints.reading. Used by: checkpoints.partial, cli.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import jax
import numpy as np

from jaxdl.checkpoints.manifest import Manifest
from jaxdl.checkpoints.reading import list_steps, torn
from jaxdl.errors import CheckpointError, DamagedError, closest

__all__ = ["all_agree", "candidates", "check_finite", "checkpoints_of", "newest_whole"]

T = TypeVar("T")


def checkpoints_of(folder: Path) -> Path:
    """The folder of checkpoints: of a run's folder the one in it.

    Args:
        folder: of a run, or of checkpoints.

    Raises:
        CheckpointError: it is neither.
    """
    if (folder / "checkpoints").is_dir():
        return folder / "checkpoints"
    if list_steps(folder) or torn(folder) or (folder / "damaged").is_dir():
        return folder
    if folder.is_dir():
        what, do = (
            f"{folder} holds no checkpoints",
            "check the path; a run that did not save has none",
        )
        if (folder / "manifest").is_dir():
            do = f"give {folder.parent} and the step {folder.name}"
    else:
        near = sorted(path.name for path in folder.parent.glob("*") if path.is_dir())
        what = f"there is no folder {folder}"
        do = closest(folder.name, near[:20]) if near else "check the path"
    raise CheckpointError(what, expected="the folder of a run, or of its checkpoints", do=do)


def candidates(folder: Path, step: int | None, before: int | None = None) -> list[int]:
    """The steps to try, in order: all of them, the newest first, or the one that is asked for.

    Args:
        folder: of the checkpoints.
        step: which; any when ``None``.
        before: only those of earlier steps.

    Raises:
        CheckpointError: there is no such checkpoint.
    """
    steps = [each for each in list_steps(folder) if before is None or each < before]
    if not steps or (step is not None and step not in steps):
        raise CheckpointError(
            f"there is no checkpoint {'' if step is None else f'of step {step} '}in {folder}",
            expected=f"one of the steps {steps}" if steps else "a folder of checkpoints",
            do="choose one of them"
            if steps
            else "check the path; a run that did not save has none",
        )
    return steps[::-1] if step is None else [step]


def check_finite(path: Path, manifest: Manifest) -> None:
    """Checks that a checkpoint's parameters were finite when it was made.

    Args:
        path: the checkpoint's folder.
        manifest: of the checkpoint.

    Raises:
        DamagedError: they were not.
    """
    if not manifest.finite:
        raise DamagedError(
            f"the checkpoint {path} holds parameters that are not finite",
            expected="finite parameters",
            do="take an earlier one",
        )


def newest_whole(
    folder: Path,
    step: int | None,
    read: Callable[[int], T],
    *,
    before: int | None = None,
    damaged: Callable[[int], None] | None = None,
) -> tuple[T, tuple[str, ...]]:
    """Reads one checkpoint: that of a step, or the newest that is whole.

    Args:
        folder: of the checkpoints.
        step: which; the newest whole one when ``None``.
        read: from a step to what is wanted of it; a ``DamagedError`` says that it is not whole.
        before: only those of earlier steps.
        damaged: called with each step that is not whole.

    Returns:
        What ``read`` gave, and one line for each newer checkpoint that is not whole.

    Raises:
        CheckpointError: there is no such checkpoint.
        DamagedError: no checkpoint is whole, or the one asked for is not.

    Warns:
        UserWarning: for every checkpoint that is passed over.
    """
    passed: list[str] = []
    for candidate in candidates(folder, step, before):
        found: list[T] = []
        reason = f"the checkpoint of step {candidate} is damaged on another process"
        try:
            found.append(read(candidate))
        except DamagedError as error:
            reason = error.what
        if all_agree(bool(found)):
            return found[0], tuple(passed)
        passed.append(reason)
        if step is None:
            warnings.warn(f"passed over: {reason}", stacklevel=3)
        if damaged is not None:
            damaged(candidate)
    raise DamagedError(
        f"no checkpoint in {folder} is whole:\n    " + "\n    ".join(passed)
        if step is None
        else passed[0],
        expected="one that is as it was written",
        do="choose another step, or copy one back from elsewhere; a run starts from zero all the "
        "same when it is told to (--overwrite), or in another folder",
    )


def all_agree(mine: bool) -> bool:
    """Whether something holds on every process.

    Args:
        mine: whether it holds on this one.
    """
    if jax.process_count() == 1:
        return mine
    from jax.experimental import multihost_utils

    return bool(np.all(multihost_utils.process_allgather(np.asarray(mine))))
