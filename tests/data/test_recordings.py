"""WAV files of folders and tars, and the spoken digits among them by split."""

from __future__ import annotations

import io
import tarfile
import wave

import numpy as np
import pytest

from jaxdl.data.audio import read_wav
from jaxdl.data.recordings import spoken_digits, wav_files
from jaxdl.errors import ConfigError, DataError


def write(path, samples, rate=8000):
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(np.asarray(samples, "<i2").tobytes())


@pytest.fixture
def folder(tmp_path):
    """Recordings of two digits; each tells its digit and index by its samples."""
    found = tmp_path / "recordings"
    found.mkdir()
    for digit in (7, 0):
        for index in (12, 2, 5, 10):
            write(found / f"{digit}_someone_{index}.wav", [1000 * digit + index] * (index + 1))
    (found / "README.md").write_text("no sound")
    return found


def packed(folder, file, mode="w"):
    """The folder as a tar, its files in no order."""
    with tarfile.open(file, mode) as archive:
        for path in sorted(folder.iterdir(), key=lambda path: path.name[::-1]):
            archive.add(path, f"recordings/{path.name}")
    return file


@pytest.mark.parametrize("mode", ["w", "w:gz"], ids=["plain", "gz"])
def test_a_folder_and_its_tar_are_the_same(folder, tmp_path, mode):
    tar = packed(folder, tmp_path / "all.tar", mode)
    first, second = (
        [(name, *read_wav(file)) for name, file in wav_files(path)] for path in (folder, tar)
    )
    assert [name for name, *_ in second] == [f"recordings/{name}" for name, *_ in first]
    assert [name for name, *_ in first] == sorted(path.name for path in folder.glob("*.wav"))
    for (_, samples, rate), (_, others, same) in zip(first, second, strict=True):
        assert rate == same == 8000
        np.testing.assert_array_equal(samples, others)
    # A folder above: the names are those in the tar.
    above = [name for name, _ in wav_files(folder.parent)]
    assert above == [name for name, *_ in second]


def told(splits):
    """What the samples of each recording say: its digit and index."""
    return {
        name: [(round(float(sound[0]) * 2**15), len(sound), digit) for sound, digit in rows]
        for name, rows in splits.items()
    }


def rows(*indices):
    return [(1000 * digit + index, index + 1, digit) for digit in (0, 7) for index in indices]


def test_the_index_says_the_split(folder):
    found = told(spoken_digits(folder))
    assert found == {"train": rows(10, 12), "validation": rows(5), "test": rows(2)}
    found = told(spoken_digits(folder, validation=range(12, 13)))
    assert found == {"train": rows(10, 5), "validation": rows(12), "test": rows(2)}


def test_what_is_no_folder_and_no_tar_is_told(folder, tmp_path):
    for path in (tmp_path / "absent.tar", folder / "README.md"):
        with pytest.raises(DataError, match="no folder and no tar"):
            list(wav_files(path))
    tar = packed(folder, tmp_path / "all.tgz", "w:gz")
    tar.write_bytes(tar.read_bytes()[:-60])
    with pytest.raises(DataError, match=r"all\.tgz cannot be read"):
        list(wav_files(tar))


@pytest.mark.parametrize("name", ["hello.wav", "x_someone_3.wav", "12_someone_3.wav", "1_a.wav"])
def test_other_names_are_told(folder, name):
    (folder / name).write_bytes(b"")
    with pytest.raises(DataError, match=f"holds {name}") as caught:
        spoken_digits(folder)
    assert "digit_speaker_index" in caught.value.expected


def test_what_is_no_sound_is_told_by_its_name(folder, tmp_path):
    write(folder / "3_someone_9.wav", [1, 2], rate=16000)
    for path in (folder, packed(folder, tmp_path / "all.tar")):
        with pytest.raises(DataError, match=r"3_someone_9\.wav has 16000 Hz where 8000"):
            spoken_digits(path)
    (folder / "3_someone_9.wav").write_bytes(b"RIFF")
    with pytest.raises(DataError, match=r"3_someone_9\.wav cannot be read as WAV"):
        spoken_digits(folder)


def test_every_split_needs_a_recording(folder):
    with pytest.raises(DataError, match="6 train, 0 validation, 2 test recordings"):
        spoken_digits(folder, validation=range(40, 50))
    with pytest.raises(ConfigError, match=r"validation is range\(4, 6\)"):
        spoken_digits(folder, validation=range(4, 6))
    with pytest.raises(ConfigError, match="5 to 9"):
        spoken_digits(folder, validation=range(0))


def test_a_file_at_a_time(folder):
    name, file = next(wav_files(folder))
    assert isinstance(file, io.BytesIO)
    assert name == "0_someone_10.wav"
