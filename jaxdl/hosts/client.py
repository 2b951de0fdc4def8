"""A host's line to the board: one connection, made again when it breaks.

Reads from: errors, hosts.server. Used by: hosts.member.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Sequence
from typing import Any, TypeAlias

from jaxdl.errors import HostError
from jaxdl.hosts.board import OBSERVER
from jaxdl.hosts.server import LONGEST_LINE

__all__ = ["Client", "Seconds"]

Seconds: TypeAlias = int | float
"""A time. Its own name, since ``120`` is as good as ``120.0``."""

_LONGEST_REPLY = 1 << 24
_CONNECT = 3.0
_REPLY = 10.0
_PAUSE = 0.2


class Client:
    """Asks the board. Safe to use from several threads, one at a time.

    Args:
        addresses: where the board may be reached; the first that answers is kept.
        token: what the board wants to see.
        host: who asks.

    Attributes:
        addresses: as given, the one that answered first.
        token: as given.
        host: as given.
    """

    def __init__(
        self, addresses: Sequence[tuple[str, int]], token: str, host: int = OBSERVER
    ) -> None:
        self.addresses = list(addresses)
        self.host = host
        self.token = token
        self._socket: socket.socket | None = None
        self._file: Any = None
        self._lock = threading.Lock()

    def ask(self, do: str, *, patience: Seconds = _REPLY, **content: Any) -> dict[str, Any]:
        """Sends one message and gives the reply.

        Args:
            do: what is asked.
            patience: for how many seconds to try again when the board cannot be reached.
            content: the rest of the message, in what JSON can hold.

        Raises:
            HostError: the board cannot be reached, or refuses the message.
        """
        message = {"do": do, "host": self.host, **content, "token": self.token}
        line = json.dumps(message).encode() + b"\n"
        if len(line) > LONGEST_LINE:
            raise HostError(
                f"a message to the board has {len(line)} bytes",
                expected=f"at most {LONGEST_LINE}",
                do="compare hashes instead of texts",
            )
        with self._lock:
            reply = self._exchange(line, time.monotonic() + patience)
        for wrong in ("stranger", "refused"):
            if wrong in reply:
                raise _refusal(reply[wrong], self._where(), is_stranger=wrong == "stranger")
        return reply

    def close(self) -> None:
        """Ends the connection; the next question makes another one."""
        with self._lock:
            self._drop()

    def _exchange(self, line: bytes, deadline: Seconds) -> dict[str, Any]:
        while True:
            try:
                if self._socket is None:
                    self._connect(deadline)
                if self._socket is None:
                    raise ConnectionError("no connection")
                self._socket.settimeout(max(0.1, min(_REPLY, deadline - time.monotonic())))
                self._socket.sendall(line)
                answer = self._file.readline(_LONGEST_REPLY)
                if not answer.endswith(b"\n"):
                    raise ConnectionError("the connection ended")
                return json.loads(answer)
            except (OSError, ValueError) as error:
                self._drop()
                if time.monotonic() + _PAUSE >= deadline:
                    raise self._lost(error) from error
                time.sleep(_PAUSE)

    def _connect(self, deadline: Seconds) -> None:
        failure: OSError | None = None
        for address in self.addresses:
            patience = max(0.1, min(_CONNECT, deadline - time.monotonic()))
            try:
                made = socket.create_connection(address, timeout=patience)
            except OSError as error:
                failure = error
                continue
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket, self._file = made, made.makefile("rb")
            self.addresses = [address, *(a for a in self.addresses if a != address)]
            return
        if failure is not None:
            raise failure

    def _drop(self) -> None:
        if self._socket is not None:
            self._file.close()
            self._socket.close()
        self._socket = self._file = None

    def _where(self) -> str:
        return " or ".join(f"{host}:{port}" for host, port in self.addresses)

    def _lost(self, error: Exception) -> HostError:
        return HostError(
            f"host 0 does not answer at {self._where()}, where it keeps the board: {error}",
            expected="host 0 running, and its port open to the other hosts",
            do="look at the log of host 0: it was not started, has ended, or a firewall is between",
        )


def _refusal(why: str, where: str, *, is_stranger: bool) -> HostError:
    if is_stranger:
        return HostError(
            f"the board at {where} does not know this host: {why}",
            expected="the board of this run, and the token that its hosts share",
            do="give every host the same token, and every run on this machine a port of its own",
        )
    return HostError(
        f"the board at {where} refused this host: {why}",
        expected="an index of its own for every process, and one number of hosts",
        do="check the host index and the number of hosts that each process is given",
    )
