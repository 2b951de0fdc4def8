"""Roles: which groups of tensors a key opens, as data keys wrapped for it.

| role     | opens                                                                   |
|----------|-------------------------------------------------------------------------|
| export   | the parameters and their moving average                                 |
| evaluate | these, and the model's other state, such as batch statistics            |
| train    | everything: also optimizer state, keys of randomness, position, record  |

A group has its own random data key, so what a role may not open it cannot decrypt. A role's keys
are wrapped by AES-256-GCM under a key derived from the holder's for this one wrapping.

Reads from: errors, security.ciphers, .envelope, .keys, .proving. Used by: security,
security.sources, .sealing, .opening, .changing.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path

from jaxdl.errors import ConfigError, DamagedError, SealError, closest
from jaxdl.security.ciphers import KEY, Gcm, hkdf, mac
from jaxdl.security.envelope import Envelope, Grant, canonical
from jaxdl.security.keys import Secret
from jaxdl.security.proving import Proof

__all__ = ["ROLES", "check_role", "data_keys", "group_of", "mac_key", "unwrapped", "wrap"]

GROUPS = ("params", "model", "training")

ROLES = {"train": GROUPS, "evaluate": GROUPS[:2], "export": GROUPS[:1]}
"""The groups of each role."""

_ONCE = bytes(12)
"""The nonce of a key that encrypts once."""


def group_of(name: str) -> str:
    """The group of a checkpoint's tensor.

    Args:
        name: its full name, such as ``state/params/dense/kernel``.

    Examples:
        >>> [group_of(name) for name in ("state/ema/w", "state/model_state/m", "state/key")]
        ['params', 'model', 'training']
    """
    top = name.split("/")[:2]
    if top in (["state", "params"], ["state", "ema"]):
        return "params"
    return "model" if top == ["state", "model_state"] else "training"


def check_role(role: str) -> None:
    """Checks that there is such a role.

    Args:
        role: its name.

    Raises:
        ConfigError: there is not.
    """
    if role not in ROLES:
        raise ConfigError(
            f"there is no role {role!r}", expected=", ".join(ROLES), do=closest(role, ROLES)
        )


def data_keys(groups: Iterable[str]) -> dict[str, bytes]:
    """New random data keys.

    Args:
        groups: their names.
    """
    return {name: secrets.token_bytes(KEY) for name in groups}


def mac_key(keys: Mapping[str, bytes], envelope: Envelope) -> bytes:
    """The key of the header's HMAC, which every role can derive.

    Args:
        keys: data keys by group.
        envelope: the header.
    """
    salt = bytes.fromhex(envelope.id)
    return hkdf(keys["params"], salt=salt, info=b"jaxdl seal 1 header")


def wrap(envelope: Envelope, role: str, holder: Secret, keys: Mapping[str, bytes]) -> Grant:
    """Wraps a role's data keys for somebody's key.

    Args:
        envelope: the header; its id, epoch and groups are bound into the wrapping.
        role: which.
        holder: the key that will open it.
        keys: data keys by group.

    Raises:
        ConfigError: there is no such role.
        SealError: a data key of the role is not among them.
    """
    check_role(role)
    groups = _groups(envelope, role)
    if not keys.keys() >= set(groups):
        raise SealError(
            f"the role {role} opens {', '.join(groups)}, of which the key given opens only "
            + ", ".join(keys),
            expected="a key that opens as much as it gives",
            do="use a key with the role train",
        )
    salt = secrets.token_bytes(KEY)
    once = Gcm(hkdf(holder.reveal(), salt=salt, info=b"jaxdl seal 1 wrap"))
    content = b"".join(keys[name] for name in groups)
    wrapped = once.seal(_ONCE, content, _context(envelope, role, holder.id))
    return Grant(role, holder.id, salt.hex(), wrapped.hex())


def unwrapped(
    folder: Path, envelope: Envelope, proof: Proof, holder: Secret, role: str | None = None
) -> dict[str, bytes]:
    """The data keys that a key opens.

    Args:
        folder: of what is sealed, for messages.
        envelope: the header.
        proof: of it; the HMAC is verified here.
        holder: the key.
        role: only as this role; all that the key has when ``None``.

    Raises:
        SealError: the key has no role, or not this one.
        DamagedError: the envelope was altered.
    """
    if role is not None:
        check_role(role)
    mine = [grant for grant in envelope.grants if grant.key == holder.id]
    chosen = [grant for grant in mine if role in (None, grant.role)]
    if not chosen:
        raise _refused(folder, envelope, holder, role, [grant.role for grant in mine])
    keys: dict[str, bytes] = {}
    for grant in chosen:
        keys |= _unwrap(folder, envelope, grant, holder)
    if not hmac.compare_digest(mac(mac_key(keys, envelope), proof.header), proof.mac):
        raise DamagedError(
            f"the envelope of {folder} was altered: its HMAC is of another header",
            expected="a header written by somebody with a role",
            do="take another copy",
        )
    return {name: keys[name] for name in GROUPS if name in keys}


def _unwrap(folder: Path, envelope: Envelope, grant: Grant, holder: Secret) -> dict[str, bytes]:
    content = None
    groups = _groups(envelope, grant.role) if grant.role in ROLES else []
    once = Gcm(hkdf(holder.reveal(), salt=bytes.fromhex(grant.salt), info=b"jaxdl seal 1 wrap"))
    try:
        wrapped = bytes.fromhex(grant.wrapped)
        content = once.open(_ONCE, wrapped, _context(envelope, grant.role, grant.key))
    except (ValueError, TypeError):
        pass
    if content is None or len(content) != KEY * len(groups):
        raise DamagedError(
            f"the wrapped keys of {grant.role} in {folder} were altered",
            expected="the keys as they were wrapped",
            do="take another copy, or have the role granted again",
        )
    return {name: content[i * KEY : (i + 1) * KEY] for i, name in enumerate(groups)}


def _groups(envelope: Envelope, role: str) -> list[str]:
    return [name for name in ROLES[role] if name in envelope.groups]


def _context(envelope: Envelope, role: str, key: str) -> bytes:
    return canonical(["wrap", envelope.id, envelope.epoch, sorted(envelope.groups), role, key])


def _refused(
    folder: Path, envelope: Envelope, holder: Secret, role: str | None, mine: list[str]
) -> SealError:
    gone = [
        each for each in envelope.revoked if each.key == holder.id and role in (None, each.role)
    ]
    expected = f"one of the keys {', '.join(f'{g.key} ({g.role})' for g in envelope.grants)}"
    if gone:
        what = f"the role {gone[-1].role} of the key {holder.id} was revoked in generation "
        what += f"{gone[-1].generation} of {folder}"
    elif mine:
        what = f"the key {holder.id} has the role {', '.join(mine)} in {folder}, not {role}"
    else:
        what = f"the key {holder.id} has no role in {folder}"
    return SealError(
        what, expected=expected, do="use a key that has the role, or ask its owner to grant it"
    )
