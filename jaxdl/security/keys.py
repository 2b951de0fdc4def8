"""Where keys come from: a file that only its owner reads, the environment, or a command.

A source is ``file:PATH``, ``env:NAME`` or ``command:WORDS`` (for a key management service). The
key itself is never a word of a command line, never part of a message, of a ``repr`` or of a
pickle; what names it is its id, from which it cannot be found.

Reads from: errors, security.ciphers. Used by: security, security.proving,
.roles, .sealing, .opening, .changing.
"""

from __future__ import annotations

import base64
import binascii
import os
import secrets
import shlex
import stat
import subprocess
from pathlib import Path
from typing import Any, NoReturn

from jaxdl.errors import ConfigError
from jaxdl.security.ciphers import KEY, check_installed, hkdf, public_key

__all__ = ["Secret", "new_key", "public_half", "public_text", "read_key", "read_public"]

_SOURCES = "file:PATH, env:NAME or command:WORDS"
_FORM = "32 random bytes, as 64 hexadecimal digits or in base64"
_LONGEST = 4096
_COMMAND_SECONDS = 60
_PUBLIC = "ed25519:"


class Secret:
    """A key of 32 bytes that does not show itself.

    Args:
        value: the bytes.

    Attributes:
        id: 16 hexadecimal digits that name it.

    Raises:
        ConfigError: it is not 32 bytes, or is visibly not random.

    Examples:
        >>> Secret(bytes(range(32)))
        Secret('01dfd7e0450bcf85')
    """

    __slots__ = ("_value", "id")

    def __init__(self, value: bytes) -> None:
        if len(value) != KEY or len(set(value)) < KEY // 4:
            raise ConfigError(
                f"a key of {len(value)} bytes"
                + (", most of them the same, is not random" if len(value) == KEY else ""),
                expected=_FORM,
                do="make one with `jaxdl checkpoint keygen FILE`",
            )
        self._value = bytes(value)
        self.id = hkdf(self._value, salt=b"", info=b"jaxdl key id", length=8).hex()

    def reveal(self) -> bytes:
        """The bytes themselves, for a cipher."""
        return self._value

    def __repr__(self) -> str:
        return f"Secret({self.id!r})"

    def __reduce__(self) -> NoReturn:
        raise ConfigError(
            f"the key {self.id} was about to be pickled or copied",
            expected="keys that stay in the process that read them",
            do="pass on the source of the key, and read it there",
        )


def read_key(source: str) -> Secret:
    """Reads a key.

    Args:
        source: ``file:PATH``, which only its owner may read; ``env:NAME``; or ``command:WORDS``,
            which prints it (no shell is in between).

    Returns:
        The key.

    Raises:
        ConfigError: there is none there, others may read it, or it is no key.
        MissingExtraError: ``cryptography`` is not installed.
    """
    check_installed()
    kind, _, where = source.partition(":")
    readers = {"file": _from_file, "env": _from_environment, "command": _from_command}
    if kind not in readers or not where.strip():
        # What was given is not repeated: it may be a key.
        raise ConfigError(
            "the source of a key is none that there is (it is not shown: it may be a key)",
            expected=_SOURCES,
            do="put the key into a file of mode 600 and give file:PATH; one that stood on a "
            "command line should be replaced",
        )
    return Secret(_decoded(readers[kind](where), kind, where))


def _from_file(where: str) -> bytes:
    path = Path(where).expanduser()
    try:
        # Opened first and asked afterwards: what is checked is what is read.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            _check_file(path, os.fstat(handle))
            return os.read(handle, _LONGEST)
        finally:
            os.close(handle)
    except OSError as error:
        raise ConfigError(
            f"the key file {path} cannot be read: {error.strerror}",
            expected="a file of mode 600 that you own",
            do="check the path, or make one with `jaxdl checkpoint keygen FILE`",
        ) from error


def _check_file(path: Path, status: os.stat_result) -> None:
    what = None
    if not stat.S_ISREG(status.st_mode):
        what, do = "is no regular file", "give a file; for a pipe use command:"
    elif status.st_mode & 0o077:
        what, do = f"has mode {stat.S_IMODE(status.st_mode):o}", f"chmod 600 {path}"
    elif status.st_uid not in (os.geteuid(), 0):
        what, do = "belongs to somebody else", "copy it into a file of your own"
    else:
        return
    raise ConfigError(
        f"the key file {path} {what}",
        expected="a file that only you can read: mode 600 or 400, owned by you or root",
        do=do,
    )


def _from_environment(where: str) -> bytes:
    value = os.environ.get(where)
    if value is None:
        raise ConfigError(
            f"there is no variable {where if where.isidentifier() else '(no name)'} in the "
            "environment",
            expected="the name of a variable that holds a key",
            do="export it, or use file:PATH",
        )
    return value.encode(errors="replace")


def _from_command(where: str) -> bytes:
    try:
        words = shlex.split(where)
    except ValueError as error:
        raise ConfigError(
            f"the command of a key cannot be split into words: {error}",
            expected="a program and its arguments, quoted as in a shell",
            do="correct the quotes",
        ) from error
    try:
        done = subprocess.run(
            words,
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_COMMAND_SECONDS,
        )
        why = f"ended with code {done.returncode}" if done.returncode else None
    except subprocess.TimeoutExpired:
        done, why = None, f"took longer than {_COMMAND_SECONDS} s"
    except OSError as error:
        done, why = None, f"could not be started: {error.strerror}"
    if done is None or why is not None:
        # Neither its arguments nor its output are shown: both may hold secrets. No chain either.
        raise ConfigError(
            f"the command of a key, {words[0]}, {why}",
            expected="a program that prints the key and ends with code 0",
            do="run it by hand",
        ) from None
    return done.stdout[:_LONGEST]


def _decoded(text: bytes, kind: str, where: str) -> bytes:
    content = text.strip()
    value = b""
    try:
        if len(content) == 2 * KEY:
            value = bytes.fromhex(content.decode("ascii"))
        else:
            value = base64.b64decode(content, validate=True)
    except (ValueError, binascii.Error):
        pass
    if len(value) != KEY:
        named = where if kind == "file" else ""
        # Not chained: the error below it may quote what was read.
        raise ConfigError(
            f"what {kind}:{named} gave is no key ({len(content)} characters)",
            expected=_FORM,
            do="make one with `jaxdl checkpoint keygen FILE`",
        ) from None
    return value


def new_key(path: Path, *, signing: bool = False) -> Secret:
    """Writes a new random key into a file that only its owner may read.

    Args:
        path: the file; it must not exist.
        signing: it is for signatures: the public key is written beside it, into ``PATH.pub``.

    Returns:
        The key.

    Raises:
        ConfigError: the file is there already, or cannot be written.
        MissingExtraError: ``cryptography`` is not installed.
    """
    path = Path(path)
    value = Secret(secrets.token_bytes(KEY))
    try:
        _write_new(path, value.reveal().hex() + "\n", 0o600)
        if signing:
            _write_new(path.with_name(path.name + ".pub"), public_text(value) + "\n", 0o644)
    except OSError as error:
        raise ConfigError(
            f"the key file {error.filename} cannot be written: {error.strerror}",
            expected="a new file, in a folder that you may write",
            do="give another path: a key is never written over",
        ) from error
    return value


def _write_new(path: Path, text: str, mode: int) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def public_text(signer: Secret) -> str:
    """The public half of a signing key, as it stands in a file ``.pub``.

    Args:
        signer: the secret half.
    """
    return _PUBLIC + public_key(signer.reveal()).hex()


def public_half(signer: Secret) -> bytes:
    """The public half of a signing key, for ``Trust``.

    Args:
        signer: the secret half.

    Returns:
        Its 32 bytes.
    """
    return public_key(signer.reveal())


def read_public(path: Path) -> bytes:
    """Reads a public key, which is no secret.

    Args:
        path: a file such as ``sign.key.pub``.

    Returns:
        Its 32 bytes.

    Raises:
        ConfigError: there is no such file, or it holds something else.
    """
    problem: Any = None
    try:
        text = Path(path).read_text().strip()
        if text.startswith(_PUBLIC):
            value = bytes.fromhex(text.removeprefix(_PUBLIC))
            if len(value) == KEY:
                return value
    except OSError as error:
        problem = error.strerror
    except ValueError:
        pass  # what it holds is not repeated: it may be the secret half
    raise ConfigError(
        f"{path} {f'cannot be read: {problem}' if problem else 'is no public key'}",
        expected=f"a line {_PUBLIC} and 64 hexadecimal digits",
        do="give the .pub file that `jaxdl checkpoint keygen FILE --signing` wrote",
    )
