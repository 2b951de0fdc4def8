"""The column cache: whole or not there, verified, safe in two processes, clear on a full disk."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxdl import data
from jaxdl.data import cache as cache_module
from jaxdl.errors import CacheError


class Counting:
    """A source that counts how often its rows are decoded."""

    fingerprint = "f" * 40

    def __init__(self, rows: int = 50):
        self.decoded = 0
        self._inner = data.arrays(
            {
                "image": np.arange(rows * 4, dtype=np.uint8).reshape(rows, 2, 2),
                "label": np.arange(rows),
            }
        )
        self.spec = self._inner.spec

    def __len__(self) -> int:
        return len(self._inner)

    def gather(self, indices):
        self.decoded += len(indices)
        return self._inner.gather(indices)


def only_folder(root: Path) -> Path:
    return next(path for path in root.iterdir() if path.is_dir())


def test_rows_are_decoded_once(tmp_path):
    source = Counting()
    for _ in range(3):
        columns = data.cached(source, tmp_path)
        rows = columns.gather(np.arange(50))
        expected = source._inner.gather(np.arange(50))
        for name in expected:
            np.testing.assert_array_equal(rows[name], expected[name])
    assert source.decoded == 50
    assert sorted(p.name for p in only_folder(tmp_path).iterdir()) == [
        "image.npy", "label.npy", "manifest.json",
    ]  # fmt: skip


def flip(path: Path, place: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[place % len(raw)] ^= 1
    stat = path.stat()
    path.write_bytes(raw)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


DAMAGE = {
    "a flipped bit": lambda folder: flip(folder / "image.npy", -3),
    "a flipped bit of the header": lambda folder: flip(folder / "label.npy", 12),
    "truncated": lambda folder: os.truncate(folder / "image.npy", 100),
    "deleted": lambda folder: (folder / "label.npy").unlink(),
    "no manifest": lambda folder: (folder / "manifest.json").unlink(),
    "a torn manifest": lambda folder: os.truncate(folder / "manifest.json", 40),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named_and_mended_from_the_source(tmp_path, damage):
    source = Counting()
    data.cached(source, tmp_path)
    DAMAGE[damage](only_folder(tmp_path))
    with pytest.raises(CacheError):
        data.open_columns(only_folder(tmp_path))
    with pytest.warns(UserWarning, match="the cache is made again"):
        columns = data.cached(source, tmp_path)
    np.testing.assert_array_equal(columns.gather(np.arange(50))["label"], np.arange(50))
    assert source.decoded == 100


@pytest.mark.parametrize("place", range(0, 320, 16))
def test_no_flipped_bit_is_read_in_silence(tmp_path, place):
    data.cached(Counting(), tmp_path)
    flip(only_folder(tmp_path) / "image.npy", place)
    with pytest.raises(CacheError, match="damaged"):
        data.open_columns(only_folder(tmp_path))


BUILD = """
import sys, time, numpy as np
from jaxdl import data
class Slow:
    fingerprint = "s" * 40
    inner = data.arrays({"x": np.arange(64)})
    spec = inner.spec
    def __len__(self): return 64
    def gather(self, indices):
        print("decoded", flush=True); time.sleep(0.5)
        return self.inner.gather(indices)
print(int(data.cached(Slow(), sys.argv[1]).gather(np.array([63]))["x"][0]))
"""


def test_two_processes_build_it_once(tmp_path):
    command = [sys.executable, "-c", BUILD, str(tmp_path)]
    both = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ})
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert all("63" in output for output in outputs)
    assert sum(output.count("decoded") for output in outputs) == 1
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == [only_folder(tmp_path).name]


def leftovers(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_dir() or path.suffix == ".npy"]


def test_no_room_is_found_out_before_anything_is_decoded(tmp_path, monkeypatch):
    usage = type(shutil.disk_usage(tmp_path))(100, 90, 10)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    source = Counting()
    with pytest.raises(CacheError, match=r"too full to write(.|\n)*bytes; 10 bytes are free"):
        data.cached(source, tmp_path)
    assert source.decoded == 0
    assert leftovers(tmp_path) == []


def test_a_disk_that_fills_while_writing_leaves_nothing(tmp_path, monkeypatch):
    def full(self, chunk):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache_module._ColumnFile, "append", full)
    with pytest.raises(CacheError, match="too full"):
        data.cached(Counting(), tmp_path)
    assert leftovers(tmp_path) == []


def test_a_folder_that_may_not_be_written(tmp_path, monkeypatch):
    def forbidden(self, *args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", forbidden)
    with pytest.raises(CacheError, match=r"cannot be written(.|\n)*JAXDL_DATA_DIR"):
        data.cached(Counting(), tmp_path / "new")


def test_no_source_no_cache(tmp_path):
    with pytest.raises(CacheError):
        data.open_columns(tmp_path / "nothing")
