"""Recordings: the WAV files of a folder or a tar, and the spoken digits that come as one.

Reads from: errors, data.audio. Used by: recipes, by choice.
"""

from __future__ import annotations

import io
import os
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from jaxdl.data.audio import read_wav
from jaxdl.errors import ConfigError, DataError

__all__ = ["spoken_digits", "wav_files"]

_RATE, _DIGITS, _TEST = 8000, 10, 5


class _Named(io.BytesIO):
    """Bytes that know the name they have in an archive, for what is said of them."""

    def __init__(self, name: str, contents: bytes) -> None:
        super().__init__(contents)
        self.name = name


def wav_files(path: str | os.PathLike[str]) -> Iterator[tuple[str, io.BytesIO]]:
    """The WAV files of a folder, with all folders in it, or of a tar of one.

    Only the file at hand is in memory. Files are known by their ending, ``.wav``; ``read_wav``
    tells whether one is sound.

    Args:
        path: the folder, or the tar, compressed or not. Of the latter nothing is unpacked on disk.

    Yields:
        ``(name, file)``, by name: the path within the folder or tar, and a file that
        ``audio.read_wav`` takes.

    Raises:
        DataError: there is no such folder or tar, or the tar is damaged.
    """
    path = Path(path)
    if path.is_dir():
        for name, file in sorted((f.relative_to(path).as_posix(), f) for f in path.rglob("*.wav")):
            yield name, _Named(str(file), file.read_bytes())
        return
    if not path.is_file() or not tarfile.is_tarfile(path):
        raise DataError(
            f"{path} is no folder and no tar",
            expected="a folder of .wav files, or a tar of one",
            do="correct the path",
        )
    try:
        with tarfile.open(path) as archive:
            members = [m for m in archive if m.isfile() and m.name.endswith(".wav")]
            for member in sorted(members, key=lambda member: member.name):
                file = archive.extractfile(member)
                if file is not None:
                    yield member.name, _Named(f"{path}: {member.name}", file.read())
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise DataError(
            f"{path} cannot be read: {error}", expected="a whole tar", do="copy it again"
        ) from error


def spoken_digits(
    path: str | os.PathLike[str], *, validation: range = range(5, 10)
) -> dict[str, list[tuple[npt.NDArray[np.float32], int]]]:
    """The Free Spoken Digit Dataset: English digits, by split.

    Each file is one digit, ``digit_speaker_index.wav``, at 8 kHz. The recordings of index 0 to 4
    are the test, as the data set has it; of the rest some are the validation. Source: Jackson et
    al., github.com/Jakobovski/free-spoken-digit-dataset.

    Args:
        path: the folder of its recordings, or a tar of it, see ``wav_files``.
        validation: indices of the recordings of each speaker and digit that are the validation.

    Returns:
        ``train``, ``validation`` and ``test``: for each recording ``(samples, digit)``, float32
        ``[N]`` from -1 to 1, ordered by the names of the files.

    Raises:
        ConfigError: ``validation`` is empty, or reaches into the test.
        DataError: a file has another name or is no sound at 8 kHz, or a split has no recording.
    """
    if not validation or min(validation) < _TEST:
        raise ConfigError(
            f"validation is {validation}",
            expected=f"indices from {_TEST} on: those below are the test",
            do="leave it out for 5 to 9",
        )
    splits: dict[str, list[tuple[npt.NDArray[np.float32], int]]]
    splits = {"train": [], "validation": [], "test": []}
    for name, file in wav_files(path):
        digit, index = _digit_and_index(path, name)
        samples, _ = read_wav(file, sample_rate=_RATE)
        held_out = "validation" if index in validation else "train"
        splits["test" if index < _TEST else held_out].append((samples, digit))
    if not all(splits.values()):
        raise DataError(
            f"{path} has {', '.join(f'{len(v)} {k}' for k, v in splits.items())} recordings",
            expected=f"some for each split: index 0 to {_TEST - 1}, {validation}, and the rest",
            do="give the whole data set",
        )
    return splits


def _digit_and_index(path: str | os.PathLike[str], name: str) -> tuple[int, int]:
    """What ``digit_speaker_index.wav`` says."""
    parts = PurePosixPath(name).stem.split("_")
    numbers = [part for part in parts[::2] if part.isascii() and part.isdigit()]
    if len(parts) != 3 or len(numbers) != 2 or int(numbers[0]) >= _DIGITS:
        raise DataError(
            f"{path} holds {name}",
            expected="recordings named digit_speaker_index.wav",
            do="give the recordings of the Free Spoken Digit Dataset",
        )
    return int(numbers[0]), int(numbers[1])
