"""The board and its hosts, without JAX: barriers, deadlines, agreement, strangers."""

from __future__ import annotations

import json
import socket
import time
from functools import partial

import pytest

from jaxdl.errors import ConfigError, HostError
from jaxdl.hosts import Board, Client, Member, Server
from jaxdl.hosts.server import LONGEST_LINE, split_address


@pytest.mark.parametrize("hosts", [1, 2, 5])
def test_all_hosts_pass_a_barrier_as_often_as_they_come(team, together, hosts):
    members = team(hosts).all()

    def run(member, pause):
        for _ in range(3):
            time.sleep(pause)
            member.barrier("compiled", deadline=20)
        return "through"

    found = together(*(partial(run, m, 0.03 * m.host) for m in members))
    assert found == ["through"] * hosts


def test_no_host_passes_before_the_last_one_came(team, together):
    members = team(3).all()
    came: list[float] = []

    def run(member):
        time.sleep(0.3 * member.host)
        came.append(time.monotonic())
        member.barrier("b", deadline=20)
        return time.monotonic()

    passed = together(*(partial(run, m) for m in members))
    assert min(passed) >= max(came)


def test_the_missing_are_named_with_where_they_stand_within_the_deadline(team, together):
    here = team(4)
    members = [here.member(host) for host in (0, 1, 2)]
    members[2].post("step 17", {"own": 0.5})
    begin = time.monotonic()
    found = together(*(partial(m.barrier, "compiled", deadline=1.0) for m in members[:2]))
    assert time.monotonic() - begin < 4
    first = next(error for error in found if "did not come within 1 s" in str(error))
    assert all(isinstance(error, HostError) for error in found), found
    assert all("hosts 2, 3" in str(error) for error in found)
    assert "2 of 4 hosts are there" in first.what
    assert "host 2 (vm-2): step 17, heard of" in first.what
    assert "host 3: never heard of" in first.what
    assert "host 0 (vm-0): barrier 'compiled'" in first.what


def test_who_comes_late_to_a_barrier_that_was_given_up_is_told(team):
    members = team(2).all()
    with pytest.raises(HostError, match="host 1 did not come"):
        members[0].barrier("b", deadline=0.2)
    begin = time.monotonic()
    with pytest.raises(HostError, match="was given up: host 0 gave it up"):
        members[1].barrier("b", deadline=20)
    assert time.monotonic() - begin < 3
    # The next one of that name is another one.
    assert members[0]._uses == members[1]._uses


def test_a_host_that_failed_ends_the_wait_of_the_others_at_once(team, together):
    members = team(3).all()
    members[1].post("step 4")

    def fail():
        time.sleep(0.2)
        members[1].end("DataError: ran short", left=False)

    begin = time.monotonic()
    found = together(
        fail, *(partial(m.barrier, "b", deadline=60) for m in (members[0], members[2]))
    )
    assert time.monotonic() - begin < 5
    assert any("host 1 failed at step 4: DataError: ran short" in str(e) for e in found)
    assert all("host 1" in str(error) for error in found[1:])


def test_a_host_that_dies_is_gone_and_may_come_back(team):
    here = team(2)
    zero, one = here.all()
    one.post("step 9")
    one.client.close()
    deadline = time.monotonic() + 5
    while zero.stands()[1].ended != "gone":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert zero.post("step 9")[0]["host"] == 1
    one.post("step 10")
    assert [stand.ended for stand in zero.stands()] == ["", ""]


def test_the_death_of_host_0_ends_the_others_within_the_deadline(team):
    here = team(2)
    one = here.member(1)
    here.server.close()
    one.client.close()
    begin = time.monotonic()
    with pytest.raises(HostError, match="host 0 does not answer at localhost") as error:
        one.barrier("b", deadline=1.5)
    assert time.monotonic() - begin < 4
    assert "log of host 0" in error.value.do


def test_equal_facts_agree_and_differing_ones_name_the_odd_host_on_every_host(team, together):
    members = team(3).all()
    facts = {"recipe.py": "aaaa", "jax": "0.10.2", "program": "x" * 5000}
    assert together(*(partial(m.agree, facts) for m in members)) == [None] * 3
    odd = {**facts, "recipe.py": "bbbb", "program": "x" * 4999 + "y"}
    given = [facts, odd, facts]
    found = together(*(partial(m.agree, f) for m, f in zip(members, given, strict=True)))
    assert all(isinstance(error, HostError) for error in found)
    assert len({str(error) for error in found}) == 1
    assert "run the same thing: host 1\n" in found[0].what
    assert "host 1: recipe.py differs: bbbb; the others: aaaa" in found[0].what
    assert "host 1: program differs: sha256" in found[0].what
    assert "jax" not in found[0].what


def test_two_against_two_names_all_and_a_missing_fact_is_a_difference(team, together):
    members = team(4).all()
    given = [{"jax": "1"}, {"jax": "2"}, {"jax": "1"}, {"jax": "2", "libtpu": "3"}]
    found = together(*(partial(m.agree, f) for m, f in zip(members, given, strict=True)))
    text = found[2].what
    assert "hosts 0, 1, 2, 3\n" in text
    assert "hosts 1, 3: jax differs: 2; hosts 0, 2: 1" in text
    assert "host 3: libtpu differs: 3; the others: nothing" in text


def test_where_an_object_lies_is_no_difference(team, together):
    members = team(2).all()
    assert together(*(partial(m.agree, {"spike": object()}) for m in members)) == [None] * 2


def test_a_thousand_facts_fit(team, together):
    members = team(2).all()
    facts = {f"settings.{i}": "v" * 500 for i in range(1000)}
    assert together(*(partial(m.agree, facts) for m in members)) == [None] * 2
    changed = {**facts, "settings.999": "w"}
    found = together(partial(members[0].agree, facts), partial(members[1].agree, changed))
    assert all("the rest differs" in str(error) for error in found)


def test_two_processes_cannot_be_one_host_nor_of_two_sizes(team):
    here = team(2)
    here.member(1)
    twin = Member(here.client(1), 2)
    with pytest.raises(HostError, match="two processes say that they are host 1: vm-1 and vm-9"):
        twin.join("vm-9", "another life", patience=2)
    with pytest.raises(HostError, match="told of 3 hosts, host 0 of 2"):
        Member(here.client(0), 3).join("vm-0", "life", patience=2)
    with pytest.raises(HostError, match="there is no host 2: the run has 2"):
        Member(here.client(2), 2).join("vm-2", "life", patience=2)


def test_a_host_that_starts_again_takes_its_place_again(team):
    here = team(2)
    here.member(1).end("failed", left=False)
    again = Member(here.client(1), 2)
    again.join("vm-1", "another life", patience=2)
    assert again.stands()[1].ended == ""


def test_strangers_learn_nothing(team):
    here = team(2)
    with pytest.raises(HostError, match="the token is another one"):
        here.client(0, token="guess").ask("look")
    for sent in (
        b"GET / HTTP/1.0\r\n\r\n",
        b"[]\n",
        b"\xff\xfe\n",
        b'{"do": "look"}\n',
        b"[" * 9999,
    ):
        with socket.create_connection(("localhost", here.server.port), timeout=5) as plain:
            plain.sendall(sent + b"\n")
            with plain.makefile("rb") as answers:
                assert b"stands" not in answers.read()
    with socket.create_connection(("localhost", here.server.port), timeout=5) as plain:
        try:
            plain.sendall(b"x" * (LONGEST_LINE + 10))
            answered = plain.recv(100)
        except ConnectionError:
            answered = b""
        assert answered == b""
    assert here.client(0).ask("look")["ended"] == []


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"do": "format"},
        {"do": ["look"], "host": 0},
        {"do": "look", "host": "0"},
        {"do": "look", "host": 7},
        {"do": "post", "host": -1, "at": "x"},
        {"do": "post", "host": 0},
        {"do": "post", "host": 0, "at": "x", "figures": {"own": "slow"}},
        {"do": "arrive", "host": 0, "barrier": "b", "facts": [1]},
        {"do": "join", "host": 0, "life": 1, "num_hosts": "many"},
    ],
)
def test_messages_without_sense_are_refused(message):
    assert "refused" in Board(2).answer(json.loads(json.dumps(message)))


def test_the_board_forgets_old_barriers():
    board = Board(1)
    for number in range(3000):
        assert not board.answer({"do": "arrive", "host": 0, "barrier": str(number)})["missing"]
    assert len(board._barriers) <= 1000


@pytest.mark.parametrize("deadline", [0, -1.0, float("inf"), float("nan")])
def test_a_deadline_is_a_time(team, deadline):
    with pytest.raises(ConfigError, match="a deadline of"):
        team(1).member(0).barrier("b", deadline=deadline)


def test_a_taken_port_is_said(team):
    here = team(1)
    with pytest.raises(HostError, match=f"cannot listen at localhost port {here.server.port}"):
        Server(1, "t", host="localhost", port=here.server.port)


def test_a_board_that_comes_up_late_is_waited_for():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    client = Client([("localhost", port)], "t", 0)
    with pytest.raises(HostError, match="does not answer"):
        client.ask("look", patience=0.5)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("vm-0:80", ("vm-0", 80)),
        ("[fe80::1]:8476", ("fe80::1", 8476)),
        ("fe80::1:8476", None),
        ("vm-0", None),
        (":80", None),
        ("vm-0:", None),
        ("vm-0:0", None),
        ("vm-0:70000", None),
        ("vm-0:-1", None),
        ("", None),
    ],
)
def test_addresses(text, expected):
    assert split_address(text) == expected
