"""TFDS preparation from files on disk: into a private folder first, then into place.

The private folder is not for tidiness alone. TFDS keeps what it unpacked by file name, so MNIST
and Fashion-MNIST, whose four files have the same names, prepared into one data folder give
Fashion-MNIST the pixels of MNIST, without an error.

Reads from: errors, data.folders. Used by: data.handwritten, cli.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxdl.data.folders import data_folder, disk_errors, locked, move_into_place, scratch
from jaxdl.errors import CacheError, DataError, MissingExtraError

__all__ = ["prepare", "prepare_with"]


def prepare(
    name: str,
    folder: str | os.PathLike[str],
    data_dir: str | os.PathLike[str] | None = None,
) -> Path:
    """Prepares a stock TFDS data set as array_record, from its original files.

    Files are checked against the checksums that TFDS records. Needs TensorFlow (the ``prepare``
    extra), which reading the result does not. Nothing is downloaded.

    Args:
        name: as TFDS spells it, such as ``"mnist"``.
        folder: holds the original files under their original names.
        data_dir: where to prepare into; ``None`` as in ``data.folders``.

    Returns:
        The prepared folder, ``data_dir/NAME/VERSION``. One that was there is left as it is.

    Raises:
        DataError: there is no such folder or data set, files are missing or have another
            checksum, or TFDS fails.
        MissingExtraError: TensorFlow is not installed.
        CacheError: ``data_dir`` cannot be written, or the disk is full.
    """
    files = Path(folder).expanduser()
    if not files.is_dir():
        raise DataError(
            f"there is no folder {files}",
            expected=f"the folder with the original files of {name}",
            do="give it with --from FOLDER",
        )
    if importlib.util.find_spec("tensorflow") is None:
        raise MissingExtraError(
            f"preparing {name} needs TensorFlow, which is not installed",
            expected="the prepare extra (only to prepare; reading does without)",
            do="pip install 'jaxdl[prepare]'",
        )
    import tensorflow_datasets

    def make(root: Path) -> Any:
        return tensorflow_datasets.builder(name, data_dir=root, file_format="array_record")

    root = data_folder(data_dir)
    try:
        builder = make(root)
    except ValueError as error:
        guess = re.search(r"Did you mean.*", str(error))
        raise DataError(
            f"TFDS has no data set {name!r}",
            expected="a name of the TFDS catalogue, such as mnist, fashion_mnist, cifar10",
            do=guess[0] if guess else "see the catalogue of TensorFlow Datasets",
        ) from error
    if not _is_prepared(builder):
        _check_files(builder, name, files)
    config = tensorflow_datasets.download.DownloadConfig(manual_dir=files, try_download_gcs=False)
    try:
        return prepare_with(make, root, config)
    except CacheError:
        raise
    except Exception as error:  # whatever a builder of the catalogue may raise
        raise _failed(name, files, error) from error


def prepare_with(make: Callable[[Path], Any], root: Path, config: Any = None) -> Path:
    """Lets a TFDS builder write its records, in a private folder that is renamed at the end.

    Safe when two processes do it at once: the second waits and finds the work done.

    Args:
        make: from a TFDS data folder to the builder.
        root: the data folder.
        config: a ``tfds.download.DownloadConfig``.

    Returns:
        The prepared folder.

    Raises:
        CacheError: it cannot be written, or the disk is full.
    """
    final = Path(make(root).data_path)
    with disk_errors(final), locked(final):
        if not _is_prepared(make(root)):
            with scratch(final) as private:
                builder = make(private)
                builder.download_and_prepare(
                    download_dir=private / "downloads", download_config=config
                )
                move_into_place(Path(builder.data_path), final)
    return final


def _is_prepared(builder: Any) -> bool:
    """As ``builder.is_prepared()``, which logs a warning when it is not."""
    return Path(builder.data_path, "dataset_info.json").is_file()


def _check_files(builder: Any, name: str, files: Path) -> None:
    """A missing file would be downloaded; sets with configurations do not need all they list."""
    if builder.BUILDER_CONFIGS or builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        return
    wanted = {info.filename for info in (builder.url_infos or {}).values() if info.filename}
    missing = sorted(file for file in wanted if not (files / file).is_file())
    if missing:
        raise DataError(
            f"{files} lacks {', '.join(missing)}",
            expected=f"the original files of {name}: {', '.join(sorted(wanted))}",
            do="put them there under these names, still compressed",
        )


def _failed(name: str, files: Path, error: Exception) -> DataError:
    return DataError(
        f"TFDS could not prepare {name} from {files}: {str(error).strip()}",
        expected="the original files, with the checksums that TFDS records",
        do="get the files again from where the data set's page says",
    )
