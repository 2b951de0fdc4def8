"""Many hosts, one run: how they join, wait for each other with a deadline, and find who is wrong.

``initialize`` starts JAX's distributed runtime and a small board on host 0, ``barrier`` waits for
all hosts and names the one that does not come, ``agree`` compares what they are about to run, and
``watch`` tells how far each one is. For one process all of them return at once.
"""

from __future__ import annotations

from jaxdl.hosts.board import Board
from jaxdl.hosts.client import Client
from jaxdl.hosts.facts import flat, packages, program_hash, source_hash, versions
from jaxdl.hosts.member import Member, Stand
from jaxdl.hosts.present import Hosts, agree, barrier, failing, member, shutdown
from jaxdl.hosts.server import Server
from jaxdl.hosts.starting import initialize
from jaxdl.hosts.watching import Watch, watch

__all__ = [
    "Board",
    "Client",
    "Hosts",
    "Member",
    "Server",
    "Stand",
    "Watch",
    "agree",
    "barrier",
    "failing",
    "flat",
    "initialize",
    "member",
    "packages",
    "program_hash",
    "shutdown",
    "source_hash",
    "versions",
    "watch",
]
