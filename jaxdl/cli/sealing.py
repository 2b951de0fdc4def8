"""``jaxdl checkpoint`` of keys and of what is sealed: seal, open, grant, revoke, rotate, verify.

A key is named by where it lies, never written on the command line.

Reads from: errors, units, checkpoints, security. Used by: cli.checkpoints, cli.stores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypedDict

import tyro

from jaxdl import checkpoints, security, units
from jaxdl.checkpoints.choosing import newest_whole
from jaxdl.checkpoints.reading import step_folder
from jaxdl.errors import ConfigError

__all__ = [
    "VERBS",
    "GrantOptions",
    "KeygenOptions",
    "OpenOptions",
    "RevokeOptions",
    "RotateOptions",
    "SealOptions",
    "VerifyOptions",
    "pair",
    "verify",
]

_Sealed = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SEALED")]
_Key = Annotated[str, tyro.conf.arg(metavar="SOURCE")]
_Sign = Annotated[str | None, tyro.conf.arg(metavar="SOURCE")]
_Trust = Annotated[tyro.conf.UseAppendAction[tuple[Path, ...]], tyro.conf.arg(metavar="FILE.pub")]
_For = Annotated[
    tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(name="for", metavar="ROLE=SOURCE")
]
_Flag = tyro.conf.FlagCreatePairsOff[bool]
_Number = Annotated[int | None, tyro.conf.arg(metavar="N")]


@dataclass(frozen=True)
class KeygenOptions:
    """Makes a key, in a file that only its owner may read."""

    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")]
    """The file; it must not exist."""
    signing: _Flag = False
    """For signatures: the public half is written into FILE.pub."""


@dataclass(frozen=True)
class SealOptions:
    """Encrypts and signs a checkpoint, or a file of parameters. The original stays."""

    source: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """The run's folder, one checkpoint's folder, or a .safetensors file."""
    to: Annotated[Path, tyro.conf.arg(metavar="SEALED")]
    """The folder to make."""
    holders: _For
    """Who may open it as what, train=file:train.key; one train at least, as often as needed."""
    sign: _Sign = None
    """The key that signs."""
    unsigned: _Flag = False
    """Leave it unsigned."""
    step: _Number = None
    """The checkpoint of which step; the newest whole one when not given."""


@dataclass(frozen=True)
class VerifyOptions:
    """Verifies the signature of what is sealed and every byte of it. Needs no secret key."""

    sealed: _Sealed
    """The sealed folder."""
    trust: _Trust = ()
    """A public key whose signature counts; as often as needed."""
    allow_unsigned: _Flag = False
    """Let it be unsigned, or signed by anybody."""
    at_least: _Number = None
    """The generation that you know of; an older one is refused."""


@dataclass(frozen=True)
class OpenOptions(VerifyOptions):
    """Decrypts what a key's role may read."""

    key: _Key = tyro.MISSING
    """Where the key lies: file:PATH, env:NAME or command:WORDS."""
    to: Annotated[Path, tyro.conf.arg(metavar="OUT")] = tyro.MISSING
    """FILE.safetensors for the parameters, or a folder of checkpoints."""
    role: str | None = None
    """Only as this role; all that the key has when not given."""
    ema: _Flag = False
    """Into a file the moving average of the parameters in place of the last ones."""
    overwrite: _Flag = False
    """Replace a file that is there."""


@dataclass(frozen=True)
class _ChangeOptions:
    sealed: _Sealed
    """The sealed folder."""
    key: _Key
    """Where a key lies that opens it."""
    sign: _Sign = None
    """The key that signs the new envelope."""
    trust: _Trust = ()
    """Whose signature on the old one counts; that of --sign when not given."""
    allow_unsigned: _Flag = False
    """Let the old one be unsigned."""
    at_least: _Number = None
    """The generation that you know of; an older one is not carried on."""


@dataclass(frozen=True)
class GrantOptions(_ChangeOptions):
    """Gives a role to a key. No tensor is touched."""

    to: Annotated[str, tyro.conf.arg(metavar="ROLE=SOURCE")] = tyro.MISSING
    """The role, and where the key lies that shall have it."""


@dataclass(frozen=True)
class RevokeOptions(_ChangeOptions):
    """Takes a role away. A copy of the old folder still opens; rotate for what comes after."""

    role: str = tyro.MISSING
    """Which."""
    id: Annotated[str | None, tyro.conf.arg(metavar="KEY")] = None
    """The id of the key that loses it; all that have it when not given."""


@dataclass(frozen=True)
class RotateOptions(_ChangeOptions):
    """Encrypts everything anew, for those that are named; the others lose their roles."""

    holders: _For = tyro.MISSING
    """Who may open it as what from now on: train=file:new.key; as often as needed."""


def _keygen(argv: list[str]) -> int:
    options = tyro.cli(KeygenOptions, prog="jaxdl checkpoint keygen", args=argv)
    made = security.new_key(options.file, signing=options.signing)
    print(f"{options.file}: key {made.id}, readable by you alone")
    if options.signing:
        print(f"{options.file}.pub: {security.public_text(made)}")
    return 0


def _seal(argv: list[str]) -> int:
    options = tyro.cli(SealOptions, prog="jaxdl checkpoint seal", args=argv)
    if (options.sign is None) != options.unsigned:
        raise ConfigError(
            "a key to sign with and --unsigned are both given"
            if options.unsigned
            else "no key to sign with is given",
            expected="--sign SOURCE, or --unsigned",
            do="sign: whoever can write to the disk can replace what nobody signed",
        )
    holders = [pair(word) for word in options.holders]
    signer = None if options.sign is None else security.read_key(options.sign)

    def write(source: Path) -> security.Sealed:
        return security.seal(source, options.to, holders, signer=signer)

    if options.source.is_file() or (options.source / "manifest").is_dir():
        made = write(options.source)
    else:
        folder = checkpoints.checkpoints_of(options.source)
        made, _ = newest_whole(folder, options.step, lambda step: write(step_folder(folder, step)))
    step = made.envelope.about["step"]
    told = "" if step is None else f" of step {step}"
    print(f"{made.path}: {made.tensors} items{told}, {units.size(made.bytes)}")
    _show(made.envelope)
    return 0


def pair(word: str) -> tuple[str, security.Secret]:
    """A role, and the key that shall have it.

    Args:
        word: ``ROLE=SOURCE``.

    Raises:
        ConfigError: it is something else; it is not repeated.
    """
    role, _, source = word.partition("=")
    if role not in security.ROLES or not source:
        # The rest of the word is not repeated: it may be a key.
        raise ConfigError(
            "a role and the source of its key are not given as ROLE=SOURCE",
            expected=f"one of {', '.join(security.ROLES)}, as in train=file:PATH",
            do="correct the word (it is not shown: it may hold a key)",
        )
    return role, security.read_key(source)


def _show(envelope: security.Envelope) -> None:
    roles = ", ".join(f"{each.role} {each.key}" for each in envelope.grants)
    print(f"generation {envelope.generation}: {roles}")


def _trust(trust: Sequence[Path], *, allow_unsigned: bool) -> security.Trust:
    return security.Trust([security.read_public(path) for path in trust], allow_unsigned)


def verify(argv: list[str]) -> int:
    """``verify`` of a sealed folder.

    Args:
        argv: the words after ``verify``.

    Returns:
        0, or 1 when something is not what was sealed.
    """
    options = tyro.cli(VerifyOptions, prog="jaxdl checkpoint verify", args=argv)
    trust = _trust(options.trust, allow_unsigned=options.allow_unsigned)
    envelope, lines = security.verify_sealed(options.sealed, trust=trust, at_least=options.at_least)
    for line in lines:
        print(line)
    _show(envelope)
    parts = sum(len(group.parts) for group in envelope.groups.values())
    signed = "not verified" if options.allow_unsigned else "by a trusted key"
    print(f"signature {signed}; {parts} parts: {f'{len(lines)} wrong' if lines else 'all whole'}")
    return 1 if lines else 0


def _open(argv: list[str]) -> int:
    options = tyro.cli(OpenOptions, prog="jaxdl checkpoint open", args=argv)
    trust = _trust(options.trust, allow_unsigned=options.allow_unsigned)
    found = security.open_sealed(
        options.sealed,
        security.read_key(options.key),
        trust=trust,
        role=options.role,
        at_least=options.at_least,
    )
    if options.to.suffix == ".safetensors":
        source = "ema" if options.ema else "params"
        made = security.write_file(found, options.to, source=source, overwrite=options.overwrite)
    else:
        made = security.write_checkpoint(found, options.to)
    closed = [name for name in found.envelope.groups if name not in found.keys]
    print(f"{made}: {', '.join(found.keys)}, in the clear")
    if closed:
        print(f"not opened, as the key has no such role: {', '.join(closed)}")
    return 0


def _grant(argv: list[str]) -> int:
    options = tyro.cli(GrantOptions, prog="jaxdl checkpoint grant", args=argv)
    role, new = pair(options.to)
    _show(security.grant(options.sealed, role, new, **_changing(options)))
    return 0


def _revoke(argv: list[str]) -> int:
    options = tyro.cli(RevokeOptions, prog="jaxdl checkpoint revoke", args=argv)
    how = _changing(options)
    _show(security.revoke(options.sealed, options.role, key=options.id, **how))
    print("a copy of the folder as it was still opens; `jaxdl checkpoint rotate` encrypts anew")
    return 0


def _rotate(argv: list[str]) -> int:
    options = tyro.cli(RotateOptions, prog="jaxdl checkpoint rotate", args=argv)
    holders = [pair(word) for word in options.holders]
    _show(security.rotate(options.sealed, holders, **_changing(options)))
    return 0


class _How(TypedDict):
    holder: security.Secret
    signer: security.Secret | None
    trust: security.Trust | None
    at_least: int | None


def _changing(options: _ChangeOptions) -> _How:
    signer = None if options.sign is None else security.read_key(options.sign)
    trust = None
    if signer is None or options.trust or options.allow_unsigned:
        trust = _trust(options.trust, allow_unsigned=options.allow_unsigned)
    holder = security.read_key(options.key)
    return {"holder": holder, "signer": signer, "trust": trust, "at_least": options.at_least}


VERBS: dict[str, Callable[[list[str]], int]] = {
    "keygen": _keygen,
    "seal": _seal,
    "open": _open,
    "grant": _grant,
    "revoke": _revoke,
    "rotate": _rotate,
}
"""By name, from the words after it to an exit code."""
