"""Prepared TFDS data sets: read through ``data_source``, decoded once, gathered from columns.

TensorFlow is not needed to read: the records are array_record files, decoded by TFDS with Pillow.

Reads from: errors, data.cache, data.decoding, data.folders, data.image_files, data.npy.
Used by: data.handwritten, recipe.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxdl.data.cache import cached
from jaxdl.data.columns import Columns
from jaxdl.data.decoding import Records
from jaxdl.data.folders import cache_folder, data_folder
from jaxdl.data.image_files import resized
from jaxdl.data.npy import digest
from jaxdl.errors import DataError, closest

__all__ = ["tfds"]


def tfds(
    name: str,
    *,
    split: str,
    data_dir: str | os.PathLike[str] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    fields: Sequence[str] | None = None,
    size: tuple[int, int] | None = None,
    cache: bool = True,
) -> Columns | Records:
    """A source over one split of a prepared TFDS data set. Nothing is ever downloaded.

    Class labels become int32; other fields keep the dtype that TFDS gives them. The names of the
    classes are ``source.class_names``. The cache is keyed by the record files' names, sizes and
    modification times, the split, ``fields`` and ``size``.

    Args:
        name: as TFDS spells it: ``"mnist"``, ``"name/config"``, ``"name:version"``.
        split: as TFDS spells it: ``"train"``, ``"train[:90%]"``, ``"train+test"``.
        data_dir: the folder TFDS prepared into; ``None`` as in ``data.folders``.
        cache_dir: the folder for the decoded columns; ``None`` is ``columns`` in ``data_dir``.
        fields: which features to read; ``None`` reads all but texts and nested features.
        size: (height, width) in pixels to resize image features to, bilinearly.
        cache: decode once into columns; ``False`` decodes at every use.

    Returns:
        A source whose fields are the TFDS features.

    Raises:
        DataError: the set is not prepared, or not as array_record; there is no such split or
            field; or the rows of a field differ in shape.
        CacheError: as ``cached``.
    """
    root = data_folder(data_dir)
    builder = _builder(name, root)
    examples, files = _opened(builder, split)
    chosen = _chosen(builder.info.features, fields, name)
    full_name = builder.info.full_name
    source = Records(
        examples,
        fingerprint=digest(["tfds", 1, full_name, files, sorted(chosen), size and list(size)]),
        transform=_Decoder(chosen, size),
        class_names=_class_names(chosen),
    )
    if not cache:
        return source
    readable = re.sub(r"[^A-Za-z0-9.]+", "-", f"{full_name}-{split}").strip("-")
    return cached(source, cache_folder(cache_dir, data_dir), name=readable)


class _Decoder:
    """From a TFDS example to the fields of a row; a class, so that worker processes can have it."""

    def __init__(self, chosen: Mapping[str, Any], size: tuple[int, int] | None):
        import tensorflow_datasets

        features = tensorflow_datasets.features
        self._labels = {n for n, f in chosen.items() if isinstance(f, features.ClassLabel)}
        self._images = {n for n, f in chosen.items() if isinstance(f, features.Image) and size}
        self._names = list(chosen)
        self._size = size

    def __call__(self, example: Mapping[str, Any]) -> dict[str, Any]:
        row = {name: example[name] for name in self._names}
        for name in self._labels:
            row[name] = np.int32(row[name])
        for name in self._images:
            row[name] = resized(row[name], self._size or (0, 0))
        return row


def _builder(name: str, root: Path) -> Any:
    base = re.split("[/:]", name)[0]
    if not (root / base).is_dir():
        there = [p.name for p in root.iterdir() if p.is_dir()] if root.is_dir() else []
        raise _unprepared(name, root, closest(base, [n for n in there if n != "columns"]))
    import tensorflow_datasets

    try:
        builder = tensorflow_datasets.builder(name, data_dir=root)
    except (ValueError, ImportError, OSError, RuntimeError, AssertionError) as error:
        raise _unprepared(name, root, str(error).splitlines()[0]) from error
    if not Path(builder.data_path, "dataset_info.json").is_file():
        raise _unprepared(name, root, f"no {builder.data_path}")
    return builder


def _unprepared(name: str, root: Path, detail: str) -> DataError:
    return DataError(
        f"the data set {name!r} is not prepared in {root} ({detail})",
        expected="a folder that TFDS prepared as array_record",
        do=f"run: jaxdl data prepare {name} --from FOLDER (the folder with its original files), "
        "or give data_dir= (or set JAXDL_DATA_DIR)",
    )


def _opened(builder: Any, split: str) -> tuple[Any, list[Any]]:
    """The records of a split, and what identifies them."""
    info = builder.info
    try:
        instructions = info.splits[split].file_instructions
    except (ValueError, KeyError) as error:
        base = re.split(r"[\[+]", split)[0]
        reason = str(error).splitlines()[-1]
        known = list(info.splits)
        raise DataError(
            f"{info.full_name} has no split {split!r}: {reason}",
            expected=f"one of {', '.join(known)}, or a slice such as '{known[0]}[:90%]'",
            do="check the slice" if base in known else closest(base, known),
        ) from error
    if not instructions:
        raise DataError(
            f"the split {split!r} of {info.full_name} is empty",
            expected="at least one row",
            do="widen the slice",
        )
    try:
        examples = builder.as_data_source(split=split)
    except NotImplementedError as error:
        raise DataError(
            f"{info.full_name} in {builder.data_path} is prepared as {info.file_format.value}",
            expected="array_record, the format with random access",
            do="prepare it again with jaxdl data prepare, into another data_dir",
        ) from error
    files = [(Path(i.filename), i.skip, i.take) for i in instructions]
    stats = [(path.name, skip, take, path.stat()) for path, skip, take in files]
    return examples, [[n, skip, take, s.st_size, s.st_mtime_ns] for n, skip, take, s in stats]


def _chosen(features: Any, fields: Sequence[str] | None, name: str) -> dict[str, Any]:
    """The features to read, those that a device can hold unless the caller chose."""
    for field in fields or ():
        if field not in features:
            raise DataError(
                f"{name} has no feature {field!r}",
                expected=f"some of {', '.join(features)}",
                do=closest(field, features),
            )
    if fields is not None:
        return {field: features[field] for field in fields}
    return {field: feature for field, feature in features.items() if _is_numeric(feature)}


def _is_numeric(feature: Any) -> bool:
    dtype = feature.np_dtype
    return not isinstance(dtype, dict) and np.dtype(dtype).kind not in "OSU"


def _class_names(chosen: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    named = {field: getattr(feature, "names", None) for field, feature in chosen.items()}
    return {field: tuple(names) for field, names in named.items() if names}
