"""What the supervisor of a rehearsal tells each host, by a variable of its environment.

Reads from: nothing of jaxdl. Used by: rehearsal.host, rehearsal.processes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

__all__ = ["VARIABLE", "Orders", "Program"]

VARIABLE = "JAXDL_REHEARSAL"

Program: TypeAlias = Callable[..., int]
"""``(file, home, words, change, seen) -> exit code``: trains the recipe of a file as ``change``
makes it, and hands ``seen`` the outcome."""


class Orders(NamedTuple):
    """What the supervisor tells one host.

    Attributes:
        host: its index.
        num_hosts: how many there are.
        devices: its CPU devices.
        coordinator: where JAX's coordinator is to be.
        board: where the board is to be.
        token: of the board.
        deadline: seconds that it waits for the others.
        program: ``module:function`` of a ``Program``.
        file: the recipe's file.
        home: the folder in which that was written.
        words: the options after it.
        folder: receives ``hostI.step`` and ``hostI.events``.
        fault: or none.
    """

    host: int
    num_hosts: int
    devices: int
    coordinator: str
    board: str
    token: str
    deadline: float
    program: str
    file: str
    home: str
    words: list[str]
    folder: str
    fault: tuple[Any, ...] | None
