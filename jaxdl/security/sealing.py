"""Sealing: from a checkpoint or an exported file to a folder of ciphertext.

Reads from: errors, data.folders, checkpoints.reading, security.ciphers, .envelope, .keys, .proving,
.roles, .sources, .streams. Used by: security, security.changing.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from jaxdl import data
from jaxdl.checkpoints.reading import first_line
from jaxdl.errors import CheckpointError, ConfigError
from jaxdl.security.ciphers import KEY, Buffer
from jaxdl.security.envelope import Envelope, Group, Part
from jaxdl.security.keys import Secret
from jaxdl.security.proving import sync, write_envelope
from jaxdl.security.roles import GROUPS, check_role, data_keys, mac_key, wrap
from jaxdl.security.sources import Source, check_sizes, listed, source_of
from jaxdl.security.streams import CHUNK, Stream, sealed, sealed_size

__all__ = ["Holders", "Sealed", "blank", "check_holders", "encrypt", "seal", "writing"]

Holders = Sequence[tuple[str, Secret]]
"""Pairs of a role and a key that shall have it."""

Pieces = Callable[[int], Iterator[Buffer]]


class Sealed(NamedTuple):
    """What was sealed.

    Attributes:
        path: the folder.
        envelope: its header.
        tensors: how many it holds.
        bytes: of ciphertext.
    """

    path: Path
    envelope: Envelope
    tensors: int
    bytes: int


def seal(
    source: Path | Source, out: Path, holders: Holders, *, signer: Secret | None, chunk: int = CHUNK
) -> Sealed:
    """Encrypts a checkpoint or an exported file, tensor by tensor, and signs the whole.

    At any time one tensor of a checkpoint is in memory, or one chunk of a file. The source stays
    where it is: whether it is deleted is for its owner to say.

    Args:
        source: a checkpoint's folder, such as ``RUN/checkpoints/200``; a ``.safetensors`` file; or
            a state in memory, from ``state_source``.
        out: the folder to make.
        holders: who may open it as what: at least one key with the role ``train``.
        signer: the key that signs; nobody does when ``None``.
        chunk: bytes that are encrypted together.

    Returns:
        What was sealed.

    Raises:
        ConfigError: ``out`` is there already, a role is none, or nobody has the role ``train``.
        DamagedError: the source is not what was written.
        CheckpointError: the folder cannot be written.
        MissingExtraError: ``cryptography`` is not installed.
    """
    out = Path(out)
    check_holders(holders)
    if out.exists():
        raise ConfigError(
            f"{out} is there already",
            expected="a new folder: what is sealed is never written over",
            do="give another one",
        )
    found = source if isinstance(source, Source) else source_of(Path(source))
    total = check_sizes(found.items)
    items = {
        name: [item for item in found.items if item.group == name]
        for name in GROUPS
        if any(item.group == name for item in found.items)
    }
    parts = {name: [listed(each), *each] for name, each in items.items()}
    sizes = {name: [part.size for part in each] for name, each in parts.items()}
    envelope = blank(sizes, found.about, chunk)
    keys = data_keys(sizes)
    new = out.with_name(f".{out.name}.{os.getpid()}")
    with writing(out, total):
        try:
            new.mkdir()
            envelope = encrypt(
                new,
                envelope,
                keys,
                {name: [part.pieces for part in each] for name, each in parts.items()},
            )
            grants = tuple(wrap(envelope, role, key, keys) for role, key in holders)
            envelope = replace(envelope, grants=grants)
            write_envelope(new, envelope, mac_key(keys, envelope), signer)
            new.rename(out)
            sync(out.parent)
        finally:
            shutil.rmtree(new, ignore_errors=True)
    size = sum(group.sealed_bytes(chunk) for group in envelope.groups.values())
    return Sealed(out, envelope, len(found.items), size)


def check_holders(holders: Holders) -> None:
    """Checks who shall have which role.

    Args:
        holders: see ``seal``.

    Raises:
        ConfigError: a role is none, or nobody has the role ``train``.
    """
    for role, _ in holders:
        check_role(role)
    if not any(role == "train" for role, _ in holders):
        raise ConfigError(
            "no key has the role train",
            expected="one at least: it alone opens everything, and can give and rotate roles",
            do="give --for train=file:PATH",
        )


def blank(
    sizes: Mapping[str, Sequence[int]],
    about: Mapping[str, object],
    chunk: int,
    *,
    before: Envelope | None = None,
) -> Envelope:
    """A header of what is not yet encrypted, with new salts.

    Args:
        sizes: bytes of the parts of each group.
        about: what is sealed.
        chunk: bytes in a chunk.
        before: the header that this one follows.
    """
    number = 1 if before is None else before.generation + 1
    groups = {
        name: Group(
            f"{name}-{number}.bin",
            secrets.token_bytes(KEY).hex(),
            tuple(Part(size, "") for size in each),
        )
        for name, each in sizes.items()
    }
    made = secrets.token_bytes(16).hex() if before is None else before.id
    return Envelope(made, number, number, dict(about), chunk, groups, ())


def encrypt(
    folder: Path,
    envelope: Envelope,
    keys: Mapping[str, bytes],
    pieces: Mapping[str, Sequence[Pieces]],
) -> Envelope:
    """Writes the file of every group.

    Args:
        folder: where.
        envelope: from ``blank``: its salts were used for nothing else.
        keys: data keys by group.
        pieces: what gives the bytes of each part, by group.

    Returns:
        The header with the hashes of what was written.
    """
    groups: dict[str, Group] = {}
    for name, group in envelope.groups.items():
        context, salt = envelope.context(name), bytes.fromhex(group.salt)
        parts: list[Part] = []
        with (folder / group.file).open("xb") as file:
            for number, (part, read) in enumerate(zip(group.parts, pieces[name], strict=True)):
                stream = Stream.derived(keys[name], salt, number, context)
                digest = hashlib.sha256()
                for content in sealed(read(envelope.chunk), part.size, stream, envelope.chunk):
                    digest.update(content)
                    file.write(content)
                parts.append(Part(part.size, digest.hexdigest()))
            file.flush()
            os.fsync(file.fileno())
        groups[name] = group._replace(parts=tuple(parts))
    return replace(envelope, groups=groups)


@contextmanager
def writing(out: Path, size: int = 0) -> Generator[None]:
    """Turns what a disk does into an error with a cause.

    Args:
        out: what is written.
        size: bytes that it takes.

    Raises:
        CheckpointError: it could not be written.
    """
    try:
        data.check_space(out.parent, sealed_size(size, CHUNK))
        yield
    except OSError as error:
        raise CheckpointError(
            f"{out} could not be written: {first_line(error)}",
            expected="a folder that may be written, on a disk with room",
            do="make the folder or some room, or give another path",
        ) from error
