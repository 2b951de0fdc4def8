"""Published weights from the Hugging Face Hub, only when asked and only at a fixed commit.

Reads from: errors. Used by: by hand, recipes.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from jaxdl.errors import ConfigError, DataError, MissingExtraError

__all__ = ["download"]

_FILES = ("*.safetensors", "*.safetensors.index.json", "config.json", "tokenizer.json", "vocab.txt")


def download(
    repository: str, *, revision: str, cache_dir: str | os.PathLike[str] | None = None
) -> Path:
    """Fetches a repository's safetensors, their index, the configuration and the vocabulary.

    Args:
        repository: such as ``"openai-community/gpt2"``.
        revision: the full hash of a commit, 40 hexadecimal digits: a branch or tag may point to
            other weights tomorrow.
        cache_dir: where to; the Hub's own cache when ``None``.

    Returns:
        The folder, for ``load``.

    Raises:
        ConfigError: the revision is no full commit hash, or the name is none.
        MissingExtraError: ``huggingface_hub`` is not installed.
        DataError: the Hub did not give it, or the commit holds no safetensors.
    """
    if not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise ConfigError(
            f"revision is {revision!r}",
            expected="the full hash of a commit, 40 hexadecimal digits",
            do=f"copy it from the history of {repository} on the Hub",
        )
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", repository) or ".." in repository:
        raise ConfigError(
            f"the repository is {repository!r}", expected="OWNER/NAME", do="correct the name"
        )
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise MissingExtraError(
            "huggingface_hub is not installed",
            expected="the extra jaxdl[hub]",
            do="pip install 'jaxdl[hub]', or fetch the files yourself and give load the folder",
        ) from error
    try:
        folder = Path(
            snapshot_download(
                repository,
                revision=revision,
                allow_patterns=list(_FILES),
                cache_dir=None if cache_dir is None else Path(cache_dir),
            )
        )
    except Exception as error:
        raise DataError(
            f"{repository} at {revision} could not be fetched: {error}",
            expected="a repository that may be read, and a network",
            do="check the name, the commit and the connection",
        ) from error
    if not any(folder.glob("*.safetensors")):
        raise DataError(
            f"{repository} at {revision} holds no safetensors",
            expected="weights as .safetensors",
            do="take a later commit, or another repository: pickles are not read",
        )
    return folder
