"""What this process has started of a run on many hosts, and what it does with it.

For one process, and for hosts without a board, every function here returns at once.

Reads from: errors, hosts.member, hosts.server. Used by: hosts.starting, hosts.watching, recipe,
cli, and by hand.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
from collections.abc import Generator, Mapping
from typing import Any, NamedTuple

import jax

from jaxdl.errors import HostError
from jaxdl.hosts.client import Seconds
from jaxdl.hosts.member import Member
from jaxdl.hosts.server import Server

__all__ = [
    "Here",
    "Hosts",
    "agree",
    "barrier",
    "failing",
    "member",
    "say_goodbye",
    "shutdown",
    "tell_failure",
]

_LEAVING = 8.0


class Hosts(NamedTuple):
    """What ``initialize`` found.

    Attributes:
        host: the index of this one.
        num_hosts: how many there are.
        how: ``"explicit"``, ``"detected"``, or ``"one process"``.
        board: where the board is, as ``HOST:PORT``; ``None`` when there is none.
    """

    host: int
    num_hosts: int
    how: str
    board: str | None = None

    def __str__(self) -> str:
        if self.how == "one process":
            return "one process: no coordinator was given and JAX detected no cluster"
        board = f"board at {self.board}" if self.board else "no board"
        return f"host {self.host} of {self.num_hosts} ({self.how}; {board})"


class Here:
    """What this process has started.

    Attributes:
        found: by ``initialize``; ``None`` before it.
        asked: what it was called with.
        member: this host among the others.
        server: the board, on host 0.
    """

    found: Hosts | None = None
    asked: tuple[Any, ...] = ()
    member: Member | None = None
    server: Server | None = None


def member() -> Member | None:
    """This host among the others; ``None`` for one process, and for hosts without a board."""
    return Here.member


def barrier(name: str, *, deadline: Seconds | None = None) -> None:
    """Waits until every host is here; at once where there is one process.

    Args:
        name: of the place in the program; it may be used again.
        deadline: seconds to wait; as ``initialize`` was told when ``None``.

    Raises:
        HostError: a host did not come in time, or ended: which, and where every host stands.
        ConfigError: the deadline is no time.
    """
    if Here.member is not None:
        Here.member.barrier(name, deadline=deadline)


def agree(
    facts: Mapping[str, Any], *, name: str = "agreement", deadline: Seconds | None = None
) -> None:
    """Compares what the hosts hold to be true; returns at once where there is one process.

    Args:
        facts: by name, such as versions and hashes; a long value is compared by its hash.
        name: of the place in the program; it may be used again.
        deadline: seconds to wait for the other hosts.

    Raises:
        HostError: on every host, when a fact differs: which hosts have what.
        ConfigError: the deadline is no time.
    """
    if Here.member is not None:
        Here.member.agree(facts, name=name, deadline=deadline)


@contextlib.contextmanager
def failing() -> Generator[None]:
    """While open, an error that leaves this host is told to the others, who then do not wait."""
    try:
        yield
    except Exception as error:
        if Here.member is not None:
            tell_failure(Here.member, error)
        raise


def tell_failure(member: Member, error: BaseException) -> None:
    """Tells the other hosts that this one failed, so that none waits for it; nor will it for them.

    Args:
        member: this host.
        error: why.
    """
    with contextlib.suppress(HostError):
        member.end(f"{type(error).__name__}: {error}", left=False)
    # Callbacks run last to first: before JAX's own, which waits minutes for hosts that hang.
    atexit.unregister(_leave_jax)
    atexit.register(_leave_jax)


def _leave_jax() -> None:
    """Gives JAX's runtime a while to end in order; the process ends then at the latest."""
    if not jax.distributed.is_initialized():
        return
    leaving = threading.Thread(target=jax.distributed.shutdown, name="jaxdl-leave", daemon=True)
    leaving.start()
    leaving.join(_LEAVING)
    if leaving.is_alive():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


def say_goodbye() -> None:
    """Tells the others that this process ends, so that none takes it for lost."""
    with contextlib.suppress(HostError):
        if Here.member is not None:
            Here.member.end("its process ended", left=True)


def shutdown() -> None:
    """Leaves the board, and stops it on host 0. JAX's runtime stays up."""
    with contextlib.suppress(HostError):
        if Here.member is not None:
            Here.member.end("done", left=True)
            Here.member.client.close()
    if Here.server is not None:
        Here.server.close()
    Here.member = Here.server = Here.found = None
