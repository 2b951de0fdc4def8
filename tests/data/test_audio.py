"""Sound: WAV of every depth, spectrograms against scipy's, mel scales, normalising, masking."""

from __future__ import annotations

import io
import wave

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from jaxdl.data.audio import log_mel, mel_filters, read_wav, spectrogram
from jaxdl.data.spectrograms import normalized, spec_augment
from jaxdl.errors import BatchError, ConfigError, DataError


def wav(samples, width: int, *, rate: int = 8000, channels: int = 1) -> io.BytesIO:
    """A file of integers as wide as said."""
    raw = b"".join(
        int(s + (128 if width == 1 else 0)).to_bytes(width, "little", signed=width > 1)
        for s in np.ravel(samples)
    )
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(channels)
        out.setsampwidth(width)
        out.setframerate(rate)
        out.writeframes(raw)
    file.seek(0)
    return file


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_every_depth_is_read(width, tmp_path):
    top = 2 ** (8 * width - 1)
    samples = np.array([0, 1, -1, top - 1, -top, top // 3])
    got, rate = read_wav(wav(samples, width), sample_rate=8000)
    assert rate == 8000
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, samples / top, rtol=1e-7, atol=1e-9)
    path = tmp_path / "a.wav"
    path.write_bytes(wav(samples, width).getvalue())
    np.testing.assert_array_equal(read_wav(path)[0], got)
    np.testing.assert_array_equal(read_wav(str(path))[0], got)


def test_channels():
    samples = np.array([[100, 300], [-100, 0], [7, 9]])
    both = read_wav(wav(samples, 2, channels=2), channels="keep")[0]
    np.testing.assert_allclose(both, samples / 2**15)
    mixed = read_wav(wav(samples, 2, channels=2), channels="mix")[0]
    np.testing.assert_allclose(mixed, samples.mean(1) / 2**15)
    with pytest.raises(DataError, match="2 channels where one"):
        read_wav(wav(samples, 2, channels=2))


def test_what_is_no_such_file_is_told(tmp_path):
    with pytest.raises(DataError, match="8000 Hz where 16000 Hz"):
        read_wav(wav([1, 2], 2), sample_rate=16000)
    with pytest.raises(DataError, match="cannot be read as WAV"):
        read_wav(io.BytesIO(b"not sound at all"))
    with pytest.raises(DataError, match="cannot be read as WAV"):
        read_wav(io.BytesIO(b""))
    with pytest.raises(DataError, match=r"absent\.wav cannot be read"):
        read_wav(tmp_path / "absent.wav")
    floats = bytearray(wav([1, 2], 4).getvalue())
    floats[20] = 3
    with pytest.raises(DataError, match="cannot be read as WAV"):
        read_wav(io.BytesIO(bytes(floats)))
    with pytest.raises(DataError, match="bytes of sound where its head says"):
        read_wav(io.BytesIO(wav(range(50), 2).getvalue()[:-20]))


SIGNAL = np.random.default_rng(0).normal(size=(2, 700)).astype(np.float32)


@pytest.mark.parametrize("mode", ["psd", "magnitude"])
@pytest.mark.parametrize("scaling", ["density", "spectrum"])
@pytest.mark.parametrize(
    ("frame", "hop", "size", "window"), [(64, 20, None, "hann"), (50, 50, 75, "hamming")]
)
def test_the_spectrogram_is_scipys(mode, scaling, frame, hop, size, window):
    got = spectrogram(
        SIGNAL,
        sample_rate=8000,
        frame=frame,
        hop=hop,
        fft_size=size,
        window=window,
        scaling=scaling,
        mode=mode,
    )
    _, _, expected = scipy.signal.spectrogram(
        SIGNAL.astype(np.float64),
        8000,
        window,
        frame,
        frame - hop,
        size,
        detrend=False,
        scaling=scaling,
        mode=mode,
    )
    expected = expected.swapaxes(-1, -2)
    assert got.shape == expected.shape == (2, 1 + (700 - frame) // hop, 1 + (size or frame) // 2)
    assert np.abs(got - expected).max() < 1e-5 * np.abs(expected).max()


def test_a_spectrogram_is_differentiable_and_compiled():
    def total(x):
        return jnp.sum(spectrogram(x, sample_rate=8000, frame=64, hop=32))

    grad = jax.jit(jax.grad(total))(jnp.asarray(SIGNAL))
    assert np.isfinite(grad).all()
    assert (np.abs(grad) > 0).any()


@pytest.mark.parametrize("scale", ["slaney", "htk"])
@pytest.mark.parametrize(("size", "bands"), [(512, 40), (256, 20)])
def test_mel_filters_are_those_of_transformers(scale, size, bands):
    theirs = pytest.importorskip("transformers.audio_utils", reason="`make slow` installs it")
    expected = theirs.mel_filter_bank(
        1 + size // 2,
        bands,
        50.0,
        4000.0,
        8000,
        norm="slaney" if scale == "slaney" else None,
        mel_scale=scale,
    )
    got = mel_filters(bands, sample_rate=8000, fft_size=size, low=50.0, scale=scale)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-7)


def test_mel_scales_at_known_places():
    """One band of HTK's scale peaks in the middle of mel; 1 kHz is 15 mel of Slaney's."""
    filters = mel_filters(1, sample_rate=8000, fft_size=8000, scale="htk")
    top = 2595 * np.log10(1 + 4000 / 700)
    assert filters[:, 0].argmax() == round(700 * (10 ** (top / 2 / 2595) - 1))
    filters = mel_filters(1, sample_rate=4000, fft_size=4000, scale="slaney", high=2000.0)
    middle = (15 + 27 * np.log(2) / np.log(6.4)) / 2
    assert filters[:, 0].argmax() == round(200 * middle / 3)
    # The area of a unit triangle, in steps of 1 Hz.
    assert filters.sum() == pytest.approx(1.0, rel=1e-3)


def test_log_mel_is_the_log_of_the_bands():
    power = spectrogram(SIGNAL, sample_rate=8000, frame=64, hop=32)
    filters = mel_filters(6, sample_rate=8000, fft_size=64)
    got = log_mel(power, filters)
    expected = np.log(np.asarray(power, np.float64) @ filters)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    assert (log_mel(jnp.zeros((3, 33)), filters, floor=1e-3) == np.log(np.float32(1e-3))).all()


def test_normalised_rows():
    x = np.random.default_rng(0).normal(3, 2, (2, 30, 4)).astype(np.float32)
    mask = np.arange(30)[None] < np.array([30, 12])[:, None]
    got = np.asarray(normalized(np.where(mask[..., None], x, np.nan), mask))
    for row, length in enumerate((30, 12)):
        np.testing.assert_allclose(got[row, :length].mean(0), 0, atol=1e-5)
        np.testing.assert_allclose(got[row, :length].std(0), 1, atol=1e-4)
        assert (got[row, length:] == 0).all()
    assert np.isfinite(normalized(x, np.zeros((2, 30)))).all()


def test_masked_stripes_belong_to_the_row():
    x = np.ones((6, 40, 10), np.float32)
    lengths = np.array([40, 40, 20, 10, 5, 40])
    mask = np.arange(40)[None] < lengths[:, None]
    keys = jax.random.split(jax.random.key(0), 6)
    augment = jax.jit(
        lambda x, keys, mask: spec_augment(x, keys, mask, bands=(1, 4), frames=(1, 8), share=0.2)
    )
    got = np.asarray(augment(x, keys, mask))
    alone = np.asarray(augment(x[2:3], keys[2:3], mask[2:3]))
    np.testing.assert_array_equal(got[2], alone[0])
    assert len({row.tobytes() for row in got}) > 3
    for row, length in enumerate(lengths):
        frames = (got[row] == 0).all(1)
        assert frames.sum() <= min(8, int(0.2 * length + 1e-4))
        bands = (got[row][~frames] == 0).all(0)
        assert bands.sum() <= 4
        np.testing.assert_array_equal(got[row] == 0, frames[:, None] | bands[None])


def test_every_width_and_place_of_a_stripe_is_drawn():
    keys = jax.random.split(jax.random.key(1), 400)
    got = np.asarray(spec_augment(jnp.ones((400, 3, 6)), keys, bands=(1, 3), frames=(0, 0)))
    lost = (got == 0).all(1)
    assert set(lost.sum(1)) == {0, 1, 2, 3}
    assert lost.any(0).all()


def test_wrong_arguments_are_told():
    with pytest.raises(ConfigError, match="hop is 30"):
        spectrogram(SIGNAL, sample_rate=8000, frame=20, hop=30)
    with pytest.raises(BatchError, match="N at least 800"):
        spectrogram(SIGNAL, sample_rate=8000, frame=800, hop=30)
    with pytest.raises(BatchError, match="int16"):
        spectrogram(SIGNAL.astype(np.int16), sample_rate=8000, frame=20, hop=10)
    with pytest.raises(ConfigError, match="hold no frequency"):
        mel_filters(80, sample_rate=8000, fft_size=64)
    with pytest.raises(ConfigError, match="from 0.0 to 5000"):
        mel_filters(8, sample_rate=8000, fft_size=512, high=5000)
    with pytest.raises(BatchError, match="log_mel got"):
        log_mel(jnp.ones((3, 5)), jnp.ones((4, 2)))
    with pytest.raises(ConfigError, match="share 2"):
        spec_augment(jnp.ones((1, 3, 5)), jax.random.split(jax.random.key(0), 1), share=2.0)
