"""A board and its hosts, all of them threads of this process."""

from __future__ import annotations

import threading

import pytest

from jaxdl.hosts import Client, Member, Server

TOKEN = "a token"


class Team:
    """Some hosts of one board."""

    def __init__(self, num_hosts: int) -> None:
        self.server = Server(num_hosts, TOKEN, host="localhost")
        self.num_hosts = num_hosts
        self.clients: list[Client] = []

    def client(self, host: int, token: str = TOKEN) -> Client:
        self.clients.append(Client([("localhost", self.server.port)], token, host))
        return self.clients[-1]

    def member(self, host: int, **options) -> Member:
        made = Member(self.client(host), self.num_hosts, **options)
        made.join(f"vm-{host}", f"life {host}", patience=5)
        return made

    def all(self, **options) -> list[Member]:
        return [self.member(host, **options) for host in range(self.num_hosts)]

    def close(self) -> None:
        for client in self.clients:
            client.close()
        self.server.close()


@pytest.fixture
def team():
    """``team(n)``: a board for ``n`` hosts."""
    made: list[Team] = []

    def make(num_hosts: int) -> Team:
        made.append(Team(num_hosts))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def together():
    """Calls functions at the same time; gives what each returned or raised."""

    def run(*functions):
        found = [None] * len(functions)

        def one(index, function):
            try:
                found[index] = function()
            except Exception as error:  # noqa: BLE001 - handed to the test
                found[index] = error

        threads = [threading.Thread(target=one, args=pair) for pair in enumerate(functions)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert not any(thread.is_alive() for thread in threads), "a host hangs"
        return found

    return run
