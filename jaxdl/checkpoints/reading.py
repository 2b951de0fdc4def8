"""What a folder of checkpoints holds, read without the run's recipe and without devices.

Tensors are read one by one, as NumPy arrays, through TensorStore, which Orbax writes with.

Reads from: errors, checkpoints.manifest, checkpoints.tensors. Used by: checkpoints.store,
checkpoints.comparing, cli.
"""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpy.typing as npt

from jaxdl.checkpoints.manifest import (
    Block,
    Entry,
    Manifest,
    damaged,
    digest_of_record,
    read_manifest,
    sha256,
)
from jaxdl.checkpoints.tensors import Spec
from jaxdl.errors import DamagedError

__all__ = [
    "PARAMS",
    "STATE",
    "WINDOW",
    "altered",
    "first_line",
    "list_steps",
    "load",
    "open_step",
    "read_checked",
    "read_record",
    "read_tensor",
    "step_folder",
    "torn",
    "verify",
]

STATE, WINDOW = "state/", "window/"
PARAMS = STATE + "params/"

_TENSORS = "state"
_RECORD = Path("record", "metadata")
_THREADS = 4


def step_folder(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies.

    Args:
        folder: of the checkpoints.
        step: updates done.
    """
    return folder / str(step)


def list_steps(folder: Path) -> list[int]:
    """The steps that have a checkpoint, whole or not, in ascending order.

    Args:
        folder: of the checkpoints; it need not exist.
    """
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())


def torn(folder: Path) -> list[Path]:
    """What saves that did not finish left behind.

    Args:
        folder: of the checkpoints; it need not exist.
    """
    return sorted(folder.glob("*.orbax-checkpoint-tmp*"))


def open_step(folder: Path, step: int) -> tuple[Manifest, dict[str, Any]]:
    """The manifest and the record of a checkpoint, checked; no tensor is read.

    Args:
        folder: of the checkpoints.
        step: updates done.

    Raises:
        DamagedError: either is missing or altered.
    """
    path = step_folder(folder, step)
    manifest = read_manifest(path)
    return manifest, read_record(path, manifest)


def read_record(path: Path, manifest: Manifest) -> dict[str, Any]:
    """The record of a checkpoint.

    Args:
        path: the checkpoint's folder.
        manifest: of the checkpoint.

    Raises:
        DamagedError: it is missing or altered.
    """
    try:
        record = json.loads((path / _RECORD).read_text())
    except (OSError, ValueError) as error:
        raise damaged(path, f"its record cannot be read: {error}") from error
    if digest_of_record(record) != manifest.record:
        raise damaged(path, "its record is not the one that was written")
    return record


def read_tensor(path: Path, name: str, spec: Spec) -> npt.NDArray[Any]:
    """One tensor of a checkpoint as it was stored; of typed keys their words.

    Args:
        path: the checkpoint's folder.
        name: of the tensor.
        spec: from the manifest.

    Raises:
        DamagedError: it cannot be read.
    """
    if 0 in spec.shape:
        return np.zeros(spec.shape, jax.numpy.dtype(spec.dtype))
    try:
        return np.asarray(_opened(path, name).read().result())
    except (ValueError, OSError, KeyError) as error:
        raise damaged(path, f"{name}: {first_line(error)}") from error


def read_checked(path: Path, name: str, entry: Entry) -> npt.NDArray[Any]:
    """One tensor as ``read_tensor`` gives it, its hashes compared.

    Args:
        path: the checkpoint's folder.
        name: of the tensor.
        entry: from the manifest.

    Raises:
        DamagedError: it cannot be read, or is not what was written.
    """
    values = read_tensor(path, name, entry.spec)
    if altered(values, entry):
        raise damaged(path, f"{name}: its values were altered")
    return values


def _opened(path: Path, name: str) -> Any:
    import tensorstore

    base = f"file://{(path / _TENSORS).absolute()}/"
    where = {"driver": "ocdbt", "base": base, "path": f"{name}/"}
    try:
        return tensorstore.open({"driver": "zarr", "kvstore": where}, open=True).result()
    except (ValueError, OSError, KeyError) as error:
        raise damaged(path, f"{name}: {first_line(error)}") from error


def verify(path: Path, manifest: Manifest) -> list[str]:
    """Reads every tensor and compares its hashes.

    Args:
        path: the checkpoint's folder.
        manifest: of the checkpoint.

    Returns:
        One line for every tensor that is not what was written.
    """

    def check(item: tuple[str, Entry]) -> str | None:
        name, entry = item
        try:
            values = read_tensor(path, name, entry.spec)
        except DamagedError as error:
            return error.what
        return f"{name}: its values were altered" if altered(values, entry) else None

    with ThreadPoolExecutor(_THREADS) as pool:
        return [line for line in pool.map(check, manifest.tensors.items()) if line]


def altered(values: npt.NDArray[Any], entry: Entry) -> bool:
    """Whether a tensor is not the one that was written.

    Args:
        values: the whole tensor.
        entry: from the manifest.
    """
    spec = entry.spec
    if (values.shape, str(values.dtype)) != (spec.shape, spec.dtype):
        return True
    return any(sha256(values[block.slices()]) != block.sha256 for block in entry.blocks)


def load(path: Path, name: str, entry: Entry, like: Any, *, check: bool = True) -> jax.Array:
    """One tensor, placed.

    Its hashes are compared before it is placed. Where a tensor is spread over several processes,
    each reads its own part, and a block that no part holds whole is read again by one of them.

    Args:
        path: the checkpoint's folder.
        name: of the tensor.
        entry: from the manifest.
        like: ``jax.ShapeDtypeStruct`` with its sharding; of typed keys that of their words.
        check: whether the hashes are compared.

    Raises:
        DamagedError: it cannot be read, or is not what was written.
    """
    sharding = like.sharding or jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shape = tuple(like.shape)
    if sharding.is_fully_addressable or sharding.is_fully_replicated:
        values = read_tensor(path, name, entry.spec)
        if check and altered(values, entry):
            raise damaged(path, f"{name}: its values were altered")
        return jax.make_array_from_callback(shape, sharding, values.__getitem__)
    store = _opened(path, name)

    def read(index: Any) -> npt.NDArray[Any]:
        return np.asarray(store[index].read().result())

    try:
        array = jax.make_array_from_callback(shape, sharding, read)
    except (ValueError, OSError, KeyError) as error:
        raise damaged(path, f"{name}: {first_line(error)}") from error
    if check and _altered_shards(path, name, entry, array):
        raise damaged(path, f"{name}: its values were altered")
    return array


def _altered_shards(path: Path, name: str, entry: Entry, array: jax.Array) -> bool:
    spread: list[Block] = []
    for block in entry.blocks:
        values = _local(block, array)
        if values is None:
            spread.append(block)
        elif sha256(values) != block.sha256:
            return True
    reader = int(hashlib.sha256(name.encode()).hexdigest(), 16) % jax.process_count()
    if not spread or reader != jax.process_index():
        return False
    return altered(read_tensor(path, name, entry.spec), Entry(entry.spec, tuple(spread)))


def _local(block: Block, array: jax.Array) -> npt.NDArray[Any] | None:
    """A block's values, where one shard of this process holds all of it."""
    for shard in array.addressable_shards:
        lows = [
            piece.indices(size)[0] for piece, size in zip(shard.index, array.shape, strict=True)
        ]
        inside = tuple(
            slice(start - low, stop - low)
            for low, start, stop in zip(lows, block.start, block.stop, strict=True)
        )
        sizes = zip(inside, shard.data.shape, strict=True)
        if all(piece.start >= 0 and piece.stop <= size for piece, size in sizes):
            return np.asarray(shard.data)[inside]
    return None


def first_line(error: BaseException) -> str:
    """What an error says, in one line.

    Args:
        error: of a library whose messages may be long.
    """
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
