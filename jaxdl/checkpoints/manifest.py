"""The manifest of a checkpoint: the SHA-256 of every tensor, by the blocks that were written.

Orbax restores most flipped bits of array data as they are. Each process hashes the blocks it
writes while they are written, and its part of the manifest joins the checkpoint in the same
commit, so a checkpoint without one was never finished.

Reads from: errors, checkpoints.tensors. Used by: checkpoints.handler, .store, .reading.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import numpy.typing as npt

from jaxdl.checkpoints.tensors import Spec, spec_of, words
from jaxdl.errors import CheckpointError, DamagedError

__all__ = [
    "Block",
    "Entry",
    "Manifest",
    "all_finite",
    "damaged",
    "digest_of_record",
    "part_name",
    "part_text",
    "read_manifest",
    "sha256",
    "snapshot",
]

FORMAT = 1
FOLDER = "manifest"
SEAL = "seal"
"""The file that makes a folder a sealed one, see ``security``."""


class Block(NamedTuple):
    """A part of a tensor that one process wrote.

    Attributes:
        start: first index along each axis.
        stop: index after the last.
        sha256: of its bytes in C order.
    """

    start: tuple[int, ...]
    stop: tuple[int, ...]
    sha256: str

    def slices(self) -> tuple[Any, ...]:
        """The block as an index into the tensor, which gives an array even of a scalar."""
        return (*map(slice, self.start, self.stop), ...)


class Entry(NamedTuple):
    """One tensor: what it is and the blocks it was written in."""

    spec: Spec
    blocks: tuple[Block, ...]


class Manifest(NamedTuple):
    """What a checkpoint holds.

    Attributes:
        tensors: by name.
        record: SHA-256 of the record's JSON.
        finite: whether every parameter was a finite number.
    """

    tensors: dict[str, Entry]
    record: str
    finite: bool


Views = dict[str, tuple[Spec, list[tuple[tuple[slice, ...], npt.NDArray[Any]]]]]
"""By name what a tensor is, and this process's blocks of it: their index and their bytes."""


def snapshot(leaves: Mapping[str, Any]) -> Views:
    """This process's share of each leaf, on the host.

    A block of a device array is a view that outlives a later donation of the array: JAX then gives
    the step other memory. Only replica 0 of a shard counts, and NumPy arrays on process 0.

    Args:
        leaves: device or NumPy arrays and typed keys, by name.
    """
    shards: dict[str, list[Any]] = {}
    for name, leaf in leaves.items():
        flat = words(leaf)
        if isinstance(flat, jax.Array):
            shards[name] = [shard for shard in flat.addressable_shards if shard.replica_id == 0]
            for shard in shards[name]:
                if shard.device.platform != "cpu":
                    shard.data.copy_to_host_async()
    views: Views = {}
    for name, leaf in leaves.items():
        spec = spec_of(leaf)
        if name in shards:
            blocks = [(shard.index, np.asarray(shard.data)) for shard in shards[name]]
        else:
            whole = tuple(slice(0, size) for size in spec.shape)
            blocks = [(whole, np.array(leaf))] if jax.process_index() == 0 else []
        views[name] = (spec, blocks)
    return views


def sha256(values: npt.NDArray[Any]) -> str:
    """SHA-256 of an array's bytes in C order.

    Args:
        values: any array.

    Returns:
        64 hexadecimal digits.
    """
    flat = np.ascontiguousarray(values).reshape(-1)
    return hashlib.sha256(flat.view(np.uint8).data if flat.size else b"").hexdigest()


def digest_of_record(record: Mapping[str, Any]) -> str:
    """SHA-256 of a record as JSON with sorted keys.

    Args:
        record: what JSON can hold.
    """
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def part_name(process: int, processes: int) -> str:
    """The file of one process's part.

    Args:
        process: its index.
        processes: how many there are.
    """
    return f"process_{process}-of-{processes}.json"


def part_text(views: Views, record: Mapping[str, Any]) -> str:
    """One process's part of the manifest, with the hashes of its blocks.

    Args:
        views: from ``snapshot``.
        record: the checkpoint's record.
    """
    tensors = {
        name: {
            "shape": spec.shape,
            "dtype": spec.dtype,
            "generator": spec.generator,
            "blocks": [_block(index, spec.shape, values) for index, values in blocks],
        }
        for name, (spec, blocks) in views.items()
    }
    body = {
        "format": FORMAT,
        "process": jax.process_index(),
        "processes": jax.process_count(),
        "record": digest_of_record(record),
        "finite": all_finite(views),
        "tensors": tensors,
    }
    body = json.loads(json.dumps(body))
    return json.dumps({**body, "checksum": digest_of_record(body)}, indent=1)


def _block(index: tuple[slice, ...], shape: tuple[int, ...], values: Any) -> dict[str, Any]:
    ranges = [piece.indices(size) for piece, size in zip(index, shape, strict=True)]
    return {
        "start": [start for start, _, _ in ranges],
        "stop": [stop for _, stop, _ in ranges],
        "sha256": sha256(values),
    }


def all_finite(views: Views) -> bool:
    """Whether this process's blocks of the parameters hold finite numbers only.

    Args:
        views: from ``snapshot``.
    """
    return all(
        bool(np.all(np.isfinite(values)))
        for name, (_, blocks) in views.items()
        if name == "state/params" or name.startswith("state/params/")
        for _, values in blocks
        if jax.numpy.issubdtype(values.dtype, np.inexact)
    )


def read_manifest(folder: Path) -> Manifest:
    """Reads all parts of a checkpoint's manifest, and checks that they are whole.

    Args:
        folder: of the checkpoint.

    Raises:
        DamagedError: a part is missing or altered, or the blocks do not make up the tensors.
        CheckpointError: it is sealed, or another version of jaxdl wrote it.
    """
    parts = [_read_part(path) for path in sorted((folder / FOLDER).glob("process_*.json"))]
    if not parts and (folder / SEAL).is_file():
        raise CheckpointError(
            f"the checkpoint {folder} is sealed",
            expected="one in the clear, or a key",
            do="jaxdl checkpoint open decrypts it; evaluate, explain and report take --key",
        )
    if not parts:
        raise damaged(folder, "it has no manifest: it was never finished")
    first = parts[0]
    indices = sorted(part["process"] for part in parts)
    if indices != list(range(first["processes"])):
        raise damaged(folder, f"of {first['processes']} manifest parts there are {indices}")
    tensors: dict[str, Entry] = {}
    for name in first["tensors"]:
        entries = [part["tensors"][name] for part in parts]
        spec = Spec(tuple(entries[0]["shape"]), entries[0]["dtype"], entries[0]["generator"])
        blocks = [
            Block(tuple(block["start"]), tuple(block["stop"]), block["sha256"])
            for entry in entries
            for block in entry["blocks"]
        ]
        if math.prod(spec.shape) != sum(_size(block) for block in blocks):
            raise damaged(folder, f"the manifest does not cover {name}")
        tensors[name] = Entry(spec, tuple(blocks))
    return Manifest(tensors, first["record"], all(part["finite"] for part in parts))


def _read_part(path: Path) -> dict[str, Any]:
    try:
        body = json.loads(path.read_text())
        checksum, version = body.pop("checksum"), body.get("format")
        if checksum != digest_of_record(body):
            raise ValueError("its checksum is another")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged(path.parent.parent, f"manifest part {path.name}: {error}") from error
    if version != FORMAT:
        raise CheckpointError(
            f"the checkpoint {path.parent.parent} is of format {version}",
            expected=f"format {FORMAT}",
            do="read it with the version of jaxdl that wrote it",
        )
    return body


def _size(block: Block) -> int:
    return math.prod(stop - start for start, stop in zip(block.start, block.stop, strict=True))


def damaged(folder: Path, reason: str) -> DamagedError:
    """The error of a checkpoint that is not what was written.

    Args:
        folder: of the checkpoint.
        reason: how it shows.
    """
    return DamagedError(
        f"the checkpoint {folder} is damaged: {reason}",
        expected="the files as they were written",
        do="restore another checkpoint",
    )
