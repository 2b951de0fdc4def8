"""What a judge is shown: texts, images and sounds, each inside the page.

Reads from: errors. Used by: judging.questions.
"""

from __future__ import annotations

import base64
import mimetypes
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxdl.errors import ConfigError, DataError

__all__ = ["Media", "pieces"]

_EXPECTED = (
    'a text, {"text": ...}, {"image": FILE, "alt": ...}, {"audio": FILE, "alt": ...}, or a list '
    "of these"
)
_URI = re.compile(r"data:(image|audio)/[a-z0-9.+-]+;base64,[A-Za-z0-9+/]+={0,2}")
# Not known to every system's table of types.
_TYPES = {
    ".avif": "image/avif",
    ".flac": "audio/flac",
    ".m4a": "audio/mp4",
    ".oga": "audio/ogg",
    ".ogg": "audio/ogg",
    ".opus": "audio/ogg",
    ".wav": "audio/wav",
    ".webp": "image/webp",
}


class Media:
    """The images and sounds of a page, each held once, in the order in which they are shown.

    Args:
        folder: what relative paths start from.

    Attributes:
        uris: the data URIs so far.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self.uris: list[str] = []

    def number(self, kind: str, source: str) -> int:
        """Takes an image or a sound in.

        Args:
            kind: ``"image"`` or ``"audio"``.
            source: a file, or a data URI.

        Returns:
            Its place in ``uris``.

        Raises:
            DataError: the file cannot be read, or is of another kind.
        """
        uri = source if source.startswith("data:") else self._read(kind, source)
        if not _URI.fullmatch(uri) or not uri.startswith(f"data:{kind}/"):
            raise DataError(
                f"{uri[:40]!r}... is no data URI of {kind}",
                expected=f"data:{kind}/TYPE;base64,...",
                do="give a file's path",
            )
        if uri not in self.uris:
            self.uris.append(uri)
        return self.uris.index(uri)

    def _read(self, kind: str, source: str) -> str:
        path = self._folder / source
        found = _TYPES.get(path.suffix.lower()) or mimetypes.guess_type(path.name)[0] or ""
        if not found.startswith(f"{kind}/"):
            raise DataError(
                f"{source} is not known to be {kind} by its name",
                expected="a file of a type that browsers show, such as .png, .jpg, .wav or .mp3",
                do="convert it; the page asks no other computer for anything",
            )
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(
                f"{path} cannot be read: {error.strerror}",
                expected=f"a file of {kind}",
                do="check the path; relative ones start from the folder of the items",
            ) from error
        return f"data:{found};base64,{base64.b64encode(content).decode()}"


def pieces(content: Any, media: Media, where: str) -> list[dict[str, Any]]:
    """A prompt or an answer as the page holds it.

    Args:
        content: a text, a mapping with ``text``, ``image`` or ``audio``, or a list of these.
        media: takes images and sounds in.
        where: for messages.

    Returns:
        Mappings of ``text``, or of ``image`` or ``audio`` (a number of ``media``) and ``alt``.

    Raises:
        ConfigError: it is something else.
        DataError: a file cannot be read.
    """
    if isinstance(content, list):
        return [piece for each in content for piece in pieces(each, media, where)]
    if isinstance(content, str):
        return [{"text": content}]
    named: Mapping[Any, Any] = content if isinstance(content, Mapping) else {}
    kinds = [kind for kind in ("text", "image", "audio") if kind in named]
    strings = all(isinstance(value, str) for value in named.values())
    if len(kinds) != 1 or not strings or set(named) - {*kinds, "alt"}:
        raise ConfigError(
            f"{where} is {str(content)[:80]}", expected=_EXPECTED, do="see docs/judging.md"
        )
    (kind,) = kinds
    if kind == "text":
        return [{"text": named["text"]}]
    return [{kind: media.number(kind, named[kind]), "alt": named.get("alt", "")}]
