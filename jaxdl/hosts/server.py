"""The board on the network: lines of JSON over TCP, kept by host 0 in a thread of its own.

A line is bounded, holds a token that all hosts share, and is JSON: nothing that is sent is run.

Reads from: errors, hosts.board. Used by: hosts.starting.
"""

from __future__ import annotations

import hmac
import json
import socket
import socketserver
import threading
from typing import Any

from jaxdl.errors import HostError
from jaxdl.hosts.board import OBSERVER, Board

__all__ = ["LONGEST_LINE", "Server", "check_free", "port_taken", "split_address"]

LONGEST_LINE = 1 << 16
"""Bytes of a message, at most."""

_STRANGER = 60.0
_PROBES = {"TCP_KEEPIDLE": 20, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}


class Server:
    """A board that hosts reach. It serves until ``close``, or until its process ends.

    Args:
        num_hosts: how many hosts the run has.
        token: what every message must hold.
        host: the name or number to listen at; every interface when empty.
        port: the port; a free one when 0.

    Attributes:
        board: the table.
        port: the port it listens at.

    Raises:
        HostError: the port is taken.
    """

    def __init__(self, num_hosts: int, token: str, *, host: str = "", port: int = 0) -> None:
        self.board = Board(num_hosts)
        kind = type("_Listening", (_Listening,), {"address_family": _family(host)})
        try:
            self._tcp: _Listening = kind((host, port), _Line)
        except OSError as error:
            raise port_taken(host, port, "the board", error) from error
        self._tcp.board, self._tcp.token = self.board, token.encode()
        self._tcp.most = 4 * num_hosts + 16
        self.port: int = self._tcp.server_address[1]
        thread = threading.Thread(
            target=self._tcp.serve_forever, args=(0.2,), name="jaxdl-board", daemon=True
        )
        thread.start()

    def close(self) -> None:
        """Stops serving."""
        self._tcp.shutdown()
        self._tcp.server_close()


class _Listening(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    block_on_close = False
    request_queue_size = 128
    board: Board
    token: bytes
    most: int
    open = 0

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that breaks is no news: its host is gone, which the board notes."""


class _Line(socketserver.StreamRequestHandler):
    """One connection: a line in, a line out, until it ends."""

    timeout = _STRANGER
    _host = OBSERVER

    def handle(self) -> None:
        """Answers line by line."""
        self._here.open += 1
        try:
            while self._here.open <= self._here.most:
                line = self.rfile.readline(LONGEST_LINE + 1)
                if not line.endswith(b"\n"):
                    return
                reply = self._reply(line)
                self.wfile.write(json.dumps(reply).encode() + b"\n")
                if "stranger" in reply:
                    return
        except OSError:
            pass
        finally:
            self._here.open -= 1
            if self._host != OBSERVER:
                self._here.board.closed(self._host)

    @property
    def _here(self) -> _Listening:
        found: Any = self.server
        return found

    def _reply(self, line: bytes) -> dict[str, Any]:
        try:
            message: Any = json.loads(line)
            token = str(message.pop("token")).encode()
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
            return {"stranger": "this is no message for the board"}
        if not hmac.compare_digest(token, self._here.token):
            return {"stranger": "the token is another one"}
        reply = self._here.board.answer(message)
        if "refused" not in reply and self._host == OBSERVER != message["host"]:
            self._host = message["host"]
            self._here.board.opened(self._host)
            _keep(self.connection)
        return reply


def _keep(connection: socket.socket) -> None:
    """A host may be silent for long; one whose machine vanished is found by the system."""
    connection.settimeout(None)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _PROBES.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def split_address(address: str) -> tuple[str, int] | None:
    """``HOST:PORT`` as a pair; ``None`` when it is no such thing.

    Args:
        address: a name or number and a port; an IPv6 number stands in brackets.

    Examples:
        >>> split_address("10.0.0.2:1234")
        ('10.0.0.2', 1234)
        >>> split_address("[::1]:80")
        ('::1', 80)
        >>> split_address("tpu-0") is None
        True
    """
    host, colon, port = address.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    usable = colon and bare and port.isascii() and port.isdigit() and 0 < int(port) < 65536
    if not usable or (":" in bare and bare == host):
        return None
    return bare, int(port)


def check_free(host: str, port: int, what: str) -> None:
    """Checks that a port can be listened at.

    Args:
        host: the name or number to listen at; every interface when empty.
        port: the port.
        what: who is to listen.

    Raises:
        HostError: it cannot.
    """
    with socket.socket(_family(host)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise port_taken(host, port, what, error) from error


def port_taken(host: str, port: int, what: str, error: OSError) -> HostError:
    """The error of a port that cannot be listened at.

    Args:
        host: the name or number; every interface when empty.
        port: the port.
        what: who was to listen.
        error: what the system said.
    """
    where = f"{host or 'any interface'} port {port}"
    return HostError(
        f"host 0 cannot listen at {where} for {what}: {error.strerror or error}",
        expected="an address of this machine and a port that nobody uses",
        do="choose another port for all hosts, end the run that still holds it, or check that "
        "host 0 runs on the coordinator's machine",
    )


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
