"""A safetensors file, or a folder with one or with a sharded set, opened without reading it whole.

Reads from: errors. Used by: weights.loading.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from jaxdl.errors import CheckpointError, ConfigError, DamagedError

__all__ = ["INDEX", "SINGLE", "Stored"]

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_FOREIGN = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".h5", ".msgpack", ".npz", ".keras"}


class Stored:
    """The tensors of a file or folder: shapes at once, values one at a time.

    Args:
        path: see ``load``.

    Attributes:
        shapes: of every tensor by name.

    Raises:
        CheckpointError: there is nothing there, or it is not all there.
        ConfigError: it is of another format.
        DamagedError: a file is truncated or no safetensors file, or an index is not to be trusted.
    """

    def __init__(self, path: Path):
        self._stack = ExitStack()
        self._holder: dict[str, Any] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        try:
            for file, names in _files(path).items():
                self._open(file, names)
        except BaseException:
            self.close()
            raise

    def read(self, name: str) -> Any:
        """One tensor, as a NumPy array.

        Args:
            name: of it.
        """
        try:
            return self._holder[name].get_tensor(name)
        except (AttributeError, TypeError) as error:
            raise ConfigError(
                f"the tensor {name} has a dtype that NumPy cannot hold: {error}",
                expected="float64 to float16, bfloat16, bool or integers",
                do="convert the file to bfloat16 first",
            ) from error

    def close(self) -> None:
        """Closes the files."""
        self._stack.close()

    def _open(self, file: Path, names: list[str] | None) -> None:
        import safetensors

        _check_head(file)
        try:
            opened = self._stack.enter_context(safetensors.safe_open(file, framework="numpy"))
        except (safetensors.SafetensorError, OSError) as error:
            raise DamagedError(
                f"{file} cannot be read as safetensors: {error}",
                expected="a whole .safetensors file",
                do="fetch it again, and compare its size and hash",
            ) from error
        held = set(opened.keys())
        absent = sorted(set(names or ()) - held)
        if absent:
            raise DamagedError(
                f"{file} lacks {len(absent)} tensors that the index says it holds: {absent[:5]}",
                expected="shards and an index of one export",
                do="fetch the folder again",
            )
        for name in held if names is None else names:
            self._holder[name] = opened
            self.shapes[name] = tuple(opened.get_slice(name).get_shape())


def _files(path: Path) -> dict[Path, list[str] | None]:
    """The files to open, and of each the tensors that it is to hold, where an index says so."""
    if path.is_file():
        if path.name.endswith(".index.json"):
            return _indexed(path)
        return {path: None}
    if not path.is_dir():
        raise CheckpointError(
            f"there is no {path}",
            expected=f"a .safetensors file, or a folder with {SINGLE} or {INDEX}",
            do="check the path; weights.download fetches a folder from the Hub",
        )
    if (path / INDEX).is_file():
        return _indexed(path / INDEX)
    if (path / SINGLE).is_file():
        return {path / SINGLE: None}
    others = sorted(p.name for p in path.iterdir() if p.is_file())
    if any(Path(name).suffix in _FOREIGN for name in others):
        raise _foreign(path, ", ".join(others[:5]))
    raise CheckpointError(
        f"the folder {path} holds no {SINGLE} and no {INDEX} (but: {', '.join(others) or 'none'})",
        expected="weights as safetensors",
        do="give the file itself, if it is named otherwise",
    )


def _indexed(index: Path) -> dict[Path, list[str] | None]:
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        pairs = [(str(name), file) for name, file in weight_map.items()]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise DamagedError(
            f"the index {index} cannot be read: {error!r}",
            expected='JSON with a "weight_map" from tensors to files',
            do="fetch it again",
        ) from error
    files: dict[Path, list[str] | None] = {}
    for name, file in pairs:
        _check_shard(index, file)
        held = files.setdefault(index.parent / file, [])
        if held is not None:
            held.append(name)
    absent = sorted(file.name for file in files if not file.is_file())
    if absent:
        raise CheckpointError(
            f"{index.parent} lacks {len(absent)} of {len(files)} shards: {', '.join(absent)}",
            expected="every file that the index names",
            do="fetch the missing files",
        )
    return files


def _check_shard(index: Path, file: Any) -> None:
    plain = isinstance(file, str) and file not in ("", ".", "..")
    if not plain or set(file) & set("/\\:\0") or not file.endswith(".safetensors"):
        raise DamagedError(
            f"the index {index} names the file {file!r}",
            expected="the plain name of a .safetensors file beside it",
            do="do not use this folder: an index has no reason to point elsewhere",
        )


def _check_head(file: Path) -> None:
    if file.suffix in _FOREIGN:
        raise _foreign(file, file.name)
    try:
        with file.open("rb") as opened:
            head = opened.read(64)
    except OSError as error:
        raise CheckpointError(
            f"{file} cannot be opened: {error}", expected="a readable file", do="check its rights"
        ) from error
    if (
        head.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"))
        and head[8:9] != b"{"
    ):
        raise _foreign(file, "it begins like a pickle or zip archive")
    if head.startswith(b"version https://git-lfs"):
        raise DamagedError(
            f"{file} is a Git LFS pointer, not the file itself",
            expected="a .safetensors file",
            do="run git lfs pull where it came from",
        )


def _foreign(path: Path, what: str) -> ConfigError:
    return ConfigError(
        f"{path} holds no safetensors ({what})",
        expected="a .safetensors file; pickles run code as they are read, so none is ever read",
        do="convert it where PyTorch is: safetensors.torch.save_file(torch.load(file, "
        "weights_only=True), 'model.safetensors'), or take the repository's safetensors file",
    )
