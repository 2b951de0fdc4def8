"""How processes join: alone, with a coordinator, in time or not."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import textwrap

import pytest

from jaxdl import hosts
from jaxdl.errors import ConfigError, HostError


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def test_alone_nothing_is_started_and_it_says_so(monkeypatch):
    monkeypatch.setattr("jaxdl.hosts.present.Here.found", None)
    found = hosts.initialize()
    assert found == hosts.Hosts(0, 1, "one process", None)
    assert str(found) == "one process: no coordinator was given and JAX detected no cluster"
    assert hosts.initialize() is found
    with pytest.raises(ConfigError, match="and before with"):
        hosts.initialize("localhost:1234", 2, 0)


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        (("localhost:1234", None, None), "num_hosts, host is not given"),
        ((None, 2, 0), "coordinator is not given"),
        (("localhost", 2, 0), "the coordinator is 'localhost'"),
        (("localhost:port", 2, 0), "HOST:PORT"),
        (("localhost:1234", 0, 0), "num_hosts is 0"),
        (("localhost:1234", 2, 2), "host is 2 of 2"),
        (("localhost:1234", 2, -1), "host is -1 of 2"),
        (("localhost:65535", 2, 0), "the board's address"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(monkeypatch, arguments, wrong):
    monkeypatch.setattr("jaxdl.hosts.present.Here.found", None)
    with pytest.raises(ConfigError, match=wrong):
        hosts.initialize(*arguments)


def test_one_host_of_one_is_alone(monkeypatch):
    monkeypatch.setattr("jaxdl.hosts.present.Here.found", None)
    assert hosts.initialize("localhost:1234", 1, 0).how == "one process"


def test_a_call_after_the_first_device_is_refused(monkeypatch, devices):
    monkeypatch.setattr("jaxdl.hosts.present.Here.found", None)
    with pytest.raises(HostError, match="after JAX had started its devices"):
        hosts.initialize("localhost:1234", 2, 0, timeout=1)


SCRIPT = textwrap.dedent(
    """
    import json, sys
    import jax
    from jaxdl import hosts
    from jaxdl.errors import JaxdlError

    port, count, host, options = json.loads(sys.argv[1])
    try:
        found = hosts.initialize(f"localhost:{port}", count, host, **options)
        assert jax.process_count() == count and jax.process_index() == host
        hosts.barrier("here", deadline=60)
        hosts.agree({"count": count}, deadline=60)
        print(json.dumps([*found]))
    except JaxdlError as error:
        print(json.dumps(str(error)))
    """
)


def start(port: int, count: int, host: int, **options):
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, json.dumps([port, count, host, options])],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
        text=True,
    )


def answers(*processes):
    found = []
    try:
        for process in processes:
            out, err = process.communicate(timeout=200)
            lines = [line for line in out.splitlines() if line.startswith(("[", '"'))]
            lines = [line for line in lines if not line.startswith("[Gloo]")]
            assert lines, err[-2000:]
            found.append(json.loads(lines[-1]))
    finally:
        for process in processes:
            process.kill()
    return found


@pytest.mark.slow
def test_two_processes_join_meet_and_agree():
    port = free_port()
    found = answers(*(start(port, 2, host, timeout=120) for host in (0, 1)))
    board = f"localhost:{port + 1}"
    assert found == [[0, 2, "explicit", board], [1, 2, "explicit", board]]


@pytest.mark.slow
def test_an_absent_host_is_named_before_jax_starts():
    port = free_port()
    first, second = answers(*(start(port, 3, host, timeout=15) for host in (0, 2)))
    assert "host 1" in first
    assert "host 1" in second
    assert "host 1: never heard of" in first + second


@pytest.mark.slow
def test_an_absent_host_0_and_a_taken_port_are_said():
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        taken.listen()
        port = taken.getsockname()[1]
        alone = start(free_port(), 2, 1, timeout=2)
        (told,) = answers(start(port, 2, 0, timeout=5))
    assert f"cannot listen at localhost port {port} for JAX's coordinator" in told
    (told,) = answers(alone)
    assert "host 0 does not answer at localhost" in told
