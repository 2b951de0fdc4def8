"""Sound: WAV files read, spectrograms and mel bands of it.

What works on signals is a pure JAX function; files are read by the standard library.

Reads from: errors, units. Used by: recipes, by choice.
"""

from __future__ import annotations

import io
import os
import wave
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from jaxdl.errors import BatchError, ConfigError, DataError
from jaxdl.units import Number

__all__ = ["log_mel", "mel_filters", "read_wav", "spectrogram"]

_DO = "convert the file, for example with: ffmpeg -i in -acodec pcm_s16le -ar 16000 out.wav"


def read_wav(
    file: str | os.PathLike[str] | io.IOBase,
    *,
    sample_rate: int | None = None,
    channels: Literal["mono", "mix", "keep"] = "mono",
) -> tuple[npt.NDArray[np.float32], int]:
    """The samples of an uncompressed WAV file, from -1 to 1.

    Args:
        file: a path, or an open binary file (of an archive).
        sample_rate: in Hz; another one in the file is an error. Nothing is resampled.
        channels: ``"mono"`` takes files of one channel only, ``"mix"`` their mean, ``"keep"`` all.

    Returns:
        ``(samples, sample_rate)``: float32 ``[N]``, or ``[N, channels]`` with ``"keep"``.

    Raises:
        DataError: the file is missing, is no PCM WAV of 8, 16, 24 or 32 bits, is cut short, or has
            another sample rate or more channels than asked for.
    """
    name = file if isinstance(file, str | os.PathLike) else getattr(file, "name", "the file")
    try:
        opened: Any = os.fspath(file) if isinstance(file, os.PathLike) else file
        with wave.open(opened, "rb") as sound:
            rate, count, frames = sound.getframerate(), sound.getnchannels(), sound.getnframes()
            width, raw = sound.getsampwidth(), sound.readframes(frames)
    except (wave.Error, EOFError, OSError) as error:
        raise DataError(
            f"{name} cannot be read as WAV: {error}",
            expected="an uncompressed (PCM) WAV file",
            do=_DO,
        ) from error
    wrong = None
    if len(raw) != frames * width * count:
        wrong = f"{len(raw)} bytes of sound where its head says {frames * width * count}"
    elif sample_rate is not None and rate != sample_rate:
        wrong = f"{rate} Hz where {sample_rate} Hz were asked for"
    elif channels == "mono" and count != 1:
        wrong = f"{count} channels where one was asked for"
    elif width not in (1, 2, 3, 4):
        wrong = f"samples of {8 * width} bits"
    if wrong:
        raise DataError(
            f"{name} has {wrong}",
            expected="whole PCM samples of 8, 16, 24 or 32 bits, at the rate and channels asked",
            do=_DO + "; channels='mix' takes the mean of several",
        )
    samples = _samples(raw, width).reshape(-1, count)
    if channels == "keep":
        return samples, rate
    return samples.mean(axis=1, dtype=np.float32), rate


def _samples(raw: bytes, width: int) -> npt.NDArray[np.float32]:
    if width == 1:
        return (np.frombuffer(raw, np.uint8).astype(np.float32) - 128.0) / 128.0
    if width == 3:
        # In the upper three bytes of four: the sign is then in its place.
        padded = np.zeros((len(raw) // 3, 4), np.uint8)
        padded[:, 1:] = np.frombuffer(raw, np.uint8).reshape(-1, 3)
        return (padded.view("<i4")[:, 0] / 2.0**31).astype(np.float32)
    kind = "<i2" if width == 2 else "<i4"
    return (np.frombuffer(raw, kind) / 2.0 ** (8 * width - 1)).astype(np.float32)


def spectrogram(
    signal: Any,
    *,
    sample_rate: Number,
    frame: int,
    hop: int,
    fft_size: int | None = None,
    window: str = "hann",
    scaling: Literal["density", "spectrum"] = "density",
    mode: Literal["psd", "magnitude"] = "psd",
) -> jax.Array:
    """Power or magnitude of each frequency in overlapping frames.

    ``scipy.signal.spectrogram(signal, sample_rate, window, frame, frame - hop, fft_size,
    detrend=False, scaling=scaling, mode=mode)`` with time before frequency. Frame ``t`` begins at
    sample ``t * hop``; samples that fill no frame are left out.

    Args:
        signal: floats, shape ``[..., N]``.
        sample_rate: in Hz.
        frame: samples in a frame.
        hop: samples from one frame to the next.
        fft_size: samples of the transform, the rest 0; ``frame`` when ``None``.
        window: a name that ``scipy.signal.get_window`` knows.
        scaling: power in a band of 1 Hz, or of a sine.
        mode: power, or the magnitude of the complex transform.

    Returns:
        Shape ``[..., 1 + (N - frame) // hop, 1 + fft_size // 2]``.

    Raises:
        BatchError: the signal is no floats, or shorter than a frame.
        ConfigError: the sizes make no frames.

    Examples:
        >>> spectrogram(jnp.ones(100), sample_rate=8000, frame=20, hop=10).shape
        (9, 11)
    """
    size = frame if fft_size is None else fft_size
    signal = jnp.asarray(signal)
    if not (1 <= hop <= frame <= size):
        raise ConfigError(
            f"hop is {hop}, frame {frame}, fft_size {size}",
            expected="1 <= hop <= frame <= fft_size",
            do="25 and 10 ms are usual: frame=0.025 * sample_rate, hop=0.01 * sample_rate",
        )
    if not jnp.issubdtype(signal.dtype, jnp.floating) or signal.shape[-1:] < (frame,):
        raise BatchError(
            f"spectrogram got {signal.dtype} of shape {list(signal.shape)}",
            expected=f"floats [..., N] with N at least {frame}",
            do="read it with read_wav, or pad it with zeros",
        )
    _, _, found = jax.scipy.signal.stft(
        signal,
        sample_rate,
        window=window,
        nperseg=frame,
        noverlap=frame - hop,
        nfft=size,
        boundary=None,
        padded=False,
    )
    found = jnp.swapaxes(found, -1, -2)
    taps = _window(window, frame)
    # The transform comes divided by the sum of the window, as "spectrum" has it.
    factor = 1.0
    if scaling == "density":
        factor = taps.sum() ** 2 / (sample_rate * (taps**2).sum())
    if mode == "magnitude":
        return jnp.abs(found) * factor**0.5
    # Both halves of the spectrum, but frequency 0 and the highest have no other half.
    doubled = np.full(1 + size // 2, 2.0)
    doubled[0] = 1.0
    if size % 2 == 0:
        doubled[-1] = 1.0
    power = jnp.square(found.real) + jnp.square(found.imag)
    weights = jnp.asarray(doubled * factor, power.dtype)
    return power * weights.reshape((1,) * (power.ndim - 1) + weights.shape)


def _window(name: str, size: int) -> npt.NDArray[np.float64]:
    from scipy.signal import get_window

    return np.asarray(get_window(name, size), np.float64)


def mel_filters(
    bands: int,
    *,
    sample_rate: Number,
    fft_size: int,
    low: Number = 0.0,
    high: Number | None = None,
    scale: Literal["slaney", "htk"] = "slaney",
    unit_area: bool | None = None,
) -> npt.NDArray[np.float32]:
    r"""Triangles over frequency, evenly spaced in mel.

    HTK: :math:`m = 2595 \log_{10}(1 + f / 700)` (Young et al., "The HTK book", 5.4). Slaney:
    :math:`3 f / 200` below 1 kHz, then 27 mel for each factor of 6.4 (Slaney 1998, "Auditory
    toolbox").

    Args:
        bands: how many.
        sample_rate: in Hz.
        fft_size: of the spectrogram.
        low: lowest frequency in Hz.
        high: highest frequency in Hz; half of ``sample_rate`` when ``None``.
        scale: which of the two.
        unit_area: whether each triangle has the area 1 in Hz, rather than the height 1; as the
            scale has it when ``None`` (Slaney's do, HTK's do not).

    Returns:
        float32, shape ``[1 + fft_size // 2, bands]``.

    Raises:
        ConfigError: the frequencies are out of order, or there are too many bands: one is empty.
    """
    top = sample_rate / 2 if high is None else high
    if not (bands >= 1 and 0 <= low < top <= sample_rate / 2) or scale not in ("slaney", "htk"):
        raise ConfigError(
            f"{bands} bands of the scale {scale!r} from {low} to {top} Hz at {sample_rate} Hz",
            expected="at least one band of 'slaney' or 'htk', 0 <= low < high <= sample_rate / 2",
            do="leave low and high out for all frequencies",
        )
    edges = _hertz(np.linspace(_mel(low, scale), _mel(top, scale), bands + 2), scale)
    hertz = np.linspace(0.0, sample_rate / 2, 1 + fft_size // 2)
    if fft_size % 2:
        hertz = np.arange(1 + fft_size // 2) * sample_rate / fft_size
    rising = (hertz[:, None] - edges[None, :-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[None, 2:] - hertz[:, None]) / (edges[2:] - edges[1:-1])
    found = np.maximum(0.0, np.minimum(rising, falling))
    if (found.max(axis=0) == 0).any():
        raise ConfigError(
            f"of {bands} bands {int((found.max(axis=0) == 0).sum())} hold no frequency of "
            f"fft_size={fft_size}",
            expected="bands at least as wide as the step between frequencies",
            do="take fewer bands, or a larger fft_size",
        )
    if (scale == "slaney") if unit_area is None else unit_area:
        found *= 2.0 / (edges[2:] - edges[:-2])
    return found.astype(np.float32)


def _mel(hertz: Number, scale: str) -> float:
    if scale == "htk":
        return float(2595.0 * np.log10(1.0 + hertz / 700.0))
    return 3.0 * hertz / 200.0 if hertz < 1000.0 else float(15.0 + 27.0 * _log64(hertz / 1000.0))


def _log64(x: float) -> float:
    return float(np.log(x) / np.log(6.4))


def _hertz(mel: npt.NDArray[np.float64], scale: str) -> npt.NDArray[np.float64]:
    if scale == "htk":
        return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
    return np.where(mel < 15.0, 200.0 * mel / 3.0, 1000.0 * 6.4 ** ((mel - 15.0) / 27.0))


def log_mel(power: Any, filters: Any, *, floor: float = 1e-10) -> jax.Array:
    """The natural log of the power in mel bands.

    Args:
        power: of ``spectrogram``, shape ``[..., T, F]``.
        filters: of ``mel_filters``, shape ``[F, bands]``.
        floor: the least power, in the place of which smaller ones are taken.

    Returns:
        Shape ``[..., T, bands]``.

    Raises:
        BatchError: the shapes do not go together.
    """
    power, filters = jnp.asarray(power), jnp.asarray(filters)
    if filters.ndim != 2 or power.ndim < 2 or power.shape[-1] != filters.shape[0]:
        raise BatchError(
            f"log_mel got power {list(power.shape)} and filters {list(filters.shape)}",
            expected="[..., T, F] and [F, bands]",
            do="make both with the same fft_size",
        )
    bands = jnp.matmul(power, filters, precision=jax.lax.Precision.HIGHEST)
    return jnp.log(jnp.maximum(bands, floor))
