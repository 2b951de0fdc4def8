"""The header of something sealed: what it holds and for whom, and how that is written down.

Reads from: errors, security.streams. Used by: security,
security.proving, .roles, .sources, .sealing, .opening, .changing.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from jaxdl.errors import CheckpointError, DamagedError
from jaxdl.security.streams import sealed_size

__all__ = [
    "Envelope",
    "Grant",
    "Group",
    "Part",
    "Revoked",
    "canonical",
    "damaged",
    "header_of",
    "parsed",
]

FORMAT = 1
_HEX = {"id": 32, "salt": 64, "sha256": 64, "key": 16}


class Part(NamedTuple):
    """One sealed tensor, or the list of them.

    Attributes:
        size: bytes of plaintext.
        sha256: of the sealed bytes.
    """

    size: int
    sha256: str


class Group(NamedTuple):
    """Tensors under one data key, one after the other in one file.

    Attributes:
        file: its name.
        salt: hexadecimal, of the derivation of the tensors' keys.
        parts: the first is the list of the others.
    """

    file: str
    salt: str
    parts: tuple[Part, ...]

    def sealed_bytes(self, chunk: int) -> int:
        """The size of the file.

        Args:
            chunk: bytes in a chunk.
        """
        return sum(sealed_size(part.size, chunk) for part in self.parts)


class Grant(NamedTuple):
    """The data keys of a role, wrapped for one key.

    Attributes:
        role: which.
        key: the id of the key that opens it.
        salt: hexadecimal, drawn for this wrapping.
        wrapped: hexadecimal.
    """

    role: str
    key: str
    salt: str
    wrapped: str


class Revoked(NamedTuple):
    """A key that had a role.

    Attributes:
        role: which.
        key: its id.
        generation: of the envelope that took it away.
    """

    role: str
    key: str
    generation: int


@dataclass(frozen=True)
class Envelope:
    """A header.

    Attributes:
        id: of what is sealed; it stays the same for good.
        generation: how often the envelope was written, from 1.
        epoch: the generation in which the tensors were last encrypted.
        about: what is sealed, for everybody: its kind and step.
        chunk: bytes in a chunk.
        groups: by name.
        grants: who may open what.
        revoked: who may no longer.
    """

    id: str
    generation: int
    epoch: int
    about: Mapping[str, Any]
    chunk: int
    groups: Mapping[str, Group]
    grants: tuple[Grant, ...]
    revoked: tuple[Revoked, ...] = ()

    def context(self, group: str) -> bytes:
        """What every chunk of a group is bound to: all of the header that does not change when
        roles do.

        Args:
            group: its name.
        """
        made = self.groups[group]
        sizes = [part.size for part in made.parts]
        words = [FORMAT, self.id, self.epoch, dict(self.about), self.chunk, group, made.salt, sizes]
        return hashlib.sha256(canonical(words)).digest()


def canonical(value: Any) -> bytes:
    """The one way that a value is written in JSON here.

    Args:
        value: what JSON can hold.

    Examples:
        >>> canonical({"b": 1, "a": [2, "x"]})
        b'{"a":[2,"x"],"b":1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")


def header_of(envelope: Envelope) -> bytes:
    """A header in JSON.

    Args:
        envelope: the header.
    """
    return canonical(_plain(envelope))


def _plain(envelope: Envelope) -> dict[str, Any]:
    groups = {
        name: {"file": made.file, "salt": made.salt, "parts": [list(part) for part in made.parts]}
        for name, made in envelope.groups.items()
    }
    return {
        "format": FORMAT,
        "id": envelope.id,
        "generation": envelope.generation,
        "epoch": envelope.epoch,
        "about": dict(envelope.about),
        "chunk": envelope.chunk,
        "groups": groups,
        "grants": [grant._asdict() for grant in envelope.grants],
        "revoked": [gone._asdict() for gone in envelope.revoked],
    }


def parsed(folder: Path, header: bytes) -> Envelope:
    """A header from JSON. What is not spelt as ``header_of`` does it is refused.

    Args:
        folder: of what is sealed, for messages.
        header: from ``header_of``.

    Raises:
        CheckpointError: another version of jaxdl sealed it.
        DamagedError: it is no header.
    """
    try:
        words = json.loads(header)
        version = words.pop("format")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise damaged(folder, "its header is another") from error
    if version != FORMAT:
        raise CheckpointError(
            f"{folder} is sealed in format {version}",
            expected=f"format {FORMAT}",
            do="open it with the version of jaxdl that sealed it",
        )
    try:
        envelope = Envelope(
            groups={name: _group(each) for name, each in words.pop("groups").items()},
            grants=tuple(_tuple(Grant, each) for each in words.pop("grants")),
            revoked=tuple(_tuple(Revoked, each) for each in words.pop("revoked")),
            **words,
        )
        _check(envelope)
        if header_of(envelope) != header:
            raise ValueError("it is spelt otherwise")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise damaged(folder, "its header is another") from error
    return envelope


def _group(words: Any) -> Group:
    parts = tuple(Part(*each) for each in words["parts"])
    return Group(words["file"], words["salt"], parts)


def _tuple(kind: Callable[..., Any], words: Any) -> Any:
    made = kind(**words)
    if not all(isinstance(value, str | int) for value in made):
        raise ValueError("a field is of another type")
    for name in ("key", "salt"):
        if name in words:
            _check_hex(name, words[name])
    return made


def _check_hex(name: str, value: Any) -> None:
    if not isinstance(value, str) or not re.fullmatch(rf"[0-9a-f]{{{_HEX[name]}}}", value):
        raise ValueError(f"{name} is no hexadecimal number of {_HEX[name]} digits")


def _check(envelope: Envelope) -> None:
    """A signature says who wrote a header, not that it makes sense."""
    _check_hex("id", envelope.id)
    numbers = [envelope.generation, envelope.epoch, envelope.chunk]
    for group in envelope.groups.values():
        _check_hex("salt", group.salt)
        if not re.fullmatch(r"[a-z]{1,20}-[0-9]{1,20}\.bin", group.file) or not group.parts:
            raise ValueError("a group's file is none")
        for part in group.parts:
            _check_hex("sha256", part.sha256)
            numbers.append(part.size + 1)
    if not all(type(number) is int and number > 0 for number in numbers):
        raise ValueError("a number is none")
    if "params" not in envelope.groups or not isinstance(envelope.about, dict):
        raise ValueError("it holds no parameters")


def damaged(folder: Path, reason: str) -> DamagedError:
    """The error of an envelope that is not what was written.

    Args:
        folder: of what is sealed.
        reason: how it shows.
    """
    return DamagedError(
        f"the envelope of {folder} was altered: {reason}",
        expected="the file as it was signed",
        do="take another copy",
    )
