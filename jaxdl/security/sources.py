"""What can be sealed, as named items that are read one at a time: a checkpoint, or a file.

Reads from: errors, protocols, checkpoints, security.ciphers, .envelope, .roles, .streams. Used by:
security, security.sealing, .restoring.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import numpy.typing as npt

from jaxdl.checkpoints.choosing import check_finite
from jaxdl.checkpoints.manifest import Entry, read_manifest
from jaxdl.checkpoints.reading import STATE, WINDOW, read_checked, read_record
from jaxdl.checkpoints.tensors import named, spec_of, words
from jaxdl.errors import CheckpointError, ConfigError, DamagedError
from jaxdl.protocols import PyTree
from jaxdl.security.ciphers import Buffer
from jaxdl.security.envelope import canonical
from jaxdl.security.roles import group_of
from jaxdl.security.streams import chunks_of, cut

__all__ = ["HEAD", "RECORD", "Item", "Source", "check_sizes", "listed", "source_of", "state_source"]

RECORD = "record"
# No tensor of the format can have this name.
HEAD = "__metadata__"
_LARGEST_HEAD = 100_000_000


class Item(NamedTuple):
    """Something to seal.

    Attributes:
        name: of it.
        group: that it belongs to.
        size: bytes.
        about: shape, dtype and generator of a tensor; empty of anything else.
        pieces: from the bytes in a chunk to the pieces that become chunks.
    """

    name: str
    group: str
    size: int
    about: Mapping[str, Any]
    pieces: Callable[[int], Iterator[Buffer]]


class Source(NamedTuple):
    """All that is sealed together.

    Attributes:
        about: for everybody to read: ``kind`` and ``step``.
        items: in the order in which they are sealed.
    """

    about: Mapping[str, Any]
    items: Sequence[Item]


def source_of(path: Path) -> Source:
    """What lies at a path.

    Args:
        path: a checkpoint's folder, such as ``RUN/checkpoints/200``, or a ``.safetensors`` file.

    Raises:
        DamagedError: it is not what was written, or not finite.
        ConfigError: it is neither, or a file of a whole state.
    """
    if path.suffix == ".safetensors" and path.is_file():
        return _of_file(path)
    if not path.is_dir():
        raise ConfigError(
            f"{path} is no checkpoint and no .safetensors file",
            expected="a folder such as RUN/checkpoints/200, or an exported file",
            do="check the path",
        )
    return _of_checkpoint(path)


def _of_checkpoint(path: Path) -> Source:
    manifest = read_manifest(path)
    record = read_record(path, manifest)
    check_finite(path, manifest)
    items = [_tensor(path, name, entry) for name, entry in manifest.tensors.items()]
    # As JSON keeps its order, what is written back is the same text.
    content = json.dumps(record).encode()
    items.append(Item(RECORD, "training", len(content), {}, partial(cut, content)))
    return Source({"kind": "checkpoint", "step": record["step"]}, items)


def _tensor(path: Path, name: str, entry: Entry) -> Item:
    spec = entry.spec

    def pieces(chunk: int) -> Iterator[Buffer]:
        return _bytes(read_checked(path, name, entry), chunk)

    about = {"shape": list(spec.shape), "dtype": spec.dtype, "generator": spec.generator}
    return Item(name, group_of(name), spec.nbytes(), about, pieces)


def state_source(
    state: PyTree,
    step: int,
    *,
    record: Mapping[str, Any] | None = None,
    window: Sequence[npt.NDArray[Any]] = (),
    snapshot: bool = False,
) -> Source:
    """A state that is sealed from memory, so that nothing of it is on disk in the clear.

    Args:
        state: a pytree of arrays and typed keys, all of them on this process's devices.
        step: updates done.
        record: what JSON can hold, for whoever opens it with the role train.
        window: arrays to keep beside the state, for the same.
        snapshot: take all of it to the host now, so that a step may consume the state before it is
            sealed; else one leaf at a time is taken, when it is sealed.

    Raises:
        CheckpointError: a leaf is no array, or lies on other processes too.
    """
    items: list[Item] = []
    leaves = {STATE + name: leaf for name, leaf in named(state).items()}
    leaves |= {f"{WINDOW}{i}": np.array(array) for i, array in enumerate(window)}
    for name, leaf in leaves.items():
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            raise CheckpointError(
                f"{name} lies on several processes",
                expected="a state that one process can read",
                do="save a checkpoint, and seal that: jaxdl checkpoint seal",
            )
        spec = spec_of(leaf)
        about = {"shape": list(spec.shape), "dtype": spec.dtype, "generator": spec.generator}
        if snapshot:
            leaf = np.asarray(words(leaf)) if isinstance(leaf, jax.Array) else np.array(leaf)  # noqa: PLW2901
        items.append(Item(name, group_of(name), spec.nbytes(), about, partial(_leaf, leaf)))
    words_of = {"format": 1, "step": step, "time": time.time(), "metrics": {}, **(record or {})}
    content = json.dumps(words_of).encode()
    items.append(Item(RECORD, "training", len(content), {}, partial(cut, content)))
    return Source({"kind": "checkpoint", "step": step}, items)


def _leaf(leaf: Any, chunk: int) -> Iterator[Buffer]:
    return _bytes(np.asarray(words(leaf)), chunk)


def _bytes(values: npt.NDArray[Any], chunk: int) -> Iterator[Buffer]:
    flat = np.ascontiguousarray(values).reshape(-1)
    return cut(flat.view(np.uint8).data if flat.size else b"", chunk)


def _of_file(path: Path) -> Source:
    head, tensors, metadata = _head(path)
    if metadata.get("source") == "state":
        raise ConfigError(
            f"{path} holds a whole state, and a file is sealed for every role",
            expected="parameters, or their moving average",
            do="seal the checkpoint itself: its optimizer state is for the role train alone",
        )
    items = [Item(HEAD, "params", len(head), {}, partial(cut, head))]
    for start, stop, name in tensors:
        read = partial(_read, path, len(head) + start, stop - start)
        items.append(Item(name, "params", stop - start, {}, read))
    step = metadata.get("step", "")
    return Source({"kind": "export", "step": int(step) if step.isdecimal() else None}, items)


def _head(path: Path) -> tuple[bytes, list[tuple[int, int, str]], Mapping[str, str]]:
    try:
        with path.open("rb") as file:
            first = file.read(8)
            size = int.from_bytes(first, "little")
            if size > _LARGEST_HEAD:
                raise ValueError("its header is too large")
            head = first + file.read(size)
            content = os.fstat(file.fileno()).st_size - len(head)
        words = json.loads(head[8:])
        metadata = words.pop("__metadata__", {})
        tensors = sorted((*each["data_offsets"], name) for name, each in words.items())
        end = 0
        for start, stop, _ in tensors:
            if start != end or stop < start:
                raise ValueError("its tensors do not follow each other")
            end = stop
        if end != content:
            raise ValueError(f"it holds {content:,} bytes of tensors, not {end:,}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(
            f"{path} cannot be read as safetensors: {error}",
            expected="a whole .safetensors file",
            do="export it again",
        ) from error
    return head, tensors, metadata


def _read(path: Path, start: int, size: int, chunk: int) -> Iterator[Buffer]:
    with path.open("rb") as file:
        file.seek(start)
        for number in range(chunks_of(size, chunk)):
            yield file.read(min(chunk, size - number * chunk))


def listed(items: Sequence[Item]) -> Item:
    """The list of a group's items, which is sealed before them.

    Args:
        items: of one group, in order.
    """
    content = canonical([[item.name, dict(item.about)] for item in items])
    return Item("the list of names", items[0].group, len(content), {}, partial(cut, content))


def check_sizes(items: Sequence[Item]) -> int:
    """How many bytes there are.

    Args:
        items: of all groups.

    Raises:
        CheckpointError: there are none, or two have one name.
    """
    twice = [name for name, count in Counter(item.name for item in items).items() if count > 1]
    if twice or not any(item.group == "params" for item in items):
        raise CheckpointError(
            f"{twice[0]!r} is there twice" if twice else "there are no parameters to seal",
            expected="parameters, each under a name of its own",
            do="seal a checkpoint of a train state, or an export of its parameters",
        )
    return sum(item.size for item in items)
