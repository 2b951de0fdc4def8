"""A model's variables as safetensors that other libraries load.

Reads from: errors, data, weights.converting, weights.files, weights.fitting. Used by: recipes, by
choice.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdl.errors import CheckpointError, ConfigError
from jaxdl.weights.converting import given, grouped
from jaxdl.weights.files import INDEX, SINGLE
from jaxdl.weights.fitting import Place, Table

__all__ = ["export"]


def export(
    variables: Mapping[str, Any],
    path: str | os.PathLike[str],
    model: Any,
    *,
    names: Table = None,
    max_shard_size: int | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Writes a model's variables as safetensors, by the names of its table.

    ``transformers`` loads the folder once its ``config.json`` lies beside. A file that is half
    written is never seen under its name; of several shards, the index comes last.

    Args:
        variables: ``{"params": ...}``, with ``"batch_stats"`` where the model has them.
        path: a ``.safetensors`` file, or a folder, which is made.
        model: the Linen module.
        names: its table (see ``Names``); the family's first when ``None``.
        max_shard_size: bytes in one file; a folder gets several and their index where the whole
            is larger. Memory is needed for one file at a time. ``None`` writes one file.
        overwrite: replace files that are there.

    Returns:
        The files that were written, the index last.

    Raises:
        CheckpointError: the variables are not those of the model, or a file cannot be written.
        ConfigError: a file is there already, or shards are asked for and ``path`` is one file.
    """
    path = Path(path)
    leaves, groups = grouped(variables, model, names)
    sizes = {name: _bytes(places, leaves) for name, places in groups.items()}
    shards = _shards(sizes, max_shard_size)
    files = _named(path, len(shards))
    index = path / INDEX
    _check(path, files if len(files) == 1 else [*files, index], overwrite=overwrite)
    for file, shard in zip(files, shards, strict=True):
        _write(file, {name: _host(given(groups[name], leaves)) for name in shard})
    if len(files) == 1:
        return files
    where = {name: file.name for file, shard in zip(files, shards, strict=True) for name in shard}
    text = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": where}
    new = index.with_name(f".{index.name}.{os.getpid()}")
    new.write_text(json.dumps(text, indent=2) + "\n", encoding="utf-8")
    new.replace(index)
    return [*files, index]


def _bytes(places: list[Place], leaves: Mapping[str, Any]) -> int:
    return sum(
        math.prod(place.shape) * np.dtype(leaves[place.leaf].dtype).itemsize for place in places
    )


def _shards(sizes: Mapping[str, int], limit: int | None) -> list[list[str]]:
    if limit is not None and limit < 1:
        raise ConfigError(
            f"max_shard_size is {limit}", expected="bytes, at least 1", do="give 5 * 10**9"
        )
    shards: list[list[str]] = [[]]
    held = 0
    for name, size in sizes.items():
        if limit is not None and shards[-1] and held + size > limit:
            shards.append([])
            held = 0
        shards[-1].append(name)
        held += size
    return shards


def _named(path: Path, count: int) -> list[Path]:
    if path.suffix == ".safetensors":
        if count > 1:
            raise ConfigError(
                f"{path} is one file, and max_shard_size makes {count}",
                expected="a folder for several shards",
                do=f"give the folder {path.parent}, or leave max_shard_size out",
            )
        return [path]
    if count == 1:
        return [path / SINGLE]
    return [path / f"model-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]


def _check(path: Path, files: list[Path], *, overwrite: bool) -> None:
    # What an older export left beside would be read in place of the new one.
    stale = [path / SINGLE, path / INDEX] if path.suffix != ".safetensors" else []
    there = [file for file in {*files, *stale} if file.exists()]
    other = [file for file in there if file not in files]
    if there and (not overwrite or other):
        raise ConfigError(
            f"{there[0]} is there already",
            expected="a new file, or a folder without another model",
            do="give another path" if other else "give another path, or overwrite=True",
        )
    try:
        files[0].parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(
            f"the folder {files[0].parent} cannot be made: {error}",
            expected="a folder that may be written",
            do="give another path",
        ) from error


def _host(tensor: Any) -> Any:
    # Not ascontiguousarray, which gives a scalar an axis.
    return np.asarray(jax.device_get(tensor), order="C")


def _write(file: Path, tensors: dict[str, Any]) -> None:
    import safetensors.numpy

    new = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        # The metadata that transformers asks for.
        safetensors.numpy.save_file(tensors, new, metadata={"format": "pt"})
        with new.open("rb") as written:
            os.fsync(written.fileno())
        new.replace(file)
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(
            f"{file} could not be written: {error}",
            expected="a folder that may be written, on a disk with room",
            do="make some room, or give another path",
        ) from error
    finally:
        with suppress(OSError):
            new.unlink(missing_ok=True)
