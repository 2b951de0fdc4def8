"""A checkpoint's tensors as one .safetensors file, which other libraries and languages read.

Reads from: errors, data.folders, checkpoints.choosing, .manifest, .reading. Used by: cli, by hand.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from jaxdl import data
from jaxdl.checkpoints.choosing import check_finite
from jaxdl.checkpoints.manifest import Manifest, read_manifest
from jaxdl.checkpoints.reading import STATE, first_line, read_checked, read_record
from jaxdl.errors import CheckpointError, ConfigError

__all__ = ["Exported", "export"]

_THREADS = 4


class Exported(NamedTuple):
    """A file that was written.

    Attributes:
        path: the file.
        step: updates done when the checkpoint was made.
        tensors: how many it holds.
        bytes: its size.
        sha256: of the file, as ``sha256sum`` prints it.
    """

    path: Path
    step: int
    tensors: int
    bytes: int
    sha256: str


def export(
    checkpoint: Path,
    out: Path,
    *,
    source: Literal["params", "ema", "state"] = "params",
    overwrite: bool = False,
) -> Exported:
    """Writes a checkpoint's tensors, their hashes compared, into one .safetensors file.

    A tensor's name is its path, ``dense_0/kernel``, and its bytes are those of the checkpoint. The
    file's metadata says the step, the source and the version of jaxdl; of typed keys, which are
    stored as their words, it names the generators. A file that is half written is never seen.

    Args:
        checkpoint: its folder, such as ``RUN/checkpoints/200``.
        out: the file, ``.safetensors``.
        source: the parameters, their moving average, or the whole state (``params/...``,
            ``opt_state/...``).
        overwrite: replace a file that is there.

    Returns:
        What was written.

    Raises:
        DamagedError: the checkpoint is not what was written, or not finite.
        CheckpointError: it lacks the source, or a dtype is none that the format has; or the file
            cannot be written.
        ConfigError: ``out`` is there already, or is named otherwise.
    """
    checkpoint, out = Path(checkpoint), Path(out)
    _check_out(out, overwrite=overwrite)
    manifest = read_manifest(checkpoint)
    record = read_record(checkpoint, manifest)
    check_finite(checkpoint, manifest)
    names = _names(checkpoint, manifest, source)
    _check_dtypes(checkpoint, manifest, names)

    def read(full: str) -> Any:
        # Not ascontiguousarray, which gives a scalar an axis.
        return np.asarray(read_checked(checkpoint, full, manifest.tensors[full]), order="C")

    with ThreadPoolExecutor(_THREADS) as pool:
        tensors = dict(zip(names, pool.map(read, names.values()), strict=True))
    metadata = {
        "step": str(record["step"]),
        "source": source,
        "jaxdl": importlib.metadata.version("jaxdl"),
    }
    keys = {name: manifest.tensors[full].spec.generator for name, full in names.items()}
    keys = {name: kind for name, kind in keys.items() if kind is not None}
    if keys:
        metadata["keys"] = json.dumps(keys)
    digest = _write(out, tensors, metadata)
    return Exported(out, record["step"], len(tensors), out.stat().st_size, digest)


def _check_out(out: Path, *, overwrite: bool) -> None:
    what = do = None
    if out.suffix != ".safetensors":
        what = f"{out} is not named as a safetensors file"
        do = f"write {out.with_suffix('.safetensors').name}"
    elif out.is_dir() or (out.exists() and not overwrite):
        what, do = f"{out} is there already", "give another file, or say overwrite"
    if what and do:
        raise ConfigError(what, expected="a new file that ends in .safetensors", do=do)


def _names(path: Path, manifest: Manifest, source: str) -> dict[str, str]:
    """Full names of the tensors, by the names that they are exported under."""
    if source == "state":
        prefix, whole = STATE, ""
    else:
        prefix, whole = f"{STATE}{source}/", f"{STATE}{source}"
    names = {
        full.removeprefix(prefix) if full != whole else source: full
        for full in manifest.tensors
        if full.startswith(prefix) or full == whole
    }
    if not names:
        raise CheckpointError(
            f"the checkpoint {path} holds no {source}",
            expected="a moving average, which only a recipe with ema_decay keeps"
            if source == "ema"
            else "a train state",
            do="export another source, such as params",
        )
    return names


def _check_dtypes(path: Path, manifest: Manifest, names: Mapping[str, str]) -> None:
    """Asks the library itself, since its releases know more and more dtypes."""
    import safetensors
    import safetensors.numpy

    for name, full in names.items():
        dtype = manifest.tensors[full].spec.dtype
        try:
            safetensors.numpy.save({"": np.zeros(0, jax.numpy.dtype(dtype))})
        except safetensors.SafetensorError as error:
            raise CheckpointError(
                f"{name} of the checkpoint {path} is {dtype}, which safetensors cannot hold",
                expected="float64 to float8, bfloat16, bool or integers of 8 to 64 bits",
                do="convert it first: checkpoints.read_tensor reads it as a NumPy array",
            ) from error


def _write(out: Path, tensors: Mapping[str, Any], metadata: dict[str, str]) -> str:
    import safetensors.numpy

    new = out.with_name(f".{out.name}.{os.getpid()}")
    with _writing(out, new):
        data.check_space(out.parent, sum(values.nbytes for values in tensors.values()))
        safetensors.numpy.save_file(dict(tensors), new, metadata=metadata)
        with new.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
        new.replace(out)
    return digest


@contextmanager
def _writing(out: Path, new: Path) -> Generator[None]:
    import safetensors

    try:
        yield
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(
            f"{out} could not be written: {first_line(error)}",
            expected="a folder that may be written, on a disk with room",
            do="make the folder or some room, or give another file",
        ) from error
    finally:
        with suppress(OSError):
            new.unlink(missing_ok=True)
