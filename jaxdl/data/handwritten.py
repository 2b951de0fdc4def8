"""The 1,797 handwritten digits that scikit-learn ships, as a TFDS builder of jaxdl's own.

The embedded data set: no download and no TensorFlow, and yet the very path that MNIST and
ImageNet take (TFDS preparation, array_record, decode once, columns, gather).

Source: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998 (its test part).

Reads from: data.folders, data.preparing, data.prepared. Used by: recipe.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from jaxdl.data.columns import Columns
from jaxdl.data.decoding import Records
from jaxdl.data.folders import data_folder
from jaxdl.data.prepared import tfds
from jaxdl.data.preparing import prepare_with

__all__ = ["digits"]

_VERSION = "1.0.0"
_VALIDATION, _TEST = 180, 360


def digits(
    *,
    split: str,
    data_dir: str | os.PathLike[str] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Columns | Records:
    """The handwritten digits of scikit-learn, prepared on first use (about a second).

    8x8 grey images whose 17 levels of ink (0 to 16) are spread over 0 to 255, and 10 classes.
    Splits, stratified and fixed: ``train`` 1,257, ``validation`` 180, ``test`` 360.

    Args:
        split: as TFDS spells it, such as ``"train"`` or ``"train+validation"``.
        data_dir: as ``tfds``.
        cache_dir: as ``tfds``.

    Returns:
        A source with ``image`` (uint8 ``[8, 8, 1]``) and ``label`` (int32).

    Raises:
        DataError: there is no such split.
        CacheError: a folder cannot be written, or the disk is full.
    """
    root = data_folder(data_dir)
    if not (root / "digits" / _VERSION / "dataset_info.json").is_file():
        with contextlib.redirect_stdout(io.StringIO()), _no_progress_bar():
            prepare_with(_builder, root)
    return tfds("digits", split=split, data_dir=root, cache_dir=cache_dir)


def _builder(data_dir: Path) -> Any:
    return _builder_class()(data_dir=data_dir, file_format="array_record")


@functools.cache
def _builder_class() -> Any:
    """The builder's class, made on first use: its base class comes with a heavy import."""
    import tensorflow_datasets as tfds

    class Digits(tfds.core.GeneratorBasedBuilder):
        """Optical Recognition of Handwritten Digits (UCI), the part that scikit-learn ships."""

        VERSION = tfds.core.Version(_VERSION)
        RELEASE_NOTES: ClassVar[dict[str, str]] = {_VERSION: "First release."}

        def _info(self) -> Any:
            # Tensor, not Image: TFDS encodes Image with TensorFlow.
            return tfds.core.DatasetInfo(
                builder=self,
                description=str(self.__doc__),
                features=tfds.features.FeaturesDict(
                    {
                        "image": tfds.features.Tensor(shape=(8, 8, 1), dtype=np.uint8),
                        "label": tfds.features.ClassLabel(num_classes=10),
                    }
                ),
                supervised_keys=("image", "label"),
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[Any]]:
            del dl_manager
            return {split: self._generate_examples(rows) for split, rows in _splits().items()}

        def _generate_examples(self, rows: Any) -> Iterator[tuple[int, dict[str, Any]]]:
            from sklearn.datasets import load_digits

            images, labels = map(np.asarray, load_digits(return_X_y=True))
            ink = np.round(images * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
            for row in rows.tolist():
                yield row, {"image": ink[row], "label": int(labels[row])}

    return Digits


def _splits() -> dict[str, Any]:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    labels = load_digits(return_X_y=True)[1]
    rest, test = train_test_split(
        np.arange(len(labels)), test_size=_TEST, stratify=labels, random_state=0
    )
    train, validation = train_test_split(
        rest, test_size=_VALIDATION, stratify=labels[rest], random_state=0
    )
    return {"train": train, "validation": validation, "test": test}


@contextlib.contextmanager
def _no_progress_bar() -> Generator[None]:
    """A bar is noise for one second of work. TFDS can only switch it for the whole process."""
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    try:
        yield
    finally:
        tfds.enable_progress_bar()
