"""The proof of a header: who wrote it, and that it is what was written.

A sealed folder holds a file ``seal`` and one file of ciphertext a group. ``seal`` is two lines of
JSON, keys sorted, nothing optional. The first is the header: which groups there are, the size and
the SHA-256 of every sealed tensor, and for every role a wrapped copy of the data keys it may use.
The second proves the first: an HMAC under a key that every role can derive, and an Ed25519
signature over header and HMAC. Bytes are compared, not meanings: another spelling of the same JSON
is refused.

Reads from: errors, checkpoints.manifest, security.ciphers, .envelope, .keys. Used by: security,
security.roles, .sealing, .opening, .changing, .store.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from jaxdl.checkpoints.manifest import SEAL
from jaxdl.errors import CheckpointError, ConfigError, SealError
from jaxdl.security.ciphers import mac, sign, verified
from jaxdl.security.envelope import Envelope, canonical, damaged, header_of, parsed
from jaxdl.security.keys import Secret, public_text

__all__ = ["Proof", "Trust", "is_sealed", "read_envelope", "sync", "write_envelope"]

_DOMAIN = b"jaxdl seal 1 signature\n"
_LARGEST = 1 << 28
_PROOF = r"[0-9a-f]{64} ([0-9a-f]{64} [0-9a-f]{128}| )"


@dataclass(frozen=True)
class Trust:
    """Whose signatures count.

    Args:
        keys: public keys, from ``read_public``.
        unsigned: read what nobody signed, or somebody unknown.

    Raises:
        ConfigError: neither is given, or both are: whoever can strip a signature would decide.
    """

    keys: Sequence[bytes] = ()
    unsigned: bool = False

    def __post_init__(self) -> None:
        if bool(self.keys) == self.unsigned:
            raise ConfigError(
                "keys to trust are given, and unsigned files are allowed"
                if self.keys
                else "no key to trust is given",
                expected="either the public keys of those who may sign, or unsigned files allowed",
                do="leave one of the two out" if self.keys else "give the signer's .pub file",
            )


class Proof(NamedTuple):
    """The second line of the file.

    Attributes:
        mac: of the header.
        signer: hexadecimal public key; empty when nobody signed.
        signature: hexadecimal.
        header: the bytes that are proved.
    """

    mac: str
    signer: str
    signature: str
    header: bytes

    def message(self) -> bytes:
        """What is signed."""
        return _DOMAIN + self.header + b"\n" + self.mac.encode()


def is_sealed(path: Path) -> bool:
    """Whether a path is a sealed folder.

    Args:
        path: any.
    """
    return (Path(path) / SEAL).is_file()


def write_envelope(folder: Path, envelope: Envelope, mac_key: bytes, signer: Secret | None) -> None:
    """Writes the file anew: the old one or the new one is there, never half of it.

    Args:
        folder: of what is sealed.
        envelope: the header.
        mac_key: from the data key that every role has.
        signer: who signs; nobody when ``None``.
    """
    header = header_of(envelope)
    proof = Proof(mac(mac_key, header), "", "", header)
    if signer is not None:
        public = public_text(signer).partition(":")[2]
        proof = proof._replace(
            signer=public, signature=sign(signer.reveal(), proof.message()).hex()
        )
    lines = header + b"\n" + _proof_line(proof) + b"\n"
    new = folder / f".{SEAL}.new"
    with new.open("wb") as file:
        file.write(lines)
        file.flush()
        os.fsync(file.fileno())
    # The ciphertext that it speaks of is there first.
    sync(folder)
    new.replace(folder / SEAL)
    sync(folder)


def sync(folder: Path) -> None:
    """Makes what was renamed in a folder last.

    Args:
        folder: which.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _proof_line(proof: Proof) -> bytes:
    return canonical({"mac": proof.mac, "signature": proof.signature, "signer": proof.signer})


def read_envelope(
    folder: Path, trust: Trust, *, at_least: int | None = None
) -> tuple[Envelope, Proof]:
    """Reads an envelope. Its signature is verified before its header is looked at.

    Args:
        folder: of what is sealed.
        trust: whose signatures count.
        at_least: the generation that is known; an older one is refused.

    Returns:
        The header, and its proof. Of what nobody signed the HMAC is still to be verified.

    Raises:
        CheckpointError: nothing is sealed there, or by another version of jaxdl.
        SealError: it is unsigned, signed by nobody trusted, or of an older generation.
        DamagedError: it was altered.
    """
    proof = _read_proof(folder)
    _check_signature(folder, proof, trust)
    envelope = parsed(folder, proof.header)
    if at_least is not None and envelope.generation < at_least:
        raise SealError(
            f"{folder} is of generation {envelope.generation}",
            expected=f"generation {at_least} or later",
            do="find out who put an old copy there: roles may have been revoked since",
        )
    return envelope, proof


def _read_proof(folder: Path) -> Proof:
    path = folder / SEAL
    try:
        if path.stat().st_size > _LARGEST:
            raise damaged(folder, "it is too large")
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"there is nothing sealed in {folder}: {error.strerror}",
            expected=f"a folder that `jaxdl checkpoint seal` made, with a file {SEAL}",
            do="check the path",
        ) from error
    lines = content.split(b"\n")
    if len(lines) != 3 or lines[2]:
        raise damaged(folder, "it is not two lines")
    try:
        words = json.loads(lines[1])
        proof = Proof(words["mac"], words["signer"], words["signature"], lines[0])
        # Letters in one case only: two spellings of one signature would be one too many.
        if not re.fullmatch(_PROOF, f"{proof.mac} {proof.signer} {proof.signature}"):
            raise ValueError("they are no hexadecimal numbers")
        if _proof_line(proof) != lines[1]:
            raise ValueError("it is spelt otherwise")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise damaged(folder, "its second line is another") from error
    return proof


def _check_signature(folder: Path, proof: Proof, trust: Trust) -> None:
    if not proof.signer:
        if trust.unsigned:
            return
        raise SealError(
            f"{folder} is not signed",
            expected="a signature by one of the trusted keys",
            do="have it sealed again with --sign, or read it with --allow-unsigned",
        )
    trusted = [key.hex() for key in trust.keys]
    if proof.signer not in trusted and not trust.unsigned:
        raise SealError(
            f"{folder} is signed by {proof.signer[:16]}..., who is not trusted",
            expected="a signature by " + ", ".join(f"{key[:16]}..." for key in trusted),
            do="trust that key if it is the right one, or take another copy",
        )
    public, signature = bytes.fromhex(proof.signer), bytes.fromhex(proof.signature)
    if not verified(public, proof.message(), signature):
        raise damaged(folder, "its signature is of another header")
