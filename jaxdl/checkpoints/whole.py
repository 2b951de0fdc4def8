"""A whole train state saved and restored by Orbax: once, synchronously, at the end of a run.

Reads from: errors, protocols, tree_paths. Used by: recipe, cli.
"""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxdl.errors import CheckpointError
from jaxdl.protocols import PyTree
from jaxdl.tree_paths import leaf_paths

__all__ = ["restore", "save"]


def save(folder: Path, state: PyTree) -> Path:
    """Writes a state; the folder appears whole or not at all.

    Args:
        folder: must not exist.
        state: a pytree of arrays, typed keys included. Every process calls this.

    Returns:
        The folder, absolute.

    Raises:
        CheckpointError: the folder exists or cannot be written.
    """
    import orbax.checkpoint

    folder = folder.absolute()
    if folder.exists():
        raise CheckpointError(
            f"the checkpoint {folder} exists",
            expected="a new folder",
            do="choose another folder, or remove this one",
        )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with orbax.checkpoint.StandardCheckpointer() as checkpointer:
            checkpointer.save(folder, state)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"the checkpoint {folder} could not be written: {_first_line(error)}",
            expected="a folder that may be written, on a disk with room",
            do="free some space or choose another run folder",
        ) from error
    return folder


def restore(folder: Path, like: PyTree) -> Any:
    """Reads a state back, each leaf onto the devices that ``like`` names.

    Args:
        folder: from ``save``.
        like: the state's structure in ``jax.ShapeDtypeStruct`` with shardings, such as
            ``placed.abstract_state(batch)``.

    Returns:
        The state.

    Raises:
        CheckpointError: there is none, it is damaged, or it is of another structure or shape.
    """
    import orbax.checkpoint

    folder = folder.absolute()
    if not folder.is_dir():
        raise CheckpointError(
            f"there is no checkpoint {folder}",
            expected="the folder that save wrote",
            do="check the path; a run that did not end has none",
        )
    try:
        # A restore that fails prints thousands of lines beside the exception.
        with (
            contextlib.redirect_stderr(io.StringIO()),
            orbax.checkpoint.StandardCheckpointer() as checkpointer,
        ):
            _check_same(folder, checkpointer.metadata(folder).item_metadata, like)
            return checkpointer.restore(folder, like)
    except CheckpointError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"the checkpoint {folder} could not be restored: {_first_line(error)}",
            expected="a whole checkpoint",
            do="the files are damaged: restore another checkpoint, or train again",
        ) from error


def _check_same(folder: Path, stored: Any, like: PyTree) -> None:
    """Names what differs before any array is read."""
    found, wanted = _shapes(getattr(stored, "tree", stored)), _shapes(like)
    if not found:
        raise CheckpointError(
            f"{folder} is no checkpoint: it has no metadata",
            expected="the folder that save wrote, whole",
            do="restore another checkpoint, or train again",
        )
    lines = [f"{path}: not stored" for path in wanted.keys() - found.keys()]
    lines += [f"{path}: not expected" for path in found.keys() - wanted.keys()]
    for path in found.keys() & wanted.keys():
        is_key = jnp.issubdtype(wanted[path][1], jax.dtypes.prng_key)
        if not is_key and found[path] != wanted[path]:
            (shape, dtype), (new_shape, new_dtype) = found[path], wanted[path]
            lines.append(f"{path}: {dtype}{list(shape)}, not {new_dtype}{list(new_shape)}")
    if lines:
        # Parameters first: what else differs (moments, averages) mostly follows from them.
        shown = sorted(lines, key=lambda line: (not line.startswith("params/"), line))
        shown = shown[:8] + (["..."] if len(shown) > 8 else [])
        raise CheckpointError(
            f"the checkpoint {folder} holds another state:\n    " + "\n    ".join(shown),
            expected="the same parameters, optimizer and options of the step",
            do="use the recipe that it was trained with",
        )


def _shapes(tree: PyTree) -> dict[str, tuple[tuple[int, ...], Any]]:
    leaves = zip(leaf_paths(tree), jax.tree.leaves(tree), strict=True)
    return {path: (tuple(leaf.shape), leaf.dtype) for path, leaf in leaves}


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
