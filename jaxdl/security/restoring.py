"""What was opened, as a checkpoint's folder, a .safetensors file, or a state on the devices.

Reads from: errors, protocols, checkpoints, security.opening, .roles, .sources. Used by:
security, security.store.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

import jax
import numpy as np

from jaxdl.checkpoints import Checkpoints, Keep
from jaxdl.checkpoints.reading import STATE, WINDOW, first_line
from jaxdl.checkpoints.tensors import Spec, differences, generator, named, rebuilt, spec_of, words
from jaxdl.errors import CheckpointError, ConfigError
from jaxdl.protocols import PyTree
from jaxdl.security.opening import Opened
from jaxdl.security.roles import group_of
from jaxdl.security.sources import HEAD, RECORD

__all__ = ["restore", "write_checkpoint", "write_file"]


def restore(opened: Opened, like: PyTree, *, partly: bool = False) -> Any:
    """A state on the devices; nothing of it is written to disk.

    Args:
        opened: from ``open_sealed``, of a checkpoint or a state.
        like: the state's structure in ``jax.ShapeDtypeStruct`` with shardings, such as
            ``placed.abstract_state(batch)``.
        partly: fill what the key does not open with zeros, to measure the model without the
            optimizer's state; else the role train is wanted.

    Raises:
        CheckpointError: it holds another state (what differs is listed), or the key opens less.
        DamagedError: something is not what was sealed.
    """
    stored = {
        name.removeprefix(STATE): Spec(tuple(about["shape"]), about["dtype"], about["generator"])
        for name, (_, _, about) in opened.items.items()
        if name.startswith(STATE)
    }
    wanted = named(like)
    closed = {name for name in wanted if partly and group_of(STATE + name) not in opened.keys}
    readable = {name: spec_of(leaf) for name, leaf in wanted.items() if name not in closed}
    lines = differences(stored, readable)
    if lines:
        raise CheckpointError(
            f"{opened.folder} holds another state:\n    " + "\n    ".join(lines[:8]),
            expected="the same parameters, optimizer and options, and a key with the role train",
            do="use the recipe that it was trained with",
        )

    def read(name: str) -> Any:
        leaf = wanted[name]
        flat = words(leaf)
        values = np.zeros(flat.shape, flat.dtype) if name in closed else opened.read(STATE + name)
        array = jax.device_put(values, flat.sharding)
        kind = generator(leaf)
        return array if kind is None else jax.random.wrap_key_data(array, impl=kind)

    return rebuilt(like, {name: read(name) for name in wanted})


def write_checkpoint(opened: Opened, folder: Path) -> Path:
    """Writes a checkpoint, in the clear, into a folder of checkpoints.

    It holds what the key opens: with the role train the whole, to the bit; else parameters, for
    ``checkpoints.load_partial``, ``Recipe(init_from=...)`` and ``checkpoints.export``.

    Args:
        opened: from ``open_sealed``.
        folder: of checkpoints; it need not exist.

    Returns:
        The checkpoint's folder.

    Raises:
        ConfigError: a file was sealed, or the folder has this step already.
        DamagedError: something is not what was sealed.
        CheckpointError: it cannot be written.
    """
    step = opened.envelope.about.get("step")
    if HEAD in opened.items or not isinstance(step, int):
        raise ConfigError(
            f"{opened.folder} holds an exported file",
            expected="a sealed checkpoint",
            do="open it into a .safetensors file",
        )
    record = json.loads(opened.read(RECORD).tobytes()) if RECORD in opened.items else {}
    windows = [name for name in opened.items if name.startswith(WINDOW)]
    windows.sort(key=lambda name: int(name.removeprefix(WINDOW)))
    # All that is there stays: a folder of checkpoints is opened into, not thinned out.
    store = Checkpoints(folder, keep=Keep(latest=1 << 30))
    saved = store.save(
        step,
        _state(opened),
        record=record,
        window=[opened.read(name) for name in windows],
        metrics=record.get("metrics"),
    )
    store.close()
    if not saved:
        raise ConfigError(
            f"{folder} has a checkpoint of step {step} already",
            expected="a folder without one",
            do="give another folder",
        )
    return Path(folder) / str(step)


def _state(opened: Opened) -> dict[str, Any]:
    """Dictionaries of leaves, whose names are those that were sealed."""
    tree: dict[str, Any] = {}
    for name, (_, _, about) in opened.items.items():
        if not name.startswith(STATE):
            continue
        entries = name.removeprefix(STATE).split("/")
        *path, last = ["" if entry == "%" else unquote(entry) for entry in entries]
        inner = tree
        for entry in path:
            inner = inner.setdefault(entry, {})
        values, kind = opened.read(name), about["generator"]
        inner[last] = (
            values
            if kind is None
            else jax.random.wrap_key_data(jax.numpy.asarray(values), impl=kind)
        )
    return tree


def write_file(
    opened: Opened,
    out: Path,
    *,
    source: Literal["params", "ema"] = "params",
    overwrite: bool = False,
) -> Path:
    """Writes a .safetensors file, in the clear, which only its owner may read.

    Of a sealed file it is that file, to the bit, with one chunk in memory at a time; of a sealed
    checkpoint the parameters by their paths, all of them in memory.

    Args:
        opened: from ``open_sealed``.
        out: the file.
        source: the parameters or their moving average; of a sealed file it has no say.
        overwrite: replace a file that is there.

    Returns:
        The file.

    Raises:
        ConfigError: ``out`` is there already, or is named otherwise.
        DamagedError: something is not what was sealed.
        CheckpointError: there is no such source, or the file cannot be written.
    """
    out = Path(out)
    named_so = out.suffix == ".safetensors"
    if not named_so or (out.exists() and not overwrite):
        raise ConfigError(
            f"{out} {'is there already' if named_so else 'is not named as a safetensors file'}",
            expected="a new file that ends in .safetensors",
            do="give another file, or say overwrite",
        )
    new = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            for piece in _content(opened, source):
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        new.replace(out)
    except OSError as error:
        raise CheckpointError(
            f"{out} could not be written: {first_line(error)}",
            expected="a folder that may be written, on a disk with room",
            do="make the folder or some room, or give another file",
        ) from error
    finally:
        with suppress(OSError):
            new.unlink(missing_ok=True)
    return out


def _content(opened: Opened, source: str) -> Iterator[bytes]:
    if HEAD in opened.items:
        for group, number, _ in opened.items.values():
            yield from opened.part(group, number)
        return
    prefix = f"{STATE}{source}/"
    names = [name for name in opened.items if name.startswith(prefix)]
    if not names:
        raise CheckpointError(
            f"{opened.folder} holds no {source}",
            expected="a train state; a moving average only if its recipe has ema_decay",
            do="open the other source",
        )
    import safetensors
    import safetensors.numpy

    about = {"step": str(opened.envelope.about.get("step")), "source": source}
    try:
        tensors = {name.removeprefix(prefix): opened.read(name) for name in names}
        yield safetensors.numpy.save(tensors, metadata=about)
    except safetensors.SafetensorError as error:
        raise CheckpointError(
            f"{opened.folder} holds a dtype that safetensors cannot: {first_line(error)}",
            expected="float64 to float8, bfloat16, bool or integers of 8 to 64 bits",
            do="open it into a folder",
        ) from error
