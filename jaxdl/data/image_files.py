"""Images in class folders: ``FOLDER/CLASS/*.png`` as a source of ``image`` and ``label``.

Reads from: errors, data.cache, data.decoding, data.npy. Used by: data.prepared, recipe.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from jaxdl.data.cache import cached
from jaxdl.data.columns import Columns
from jaxdl.data.decoding import Records
from jaxdl.data.npy import digest
from jaxdl.errors import ConfigError, DataError

__all__ = ["image_folder", "resized"]

_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}


def image_folder(
    path: str | os.PathLike[str],
    *,
    size: tuple[int, int],
    channels: int = 3,
    crop: bool = False,
    cache: bool = True,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Columns | Records:
    """A source of the images under ``path``, one sub-folder a class.

    Classes are the sub-folders in the order of their sorted names, rows are sorted by class and
    file name, and ``source.class_names["label"]`` are the names. Hidden entries and files that
    are no images by their suffix are passed over.

    Args:
        path: the folder of class folders.
        size: (height, width) in pixels; images are resized to it bilinearly.
        channels: 3 for RGB, 1 for grey.
        crop: keep shapes: resize the largest part in the middle that has the shape of ``size``.
            ``False`` stretches the whole image. For random resized crops decode to a larger size
            than the crops', and crop in the transform of ``Batches``.
        cache: decode once into columns; ``False`` decodes at every use.
        cache_dir: where to; as ``cached``.

    Returns:
        A source with ``image`` (uint8 ``[height, width, channels]``) and ``label`` (int32).

    Raises:
        DataError: no such folder, no class folders, a class without images, or an unreadable
            image.
        ConfigError: ``channels`` is neither 1 nor 3, or ``size`` is not positive.
        CacheError: as ``cached``.
    """
    if channels not in (1, 3) or min(size) < 1:
        raise ConfigError(
            f"size is {size} and channels is {channels}",
            expected="a positive (height, width), and 1 (grey) or 3 (RGB) channels",
            do="correct them",
        )
    root = Path(path)
    names, files = _listed(root)
    mode = "RGB" if channels == 3 else "L"

    def row(example: tuple[Path, int]) -> dict[str, Any]:
        file, label = example
        return {"image": _decoded(file, size, mode, crop=crop), "label": np.int32(label)}

    stats = [(str(f.relative_to(root)), label, *_stamp(f)) for f, label in files]
    kept = ["crop"] if crop else []
    source = Records(
        files,
        fingerprint=digest(["image_folder", 1, list(size), channels, *kept, names, stats]),
        transform=row,
        class_names={"label": names},
    )
    return cached(source, cache_dir, name=f"{root.absolute().name}") if cache else source


def resized(image: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """One image brought to a size, bilinearly, without cropping.

    Args:
        image: uint8 ``[H, W, C]`` with 1, 3 or 4 channels.
        size: (height, width) in pixels.

    Returns:
        uint8 ``[height, width, C]``.

    Examples:
        >>> resized(np.full((2, 3, 1), 7, np.uint8), (4, 5)).shape
        (4, 5, 1)
    """
    from PIL import Image

    squeezed = image[..., 0] if image.shape[-1] == 1 else image
    small = Image.fromarray(squeezed).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(small).reshape(*size, image.shape[-1])


def _listed(root: Path) -> tuple[list[str], list[tuple[Path, int]]]:
    layout = "FOLDER/CLASS/IMAGE.png, one sub-folder a class"
    if not root.is_dir():
        raise DataError(f"there is no folder {root}", expected=layout, do="check the path")
    classes = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    files: list[tuple[Path, int]] = []
    for label, folder in enumerate(classes):
        found = sorted(
            p
            for p in folder.iterdir()
            if p.suffix.lower() in _SUFFIXES and not p.name.startswith(".")
        )
        if not found:
            raise DataError(
                f"the class folder {folder} holds no image",
                expected=f"files ending in {', '.join(sorted(_SUFFIXES))}",
                do="remove the folder, or put its images directly into it",
            )
        files.extend((file, label) for file in found)
    if not classes:
        raise DataError(
            f"{root} has no sub-folders", expected=layout, do="sort the images into class folders"
        )
    return [folder.name for folder in classes], files


def _stamp(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def _decoded(file: Path, size: tuple[int, int], mode: str, *, crop: bool) -> npt.NDArray[np.uint8]:
    from PIL import Image, ImageOps

    bilinear = Image.Resampling.BILINEAR
    try:
        with Image.open(file) as image:
            whole, new = image.convert(mode), (size[1], size[0])
            small = ImageOps.fit(whole, new, bilinear) if crop else whole.resize(new, bilinear)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(
            f"the image {file} cannot be read: {error}",
            expected="a whole image file of a format that Pillow knows",
            do="replace or remove the file",
        ) from error
    return np.asarray(small).reshape(*size, -1)
