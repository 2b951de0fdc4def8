"""One host among the others: it comes to barriers, compares facts, and says how far it is.

Why not what there is: JAX's device collectives have no deadline and need a running backend. Its
coordination service has barriers with one, public as ``orbax.checkpoint.multihost
.get_barrier_sync_fn``; but it exists only once every host is there, a host that is missing at its
start ends the process in C++, a time-out says nothing of where the missing host stands, and there
is no public store of keys to ask. The board answers these questions, and it is up first.

Reads from: errors, hosts.client. Used by: hosts.starting, hosts.watching.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxdl.errors import ConfigError, HostError
from jaxdl.hosts.client import Client, Seconds

__all__ = ["Member", "Stand", "counted", "ended_in_words", "stands_in_words"]

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_LONGEST_FACT = 100
_MOST_FACTS = 300
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 0.25
_LOST = 5.0


class Stand(NamedTuple):
    """Where a host stands, as the board knows it.

    Attributes:
        host: which.
        name: of its machine and process; empty when it was never heard of.
        at: its last barrier or step.
        ago: seconds since it was heard of; ``None`` when it never was.
        ended: ``"left"``, ``"failed"``, ``"gone"``, or empty while it is there.
        why: why it ended.
        figures: what it measured, by name.
    """

    host: int
    name: str
    at: str
    ago: float | None
    ended: str
    why: str
    figures: Mapping[str, float]

    def __str__(self) -> str:
        name = f"host {self.host}" + (f" ({self.name})" if self.name else "")
        if self.ago is None:
            return f"{name}: never heard of"
        end = f", {self.ended}: {self.why.splitlines()[0]}" if self.ended and self.why else ""
        return f"{name}: {self.at}, heard of {self.ago:.1f} s ago{end}"


class Member:
    """A host of a run that has a board.

    Args:
        client: its line to the board.
        num_hosts: how many hosts there are.
        deadline: seconds that barriers wait when they are not told how long.

    Attributes:
        host: its index.
        num_hosts: how many hosts there are.
        deadline: as given.
    """

    def __init__(self, client: Client, num_hosts: int, *, deadline: Seconds = 600.0) -> None:
        self.host, self.num_hosts, self.deadline = client.host, num_hosts, deadline
        self.client = client
        self._uses: Counter[str] = Counter()

    def join(self, name: str, life: str, *, patience: Seconds) -> None:
        """Takes the host's place at the board.

        Args:
            name: of this machine and process, for messages.
            life: differs between any two processes.
            patience: seconds to wait for the board to come up.

        Raises:
            HostError: the board cannot be reached, or the place is taken.
        """
        content = {"name": name, "life": life, "num_hosts": self.num_hosts}
        self.client.ask("join", patience=patience, **content)

    def post(self, at: str, figures: Mapping[str, float] | None = None) -> list[dict[str, Any]]:
        """Says how far this host is.

        Args:
            at: in words, such as ``"step 30"``.
            figures: what it measured, by name.

        Returns:
            The hosts that ended, the first first.
        """
        return self.client.ask("post", patience=2.0, at=at, figures=dict(figures or {}))["ended"]

    def end(self, why: str, *, left: bool) -> None:
        """Says that this host ends; nobody then waits for it.

        Args:
            why: in words.
            left: it is done; otherwise it failed.
        """
        self.client.ask("end", patience=2.0, why=why, left=left)

    def stands(self, *, patience: Seconds = 2.0) -> list[Stand]:
        """Where every host stands; nothing when the board cannot be reached.

        Args:
            patience: seconds to try.
        """
        try:
            found = self.client.ask("look", patience=patience)["stands"]
        except HostError:
            return []
        return [Stand(**each) for each in found]

    def barrier(self, name: str, *, deadline: Seconds | None = None) -> None:
        """Waits until every host is here.

        Args:
            name: of the place in the program; it may be used again.
            deadline: seconds to wait.

        Raises:
            HostError: a host did not come in time, failed, or the board is gone.
            ConfigError: the deadline is no time.
        """
        self._meet(name, {}, deadline)

    def agree(
        self, facts: Mapping[str, Any], *, name: str = "agreement", deadline: Seconds | None = None
    ) -> None:
        """Waits until every host is here, and compares what they hold to be true.

        Args:
            facts: by name; a long one is compared by its hash.
            name: of the place in the program; it may be used again.
            deadline: seconds to wait.

        Raises:
            HostError: on every host, when a fact differs: who has what.
            ConfigError: the deadline is no time.
        """
        texts = {str(key)[:_LONGEST_FACT]: _short(value) for key, value in facts.items()}
        if len(texts) > _MOST_FACTS:
            first = list(texts)[:_MOST_FACTS]
            rest = {key: value for key, value in texts.items() if key not in first}
            texts = {**{key: texts[key] for key in first}, "the rest": _short(sorted(rest.items()))}
        differing = self._meet(name, texts, deadline)
        if differing:
            raise _disagreement(differing, self.num_hosts)

    def _meet(
        self, name: str, facts: Mapping[str, str], deadline: Seconds | None
    ) -> dict[str, dict[str, list[int]]]:
        patience = _seconds(self.deadline if deadline is None else deadline)
        use = self._uses[name]
        self._uses[name] += 1
        begin, pause = time.monotonic(), _FIRST_PAUSE
        content = {"barrier": f"{name}#{use}", "called": name, "facts": dict(facts)}
        while True:
            left = patience - (time.monotonic() - begin)
            # A board that went away does not come back, and host 0 went with it.
            reply = self.client.ask("arrive", patience=max(0.2, min(left, _LOST)), **content)
            if "given_up" in reply:
                raise _given_up(name, reply["given_up"])
            if not reply["missing"]:
                return reply["differing"]
            lost = [e for e in reply["ended"] if e["host"] in reply["missing"]]
            # One whose connection broke may come back; one that said so does not.
            lost = [e for e in lost if e["how"] != "gone" or e["ago"] > _LOST]
            if lost or left <= 0:
                error = self._absence(name, reply["missing"], patience, lost)
                why = f"host {self.host} gave it up: {error.what}"
                given_up = self.client.ask("give_up", patience=2.0, why=why, **content)
                if not given_up["complete"]:
                    raise error
            time.sleep(min(pause, max(left, 0.0)))
            pause = min(pause * 1.5, _LONGEST_PAUSE)

    def _absence(
        self,
        name: str,
        missing: Sequence[int],
        patience: Seconds,
        lost: Sequence[Mapping[str, Any]],
    ) -> HostError:
        who = _hosts(missing)
        if lost:
            first = lost[0]
            what = f"barrier {name!r}: {ended_in_words(first)}"
        else:
            what = (
                f"barrier {name!r}: {who} did not come within {patience:.3g} s "
                f"({self.num_hosts - len(missing)} of {self.num_hosts} hosts are there)"
            )
        return HostError(
            f"{what}\n{stands_in_words(self.stands())}",
            expected=f"all {self.num_hosts} hosts at the barrier",
            do=f"look at the log of {who}; a host that was never heard of was not started, or "
            "cannot reach host 0",
        )


def ended_in_words(ended: Mapping[str, Any]) -> str:
    """How a host ended, in one line.

    Args:
        ended: as the board tells it.
    """
    why = (str(ended["why"]).splitlines() or [""])[0]
    # A host tells its step once a second, so one that died may have come further.
    words = {"gone": "is gone, last heard of at", "left": "has left at", "failed": "failed at"}
    return f"host {ended['host']} {words[ended['how']]} {ended['at']}: {why}"


def stands_in_words(stands: Sequence[Stand]) -> str:
    """A line for every host.

    Args:
        stands: from ``Member.stands``.
    """
    return "\n".join(f"    {each}" for each in stands) or "    the board cannot be reached"


def counted(count: int, word: str) -> str:
    """``1 host``, ``2 hosts``.

    Args:
        count: how many.
        word: of one.

    Examples:
        >>> counted(1, "host"), counted(3, "host")
        ('1 host', '3 hosts')
    """
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def _hosts(hosts: Sequence[int]) -> str:
    shown = ", ".join(str(host) for host in hosts[:20])
    more = f" and {len(hosts) - 20} more" if len(hosts) > 20 else ""
    return f"host{'s' * (len(hosts) > 1)} {shown}{more}"


def _given_up(name: str, why: str) -> HostError:
    return HostError(
        f"barrier {name!r} was given up: {why}",
        expected="all hosts at the barrier in time",
        do="start all hosts again",
    )


def _disagreement(differing: Mapping[str, Mapping[str, list[int]]], num_hosts: int) -> HostError:
    lines: list[str] = []
    strange: set[int] = set()
    for fact, values in differing.items():
        ordered = sorted(values.items(), key=lambda pair: (-len(pair[1]), pair[1]))
        (usual, most), *others = ordered
        # Half against half: nobody is the odd one out, so all are named.
        tie = len(others[0][1]) == len(most)
        for value, hosts in others:
            strange.update(hosts)
            rest = _hosts(most) if tie else "the others"
            lines.append(f"    {_hosts(hosts)}: {fact} differs: {value}; {rest}: {usual}")
        strange.update(most if tie else ())
    return HostError(
        f"the hosts do not run the same thing: {_hosts(sorted(strange))}\n" + "\n".join(lines),
        expected=f"{num_hosts} hosts with one code, one set of versions and one set of settings",
        do="install the same files and packages on every host, give each the same command, and "
        "start all of them again",
    )


def _short(value: Any) -> str:
    # Where an object lies in memory is nothing to compare.
    text = _ADDRESS.sub("", value if isinstance(value, str) else repr(value))
    if len(text) <= _LONGEST_FACT:
        return text
    return f"sha256 {hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _seconds(deadline: Seconds) -> float:
    if not 0 < deadline < float("inf"):
        raise ConfigError(
            f"a deadline of {deadline} s",
            expected="seconds, above 0",
            do="give the longest time that a healthy host may need",
        )
    return float(deadline)
