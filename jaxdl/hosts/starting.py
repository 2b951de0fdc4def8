"""Many processes become one run: JAX's distributed runtime, and before it the board.

With an explicit coordinator the board is up first, at the coordinator's port + 1: a host that is
absent is then named within the time given, where JAX would end the process in C++. Where JAX
detects the hosts itself (Cloud TPU, GKE, Slurm, MPI), the board's address and a random token are
broadcast once JAX is up.

Reads from: errors, hosts.member, hosts.present, hosts.server. Used by: hosts.watching, cli,
rehearsal, and by hand.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import json
import os
import secrets
import socket
import time
import warnings

import jax

from jaxdl.errors import ConfigError, HostError
from jaxdl.hosts.client import Client, Seconds
from jaxdl.hosts.member import Member
from jaxdl.hosts.present import Here, Hosts, say_goodbye, shutdown
from jaxdl.hosts.server import Server, check_free, split_address

__all__ = ["initialize"]

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_NOTE = 1024
_REACH = 10.0


def initialize(
    coordinator: str | None = None,
    num_hosts: int | None = None,
    host: int | None = None,
    *,
    timeout: Seconds = 300.0,
    deadline: Seconds = 600.0,
    heartbeat: Seconds = 100.0,
    board: str | None = None,
    token: str | None = None,
) -> Hosts:
    """Joins the other hosts of a run. Call it before anything that touches a device.

    Without arguments JAX detects the hosts on Cloud TPU, GKE, Slurm and MPI; where it detects
    none, nothing is started and one process goes on alone. A second call gives what the first gave.

    Args:
        coordinator: ``HOST:PORT`` of host 0, as the others reach it. The next port is the board's.
        num_hosts: how many processes there are, one a host.
        host: the index of this one, from 0.
        timeout: seconds in which all hosts must be there.
        deadline: seconds that ``barrier`` and ``agree`` wait when they are not told how long. One
            host may compile for minutes what another reads from a cache; a host that fails or dies
            ends the wait at once in any case.
        heartbeat: seconds of silence after which JAX takes a host for dead and ends the others.
        board: ``HOST:PORT`` of the board, where the next port will not do.
        token: what the hosts show to the board; the variable ``JAXDL_TOKEN`` when ``None``. Without
            either it is made from the coordinator's address, which keeps runs apart and is no
            secret; where JAX detects the hosts it is random.

    Returns:
        Which host this is, of how many, and how that was found.

    Raises:
        ConfigError: the arguments do not fit together, or differ from an earlier call's.
        HostError: a port is taken, a host is absent or not the one it says, or a device was used
            already.
    """
    asked = (coordinator, num_hosts, host)
    if Here.found is not None:
        if Here.asked != asked and asked != (None, None, None):
            raise ConfigError(
                f"initialize was called with {asked}, and before with {Here.asked}",
                expected="one call, or the same one again",
                do="initialize once, at the start of the program",
            )
        return Here.found
    if coordinator is None and num_hosts is None and host is None:
        found = _detected(timeout, deadline, heartbeat, board)
    else:
        address, count, index = _checked(coordinator, num_hosts, host)
        if count == 1:
            found = Hosts(0, 1, "one process")
        else:
            at = _board_address(address, board)
            secret = token or os.environ.get("JAXDL_TOKEN") or _derived(str(coordinator), count)
            member_ = _join(address, at, count, index, secret, timeout=timeout, deadline=deadline)
            _start_jax(str(coordinator), count, index, member_, timeout, heartbeat)
            found = Hosts(index, count, "explicit", f"{at[0]}:{at[1]}")
    Here.found, Here.asked = found, asked
    if Here.member is not None:
        # After JAX has registered its own way out, so before it at the exit: the board is up then.
        atexit.register(say_goodbye)
    return found


def _checked(
    coordinator: str | None, num_hosts: int | None, host: int | None
) -> tuple[tuple[str, int], int, int]:
    named = {"coordinator": coordinator, "num_hosts": num_hosts, "host": host}
    missing = [name for name, value in named.items() if value is None]
    wrong: tuple[str, str] | None = None
    address = split_address(coordinator) if coordinator is not None else None
    if coordinator is None or num_hosts is None or host is None:
        wrong = f"{', '.join(missing)} is not given", "all of coordinator, num_hosts and host"
    elif address is None:
        wrong = f"the coordinator is {coordinator!r}", "HOST:PORT, such as 10.0.0.2:1234"
    elif num_hosts < 1:
        wrong = f"num_hosts is {num_hosts}", "at least 1"
    elif not 0 <= host < num_hosts:
        wrong = f"host is {host} of {num_hosts}", f"an index from 0 to {num_hosts - 1}"
    else:
        return address, num_hosts, host
    raise ConfigError(
        wrong[0],
        expected=wrong[1],
        do="give all three, or none where JAX can detect them (Cloud TPU, GKE, Slurm, MPI)",
    )


def _board_address(coordinator: tuple[str, int], board: str | None) -> tuple[str, int]:
    at = (coordinator[0], coordinator[1] + 1) if board is None else split_address(board)
    if at is None or at[1] > 65535:
        raise ConfigError(
            f"the board's address is {board or at!r}",
            expected="HOST:PORT, such as 10.0.0.2:1235",
            do="give board=, or a coordinator whose next port can be used",
        )
    return at


def _derived(coordinator: str, num_hosts: int) -> str:
    return hashlib.sha256(f"jaxdl {coordinator} {num_hosts}".encode()).hexdigest()


def _join(
    coordinator: tuple[str, int],
    at: tuple[str, int],
    num_hosts: int,
    host: int,
    token: str,
    *,
    timeout: Seconds,
    deadline: Seconds,
) -> Member:
    """Brings the board up on host 0, and waits at it for all hosts."""
    if _backend_started():
        raise _too_late()
    begin = time.monotonic()
    if host == 0:
        inside = at[0] if at[0] in _LOOPBACK else ""
        check_free(inside, coordinator[1], "JAX's coordinator")
        Here.server = Server(num_hosts, token, host=inside, port=at[1])
    try:
        made = Member(Client([at], token, host), num_hosts, deadline=deadline)
        return _take_place(made, timeout=timeout, begin=begin)
    except BaseException:
        if Here.server is not None:
            # The others learn why from the board, and ask it again before they give up.
            time.sleep(0.5)
        shutdown()
        raise


def _take_place(made: Member, *, timeout: Seconds, begin: float) -> Member:
    if Here.server is not None:
        # Host 0's own name may not lead back to this machine.
        inside = [(name, Here.server.port) for name in ("localhost", "::1")]
        made.client.addresses = [*inside, *made.client.addresses]
    name = f"{socket.gethostname()} process {os.getpid()}"
    made.join(name, f"{name} {secrets.token_hex(8)}", patience=timeout)
    Here.member = made
    made.barrier("start", deadline=max(0.5, timeout - (time.monotonic() - begin)))
    return made


def _start_jax(
    coordinator: str, count: int, index: int, member: Member, timeout: Seconds, heartbeat: float
) -> None:
    try:
        jax.distributed.initialize(
            coordinator,
            count,
            index,
            initialization_timeout=max(1, round(timeout)),
            heartbeat_timeout_seconds=max(1, round(heartbeat)),
        )
    except (RuntimeError, ValueError) as error:
        with contextlib.suppress(HostError):
            member.end(f"JAX's distributed runtime did not start: {error}", left=False)
        shutdown()
        raise HostError(
            f"JAX's distributed runtime did not start on host {index}: {error}",
            expected=f"a coordinator at {coordinator} that all {count} hosts reach",
            do="check the address and the firewall, and look at the log of host 0",
        ) from error


def _detected(timeout: Seconds, deadline: float, heartbeat: float, board: str | None) -> Hosts:
    """What JAX finds by itself, or what the program has started already."""
    if not jax.distributed.is_initialized():
        if _backend_started():
            if jax.process_count() > 1:
                raise _too_late()
            return Hosts(0, 1, "one process")
        try:
            jax.distributed.initialize(
                initialization_timeout=max(1, round(timeout)),
                heartbeat_timeout_seconds=max(1, round(heartbeat)),
            )
        except (RuntimeError, ValueError) as error:
            # JAX says so when it finds none of the clusters that it knows.
            if isinstance(error, ValueError) and "coordinator_address" in str(error):
                return Hosts(0, 1, "one process")
            raise HostError(
                f"JAX detected a cluster, and could not join it: {error}",
                expected=f"all its hosts within {timeout:g} s",
                do="start the program on every host, or give coordinator, num_hosts and host",
            ) from error
    count, index = jax.process_count(), jax.process_index()
    if count == 1:
        return Hosts(0, 1, "one process")
    return Hosts(index, count, "detected", _broadcast_board(count, index, board, timeout, deadline))


def _broadcast_board(
    count: int, index: int, board: str | None, timeout: Seconds, deadline: float
) -> str | None:
    """Host 0 opens a board and tells the others where; all of them reach it, or none uses it."""
    import numpy as np
    from jax.experimental import multihost_utils

    begin, note = time.monotonic(), b""
    if index == 0:
        wanted = split_address(board) if board is not None else None
        token = secrets.token_hex(16)
        Here.server = Server(count, token, port=wanted[1] if wanted else 0)
        names = [wanted[0]] if wanted else _own_names()
        told = {"addresses": [[n, Here.server.port] for n in names], "token": token}
        note = json.dumps(told).encode()
    padded = np.frombuffer(note.ljust(_NOTE), np.uint8)
    sent = np.asarray(multihost_utils.broadcast_one_to_all(padded)).astype(np.uint8)
    told = json.loads(sent.tobytes().decode())
    addresses = [(str(name), int(port)) for name, port in told["addresses"]]
    if index == 0:
        addresses = [("localhost", addresses[0][1]), *addresses]
    reached = True
    try:
        Client(addresses, told["token"]).ask("look", patience=_REACH)
    except HostError:
        reached = False
    answers = np.asarray(multihost_utils.process_allgather(np.asarray(reached))).reshape(-1)
    if not answers.all():
        outside = ", ".join(str(each) for each in np.flatnonzero(~answers))
        if index == 0:
            warnings.warn(
                f"hosts {outside} cannot reach host 0 at {addresses[1:]}: barriers have no "
                "deadline and nobody says where a host stands; open the port, or give board=",
                stacklevel=4,
            )
        shutdown()
        return None
    made = Member(Client(addresses, told["token"], index), count, deadline=deadline)
    _take_place(made, timeout=timeout, begin=begin)
    return ":".join(map(str, told["addresses"][0]))


def _own_names() -> list[str]:
    """How other machines may call this one: its outgoing number first."""
    names: list[str] = []
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        # A datagram socket's connect sends nothing; it only chooses an interface.
        probe.connect(("192.0.2.1", 9))
        names.append(probe.getsockname()[0])
    return [*names, socket.gethostname()]


def _backend_started() -> bool:
    """Whether a device was touched. JAX says so before it reads any other argument."""
    if jax.distributed.is_initialized():
        return True
    try:
        jax.distributed.initialize(cluster_detection_method="deactivate")
    except RuntimeError:
        return True
    except ValueError:
        return False
    # A coordinator that the environment names in full.
    jax.distributed.shutdown()
    return False


def _too_late() -> HostError:
    return HostError(
        "initialize was called after JAX had started its devices",
        expected="a call before the first array, key or jax.devices()",
        do="call it first; a module that makes arrays when it is imported is imported after it",
    )
