"""Examples as pictures, sounds and texts that stand in the page itself.

Reads from: reporting.blocks, .wording. Used by: reporting.mistakes.
"""

from __future__ import annotations

import base64
import io
import wave
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from jaxdl.reporting.blocks import Picture, Sound
from jaxdl.reporting.wording import number

__all__ = ["heat_levels", "kind_of", "map_picture", "picture", "sound"]

Kind = Literal["picture", "spectrogram", "sound", "tokens", "numbers", "scalar", "other"]
_LARGEST_SIDE = 160
_SECONDS, _RATE = 5, 8_000
_FEW = 32


def kind_of(name: str, shape: tuple[int, ...], dtype: Any) -> Kind:
    """How a field of an example is shown.

    Args:
        name: of the field.
        shape: of one example.
        dtype: of it.

    Examples:
        >>> kind_of("image", (8, 8, 1), np.uint8), kind_of("tokens", (32,), np.int32)
        ('picture', 'tokens')
    """
    is_sound = "audio" in name or "sound" in name or "wave" in name
    integer = np.dtype(dtype).kind in "iu"
    if shape in ((), (1,)):
        return "scalar"
    if len(shape) == 3 and shape[-1] in (1, 3):
        return "picture"
    if len(shape) == 2 and (is_sound or "spectr" in name):
        return "sound" if shape[-1] == 1 else "spectrogram"
    if len(shape) == 2 and "image" in name:
        return "picture"
    if len(shape) == 1 and is_sound:
        return "sound"
    if len(shape) == 1 and integer and "mask" not in name:
        return "tokens"
    return "numbers" if len(shape) == 1 and shape[0] <= _FEW and "mask" not in name else "other"


def picture(
    values: npt.NDArray[Any], alt: str, caption: str, *, spectrogram: bool = False
) -> Picture:
    """An image as PNG, its pixels as they are unless there are too many.

    Args:
        values: ``[H, W]``, ``[H, W, 1]`` or ``[H, W, 3]``; bytes, or numbers that are spread from
            black to white. Of a spectrogram ``[T, F]``.
        alt: what it is, in words.
        caption: under it.
        spectrogram: time goes to the right, pitch up.
    """
    values = values[..., 0] if values.ndim == 3 and values.shape[-1] == 1 else values
    if spectrogram:
        values = values.T[::-1]
    shown = values
    if values.dtype != np.uint8:
        shown, words = _spread(values)
        caption = f"{caption} ({words})" if words else caption
    return _png(shown, alt, caption)


def map_picture(values: npt.NDArray[Any], alt: str, caption: str) -> Picture:
    """How much each place weighed, dark for little and light for much.

    Args:
        values: ``[H, W]`` or ``[H, W, C]``, of which the largest channel is shown.
        alt: what it is, in words.
        caption: under it.
    """
    size = np.abs(np.nan_to_num(np.asarray(values, np.float64)))
    size = size.max(axis=-1) if size.ndim == 3 else size
    top = np.quantile(size, 0.99) or size.max() or 1.0
    share = np.clip(size / top, 0, 1)[..., None]
    # From dark blue over orange to a light yellow: lighter is always more.
    stops = np.array([[12, 18, 48], [190, 84, 20], [255, 240, 170]], np.float64)
    below = stops[0] + (stops[1] - stops[0]) * np.minimum(share * 2, 1)
    above = (stops[2] - stops[1]) * np.maximum(share * 2 - 1, 0)
    return _png(np.round(below + above).astype(np.uint8), alt, caption)


def sound(values: npt.NDArray[Any], caption: str, rate: int) -> Sound:
    """A recording as WAV: at most 5 s of it, of at most 8,000 values a second.

    Args:
        values: ``[T]`` or ``[T, 1]``; 16-bit numbers, or numbers of which 1 is the loudest.
        caption: what it is.
        rate: values a second.
    """
    wave_ = values.reshape(-1)[: rate * _SECONDS]
    level = wave_.astype(np.float64) / (32768 if wave_.dtype.kind in "iu" else 1)
    level = np.nan_to_num(level, posinf=0.0, neginf=0.0)
    loudest = float(np.abs(level).max(initial=0.0))
    level = level / loudest if loudest > 1 else level
    every = max(1, -(-rate // _RATE))
    level = level[: len(level) // every * every].reshape(-1, every).mean(axis=1)
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate // every)
        out.writeframes(np.round(level * 32767).astype("<i2").tobytes())
    cut = f", its first {_SECONDS} s" if values.size > rate * _SECONDS else ""
    return Sound(_uri("audio/wav", file.getvalue()), caption + cut)


def heat_levels(values: npt.ArrayLike) -> list[int]:
    """Sizes as levels from 0 to 10, of which the largest is 10.

    Args:
        values: ``[M]``.

    Examples:
        >>> heat_levels([0.0, -0.5, 1.0])
        [0, 5, 10]
    """
    size = np.abs(np.nan_to_num(np.asarray(values, np.float64)))
    top = size.max(initial=0.0)
    return [0] * len(size) if top == 0 else np.round(10 * size / top).astype(int).tolist()


def _spread(values: npt.NDArray[Any]) -> tuple[npt.NDArray[np.uint8], str]:
    given = np.asarray(values, np.float64)
    finite = given[np.isfinite(given)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    words = ""
    if low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    elif low >= 0 and 16 < high <= 255:
        low, high = 0.0, 255.0
    else:
        words = f"{number(low)} to {number(high)}"
    share = (np.nan_to_num(given, nan=low, posinf=high, neginf=low) - low) / ((high - low) or 1.0)
    return np.round(255 * np.clip(share, 0, 1)).astype(np.uint8), words


def _png(pixels: npt.NDArray[np.uint8], alt: str, caption: str) -> Picture:
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(pixels))
    if max(image.size) > _LARGEST_SIDE:
        factor = _LARGEST_SIDE / max(image.size)
        size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
        image = image.resize(size, Image.Resampling.BOX)
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return Picture(_uri("image/png", file.getvalue()), alt, caption, *image.size)


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
