"""Opening what is sealed, tensor by tensor, and verifying it without a key.

Reads from: errors, security.ciphers, .envelope, .keys, .proving, .roles, .streams. Used by:
security, security.changing, .restoring.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np
import numpy.typing as npt

from jaxdl.errors import CheckpointError, ConfigError, SealError, closest
from jaxdl.security.ciphers import check_installed
from jaxdl.security.envelope import Envelope
from jaxdl.security.keys import Secret
from jaxdl.security.proving import Trust, read_envelope
from jaxdl.security.roles import unwrapped
from jaxdl.security.streams import Stream, altered, opened, sealed_size

__all__ = ["Opened", "open_sealed", "verify_sealed"]

_READ = 1 << 20


@dataclass(frozen=True)
class Opened:
    """Something sealed, as far as a key opens it. Nothing of it is on disk in the clear.

    Attributes:
        folder: of what is sealed.
        envelope: its header.
        keys: data keys by group; it does not show them.
    """

    folder: Path
    envelope: Envelope
    keys: Mapping[str, bytes]

    def __repr__(self) -> str:
        return f"Opened({str(self.folder)!r}, {', '.join(self.keys)})"

    def __reduce__(self) -> NoReturn:
        raise ConfigError(
            f"{self!r} was about to be pickled, with its data keys",
            expected="keys that stay in the process that read them",
            do="open it where it is needed",
        )

    @cached_property
    def items(self) -> dict[str, tuple[str, int, dict[str, Any]]]:
        """Group, number and description of everything that the key opens, by name."""
        found: dict[str, tuple[str, int, dict[str, Any]]] = {}
        for group in self.keys:
            content = b"".join(self.part(group, 0))
            try:
                names = [(str(name), dict(about)) for name, about in json.loads(content)]
            except (ValueError, TypeError) as error:
                raise altered(f"the list of {group} in {self.folder}") from error
            if len(names) + 1 != len(self.envelope.groups[group].parts):
                raise altered(f"the list of {group} in {self.folder}")
            for number, (name, about) in enumerate(names, start=1):
                found[name] = (group, number, about)
        return found

    def part(self, group: str, number: int) -> Iterator[bytes]:
        """The plaintext of a part, in chunks. It counts only once the iteration has ended.

        Args:
            group: its name.
            number: of the part.

        Raises:
            DamagedError: it is not what was sealed.
            CheckpointError: its file cannot be read.
        """
        envelope, made = self.envelope, self.envelope.groups[group]
        before = sum(sealed_size(part.size, envelope.chunk) for part in made.parts[:number])
        size, sha256 = made.parts[number]
        salt = bytes.fromhex(made.salt)
        stream = Stream.derived(self.keys[group], salt, number, envelope.context(group))
        name = f"part {number} of {made.file} in {self.folder}"
        try:
            with (self.folder / made.file).open("rb") as file:
                file.seek(before)
                yield from opened(file, size, stream, envelope.chunk, sha256=sha256, name=name)
        except OSError as error:
            raise CheckpointError(
                f"{name} cannot be read: {error.strerror}",
                expected="the files that the envelope speaks of",
                do="open it again: it may have been rotated meanwhile",
            ) from error

    def read(self, name: str) -> npt.NDArray[Any]:
        """One tensor; of typed keys their words; of anything else its bytes.

        Args:
            name: of it.

        Raises:
            DamagedError: it is not what was sealed.
            SealError: there is none of this name, or the key does not open it.
        """
        if name not in self.items:
            raise SealError(
                f"the key opens no {name!r} in {self.folder}",
                expected=f"something in {', '.join(self.keys)}",
                do=closest(name, self.items),
            )
        group, number, about = self.items[name]
        content = bytearray(self.envelope.groups[group].parts[number].size)
        done = 0
        for piece in self.part(group, number):
            content[done : done + len(piece)] = piece
            done += len(piece)
        values = np.frombuffer(content, np.uint8)
        if not about:
            return values
        try:
            return values.view(jax.numpy.dtype(about["dtype"])).reshape(about["shape"])
        except (ValueError, TypeError, KeyError) as error:
            raise altered(f"{name} in {self.folder}") from error


def open_sealed(
    folder: Path,
    holder: Secret,
    *,
    trust: Trust,
    role: str | None = None,
    at_least: int | None = None,
) -> Opened:
    """Opens what is sealed, as far as a key may.

    Args:
        folder: from ``seal``.
        holder: the key.
        trust: whose signatures count.
        role: only as this role; all that the key has when ``None``.
        at_least: the generation that is known; an older one is refused.

    Returns:
        What can be read; nothing has been decrypted yet but the lists of names.

    Raises:
        CheckpointError: nothing is sealed there.
        SealError: the signature is missing or of nobody trusted, the key has no role or not this
            one, or the generation is older.
        DamagedError: the envelope or a list was altered, or a file has another size.
        MissingExtraError: ``cryptography`` is not installed.
    """
    check_installed()
    folder = Path(folder)
    envelope, proof = read_envelope(folder, trust, at_least=at_least)
    keys = unwrapped(folder, envelope, proof, holder, role)
    for name in keys:
        problem = _other_size(folder, envelope, name)
        if problem:
            raise altered(problem)
    found = Opened(folder, envelope, keys)
    _ = found.items
    return found


def _other_size(folder: Path, envelope: Envelope, name: str) -> str | None:
    group = envelope.groups[name]
    path, wanted = folder / group.file, group.sealed_bytes(envelope.chunk)
    size = path.stat().st_size if path.is_file() else None
    if size == wanted:
        return None
    return f"{path} has {size:,} bytes, not {wanted:,}" if size is not None else f"{path} is absent"


def verify_sealed(
    folder: Path, *, trust: Trust, at_least: int | None = None
) -> tuple[Envelope, list[str]]:
    """Verifies signature and ciphertext. It needs no secret key and decrypts nothing.

    Args:
        folder: from ``seal``.
        trust: whose signatures count.
        at_least: the generation that is known; an older one is refused.

    Returns:
        The header, and one line for everything that is not what was sealed.

    Raises:
        CheckpointError: nothing is sealed there.
        SealError: the signature is missing or of nobody trusted, or the generation is older.
        DamagedError: the envelope was altered.
        MissingExtraError: ``cryptography`` is not installed.
    """
    check_installed()
    folder = Path(folder)
    envelope, _ = read_envelope(folder, trust, at_least=at_least)
    lines: list[str] = []
    for name, group in envelope.groups.items():
        problem = _other_size(folder, envelope, name)
        if problem:
            lines.append(problem)
            continue
        with (folder / group.file).open("rb") as file:
            for number, part in enumerate(group.parts):
                left, digest = sealed_size(part.size, envelope.chunk), hashlib.sha256()
                while left:
                    content = file.read(min(left, _READ))
                    digest.update(content)
                    left -= len(content)
                    if not content:
                        break
                if digest.hexdigest() != part.sha256:
                    lines.append(f"part {number} of {group.file} was altered")
    return envelope, lines
