"""The checkpoints of a run as its options name them: in the clear, or sealed under keys.

Options name where a key lies (``file:PATH``, ``env:NAME``, ``command:WORDS``), never a key, so the
folder of a run may record them.

Reads from: errors, checkpoints, security, cli.sealing. Used by: cli.training, cli.rows,
cli.measuring, .opening, .explaining, .attacking, .reporting.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Protocol, runtime_checkable

import tyro

from jaxdl import security
from jaxdl.checkpoints import Checkpoints
from jaxdl.cli.sealing import pair
from jaxdl.errors import ConfigError

__all__ = ["Key", "Sealing", "Trusted", "store_of", "store_to_read"]

Key = Annotated[str | None, tyro.conf.arg(metavar="SOURCE")]
"""The option that says where a key lies that opens sealed checkpoints."""
Trusted = Annotated[tuple[Path, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="FILE.pub")]
"""The option that says whose signatures on them count."""


@runtime_checkable
class Sealing(Protocol):
    """The options of a run that seals its checkpoints."""

    @property
    def seal_for(self) -> tuple[str, ...]:
        """Who may open them as what, ``ROLE=SOURCE``; none when they are in the clear."""
        ...

    @property
    def seal_sign(self) -> str | None:
        """Where the key lies that signs them."""
        ...


def store_of(options: Sealing) -> Callable[..., Checkpoints]:
    """How a run keeps its checkpoints; reads every key that it needs.

    Args:
        options: of the run.

    Returns:
        From a folder and ``keep`` to the checkpoints, as ``recipe.train`` takes it.

    Raises:
        ConfigError: a word is no role and source, nobody has the role train, or only one of the
            two options is given.
        JaxdlError: as ``security.read_key``.
    """
    if not options.seal_for and options.seal_sign is None:
        return Checkpoints
    if not options.seal_for or options.seal_sign is None:
        raise ConfigError(
            "only one of --seal-for and --seal-sign is given",
            expected="--seal-for train=SOURCE, as often as needed, and --seal-sign SOURCE",
            do="give both: who may open the checkpoints, and who signs them",
        )
    holders = [pair(word) for word in options.seal_for]
    signer = security.read_key(options.seal_sign)
    key = next((secret for role, secret in holders if role == "train"), holders[0][1])
    made = partial(
        security.SealedCheckpoints,
        key=key,
        trust=security.Trust([security.public_half(signer)]),
        holders=holders,
        signer=signer,
    )
    made(Path())  # checks them, and touches no disk
    return made


def store_to_read(
    run: Path, options: Sealing, *, key: str | None = None, trust: Sequence[Path] = ()
) -> Checkpoints:
    """The checkpoints of a run, to measure it.

    Args:
        run: its folder.
        options: that it was started with.
        key: where a key lies that opens them; those of the run when ``None``.
        trust: files of public keys whose signatures count; the run's own signer when empty.

    Raises:
        ConfigError: a key is given for a run whose checkpoints are in the clear, or without the
            signer's public key.
        JaxdlError: as ``security.read_key`` and ``security.read_public``.
    """
    folder = run / "checkpoints"
    if not options.seal_for:
        if key is not None or trust:
            raise ConfigError(
                f"the checkpoints of {run} are not sealed",
                expected="no key",
                do="leave --key and --trust out",
            )
        return Checkpoints(folder)
    if key is None:
        return store_of(options)(folder)
    if not trust:
        raise ConfigError(
            "no key to trust is given",
            expected="--trust FILE.pub, the public half of the key that signed the checkpoints",
            do="ask whoever trained the run for it",
        )
    trusted = security.Trust([security.read_public(path) for path in trust])
    return security.SealedCheckpoints(
        folder, key=security.read_key(key), trust=trusted, partly=True
    )
