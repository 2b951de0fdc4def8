"""The board: where each host says that it is there and how far it is, and reads who is not.

It is a table and the rules for it: no socket, no thread, no JAX. ``hosts.server`` lets the hosts
reach it.

Reads from: nothing of jaxdl. Used by: hosts.server.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

__all__ = ["OBSERVER", "Board"]

OBSERVER = -1
"""The index of somebody who only looks, such as a supervisor."""

_MOST_BARRIERS = 1000
_MOST_TEXT = 4000

Message = dict[str, Any]


@dataclass
class _Seat:
    """What the board knows of one host."""

    name: str = ""
    life: str = ""
    at: str = ""
    figures: dict[str, float] = field(default_factory=dict[str, float])
    heard: float | None = None
    ended: str = ""
    why: str = ""
    since: float = 0.0
    connections: int = 0


@dataclass
class _Barrier:
    """Who came, with what, and whether somebody gave it up."""

    facts: dict[int, dict[str, str]] = field(default_factory=dict[int, dict[str, str]])
    given_up: str = ""


class Board:
    """The table of all hosts. Every method may be called from any thread.

    Args:
        num_hosts: how many hosts the run has.
        clock: seconds, never going back.
    """

    def __init__(self, num_hosts: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.num_hosts = num_hosts
        self._clock = clock
        self._seats = [_Seat() for _ in range(num_hosts)]
        self._barriers: OrderedDict[str, _Barrier] = OrderedDict()
        self._lock = threading.Lock()
        self._answers: dict[str, Callable[[int, Message], Message]] = {
            "join": self._join,
            "post": self._post,
            "arrive": self._arrive,
            "give_up": self._give_up,
            "end": self._end,
            "look": self._look,
        }

    def answer(self, message: Message) -> Message:
        """The reply to one message; ``{"refused": why}`` when it makes no sense.

        Args:
            message: ``do`` names what to do, ``host`` who asks.
        """
        do, host = message.get("do"), message.get("host")
        known = self._answers.get(do) if isinstance(do, str) else None
        if known is None:
            return {"refused": f"the board knows no {do!r}"}
        if not isinstance(host, int) or not OBSERVER <= host < self.num_hosts:
            return {"refused": f"there is no host {host!r}: the run has {self.num_hosts}"}
        if host == OBSERVER and do != "look":
            return {"refused": "an observer only looks"}
        with self._lock:
            if host != OBSERVER:
                self._seats[host].heard = self._clock()
            try:
                return known(host, message)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                return {"refused": f"the message {do!r} cannot be read: {error!r}"}

    def opened(self, host: int) -> None:
        """A connection of a host came to be.

        Args:
            host: which.
        """
        with self._lock:
            seat = self._seats[host]
            seat.connections += 1
            if seat.ended == "gone":
                seat.ended = seat.why = ""

    def closed(self, host: int) -> None:
        """A connection of a host ended; without the last one, and a word, the host is gone.

        Args:
            host: which.
        """
        with self._lock:
            seat = self._seats[host]
            seat.connections -= 1
            if seat.connections == 0 and not seat.ended:
                self._set_ended(seat, "gone", "its connection ended without a word")

    def _set_ended(self, seat: _Seat, ended: str, why: str) -> None:
        seat.ended, seat.why, seat.since = ended, why[:_MOST_TEXT], self._clock()

    def _join(self, host: int, message: Message) -> Message:
        seat, life = self._seats[host], str(message["life"])
        if int(message["num_hosts"]) != self.num_hosts:
            return {
                "refused": f"host {host} was told of {message['num_hosts']} hosts, "
                f"host 0 of {self.num_hosts}"
            }
        if seat.life and seat.life != life and not seat.ended:
            return {
                "refused": f"two processes say that they are host {host}: {seat.name} and "
                f"{message['name']}"
            }
        seat.name, seat.life, seat.at = str(message["name"])[:200], life, "joining"
        seat.ended = seat.why = ""
        return {}

    def _post(self, host: int, message: Message) -> Message:
        seat = self._seats[host]
        seat.at = str(message["at"])[:200]
        seat.figures = {str(k): float(v) for k, v in message.get("figures", {}).items()}
        return {"ended": self._ended()}

    def _arrive(self, host: int, message: Message) -> Message:
        name = str(message["barrier"])[:400]
        if name not in self._barriers and len(self._barriers) >= _MOST_BARRIERS:
            self._barriers.popitem(last=False)
        barrier = self._barriers.setdefault(name, _Barrier())
        facts = {str(k): str(v) for k, v in message.get("facts", {}).items()}
        barrier.facts[host] = facts
        self._seats[host].at = f"barrier {message.get('called', name)!r}"
        missing = [h for h in range(self.num_hosts) if h not in barrier.facts]
        reply: Message = {"missing": missing}
        if barrier.given_up:
            reply["given_up"] = barrier.given_up
        elif not missing:
            reply["differing"] = _differing(barrier.facts)
        else:
            reply["ended"] = self._ended()
        return reply

    def _give_up(self, host: int, message: Message) -> Message:
        barrier = self._barriers.setdefault(str(message["barrier"])[:400], _Barrier())
        complete = len(barrier.facts) == self.num_hosts
        if not complete:
            barrier.given_up = barrier.given_up or str(message["why"])[:_MOST_TEXT]
        return {"complete": complete}

    def _end(self, host: int, message: Message) -> Message:
        ended = "left" if message.get("left") else "failed"
        if self._seats[host].ended != "failed":
            self._set_ended(self._seats[host], ended, str(message["why"]))
        return {}

    def _look(self, host: int, message: Message) -> Message:
        now = self._clock()
        return {
            "stands": [
                {
                    "host": number,
                    "name": seat.name,
                    "at": seat.at,
                    "ago": None if seat.heard is None else now - seat.heard,
                    "ended": seat.ended,
                    "why": seat.why,
                    "figures": seat.figures,
                }
                for number, seat in enumerate(self._seats)
            ],
            "ended": self._ended(),
        }

    def _ended(self) -> list[Message]:
        """The hosts that ended, the first first."""
        now = self._clock()
        found = [
            {"host": h, "how": seat.ended, "why": seat.why, "at": seat.at, "ago": now - seat.since}
            for h, seat in enumerate(self._seats)
            if seat.ended
        ]
        return sorted(found, key=lambda each: -each["ago"])


def _differing(facts: dict[int, dict[str, str]]) -> dict[str, dict[str, list[int]]]:
    """The facts that are not the same on all hosts: who has which value."""
    names = sorted({name for each in facts.values() for name in each})
    found: dict[str, dict[str, list[int]]] = {}
    for name in names:
        values: dict[str, list[int]] = {}
        for host in sorted(facts):
            values.setdefault(facts[host].get(name, "nothing"), []).append(host)
        if len(values) > 1:
            found[name] = values
    return found
