"""Roles given and taken away, and everything encrypted anew.

``grant`` and ``revoke`` write the envelope alone. A key that was revoked still opens a copy of an
older envelope with the same ciphertext; ``rotate`` ends that for all copies made from then on.

Reads from: errors, security.ciphers, .envelope, .keys, .opening, .proving, .roles, .sealing.
Used by: security.
"""

from __future__ import annotations

import os
import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from jaxdl.errors import CheckpointError, ConfigError, SealError
from jaxdl.security.ciphers import public_key
from jaxdl.security.envelope import Envelope, Revoked
from jaxdl.security.keys import Secret
from jaxdl.security.opening import Opened, open_sealed
from jaxdl.security.proving import Trust, is_sealed, read_envelope, write_envelope
from jaxdl.security.roles import check_role, data_keys, mac_key, wrap
from jaxdl.security.sealing import Holders, blank, check_holders, encrypt, writing

__all__ = ["grant", "revoke", "rotate"]


def grant(
    folder: Path,
    role: str,
    new: Secret,
    *,
    holder: Secret,
    signer: Secret | None,
    trust: Trust | None = None,
    at_least: int | None = None,
) -> Envelope:
    """Gives a role to a key. No tensor is touched.

    Args:
        folder: from ``seal``.
        role: which.
        new: the key that shall have it.
        holder: a key that opens at least as much.
        signer: who signs the new envelope; it may be ``None`` only where nobody signed before.
        trust: whose signature on the old envelope counts; the signer's when ``None``.
        at_least: the generation that is known; an older envelope is not carried on.

    Returns:
        The new envelope.

    Raises:
        ConfigError: the role is none, or the key has it already.
        SealError: the holder opens less, or the old envelope is not trusted.
        DamagedError: the old envelope was altered.
    """
    check_role(role)
    with _locked(folder):
        found = _opened(folder, holder, signer, trust, at_least=at_least)
        envelope = found.envelope
        if any((each.role, each.key) == (role, new.id) for each in envelope.grants):
            raise ConfigError(
                f"the key {new.id} has the role {role} in {folder} already",
                expected="a key that has not",
                do="nothing: it can open it",
            )
        made = wrap(envelope, role, new, found.keys)
        envelope = replace(
            envelope, generation=envelope.generation + 1, grants=(*envelope.grants, made)
        )
        with writing(folder):
            write_envelope(folder, envelope, mac_key(found.keys, envelope), signer)
    return envelope


def revoke(
    folder: Path,
    role: str,
    *,
    holder: Secret,
    signer: Secret | None,
    key: str | None = None,
    trust: Trust | None = None,
    at_least: int | None = None,
) -> Envelope:
    """Takes a role away: from one key, or from all that have it. No tensor is touched.

    Args:
        folder: from ``seal``.
        role: which.
        holder: any key with a role.
        signer: as for ``grant``.
        key: the id of the key that loses it; all of them when ``None``.
        trust: as for ``grant``.
        at_least: as for ``grant``.

    Returns:
        The new envelope.

    Raises:
        ConfigError: nobody has the role, or nobody would be left with the role train.
        SealError: the holder has no role, or the old envelope is not trusted.
        DamagedError: the old envelope was altered.
    """
    check_role(role)
    with _locked(folder):
        found = _opened(folder, holder, signer, trust, at_least=at_least)
        envelope = found.envelope
        gone = [each for each in envelope.grants if each.role == role and key in (None, each.key)]
        staying = tuple(each for each in envelope.grants if each not in gone)
        _check_revoked(folder, role, envelope, gone=bool(gone), staying={g.role for g in staying})
        number = envelope.generation + 1
        told = tuple(Revoked(each.role, each.key, number) for each in gone)
        envelope = replace(
            envelope, generation=number, grants=staying, revoked=envelope.revoked + told
        )
        with writing(folder):
            write_envelope(folder, envelope, mac_key(found.keys, envelope), signer)
    return envelope


def _check_revoked(
    folder: Path, role: str, envelope: Envelope, *, gone: bool, staying: set[str]
) -> None:
    if not gone:
        having = ", ".join(f"{each.key} ({each.role})" for each in envelope.grants)
        raise ConfigError(
            f"no such key has the role {role} in {folder}",
            expected=f"one of {having}",
            do="check the role and the id",
        )
    if "train" not in staying:
        raise ConfigError(
            f"nobody would have the role train in {folder}",
            expected="one key at least: it alone can give roles and rotate",
            do="grant it to the new key first",
        )


def rotate(
    folder: Path,
    holders: Holders,
    *,
    holder: Secret,
    signer: Secret | None,
    trust: Trust | None = None,
    at_least: int | None = None,
) -> Envelope:
    """Encrypts everything anew, under new data keys, for those who are named.

    Whoever is not named loses the role, with whatever they may have kept. Until the new envelope
    is in place the old one holds; the old ciphertext is removed after it.

    Args:
        folder: from ``seal``.
        holders: who may open it as what from now on, under old or new keys.
        holder: a key with the role train.
        signer: as for ``grant``.
        trust: as for ``grant``.
        at_least: as for ``grant``.

    Returns:
        The new envelope.

    Raises:
        ConfigError: a role is none, or nobody would have the role train.
        SealError: the holder has not the role train, or the old envelope is not trusted.
        DamagedError: something was altered; the old envelope and ciphertext stay.
        CheckpointError: the folder cannot be written.
    """
    check_holders(holders)
    folder = Path(folder)
    with _locked(folder):
        found = _opened(folder, holder, signer, trust, at_least=at_least, role="train")
        old = found.envelope
        _remove_others(folder, old)
        sizes = {name: [part.size for part in each.parts] for name, each in old.groups.items()}
        envelope = blank(sizes, old.about, old.chunk, before=old)
        keys = data_keys(sizes)
        pieces = {
            name: [partial(_again, found, name, number) for number in range(len(each))]
            for name, each in sizes.items()
        }
        with writing(folder, sum(map(sum, sizes.values()))):
            try:
                envelope = encrypt(folder, envelope, keys, pieces)
            except BaseException:
                _remove_others(folder, old)
                raise
            grants = tuple(wrap(envelope, role, key, keys) for role, key in holders)
            kept = {(each.role, each.key) for each in grants}
            lost = [each for each in old.grants if (each.role, each.key) not in kept]
            told = tuple(Revoked(each.role, each.key, envelope.generation) for each in lost)
            envelope = replace(envelope, grants=grants, revoked=old.revoked + told)
            write_envelope(folder, envelope, mac_key(keys, envelope), signer)
            _remove_others(folder, envelope)
    return envelope


def _again(found: Opened, group: str, number: int, chunk: int) -> Iterator[bytes]:
    del chunk  # it stays the same
    return found.part(group, number)


def _opened(
    folder: Path,
    holder: Secret,
    signer: Secret | None,
    trust: Trust | None,
    *,
    at_least: int | None,
    role: str | None = None,
) -> Opened:
    """Opens what will be changed; what somebody signed is not left unsigned."""
    if trust is None:
        trust = Trust(() if signer is None else (public_key(signer.reveal()),))
    found = open_sealed(folder, holder, trust=trust, role=role, at_least=at_least)
    _, proof = read_envelope(folder, trust)
    if proof.signer and signer is None:
        raise SealError(
            f"{folder} is signed, and no key is given to sign what it becomes",
            expected="a signing key",
            do="give the signer's key",
        )
    return found


@contextmanager
def _locked(folder: Path) -> Generator[None]:
    """Two who change roles at once would lose what one of them did, such as a revocation."""
    import fcntl

    if not is_sealed(folder):
        raise CheckpointError(
            f"there is nothing sealed in {folder}",
            expected="a folder that `jaxdl checkpoint seal` made",
            do="check the path",
        )
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _remove_others(folder: Path, envelope: Envelope) -> None:
    """Removes ciphertext that no envelope speaks of: the old one, or what a crash left behind."""
    named = {group.file for group in envelope.groups.values()}
    for path in folder.iterdir():
        if re.fullmatch(r"(params|model|training)-\d+\.bin", path.name) and path.name not in named:
            path.unlink()
