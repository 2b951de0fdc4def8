"""What a host tells while it runs, and what it does when another one ends."""

from __future__ import annotations

import time

import jax
import pytest

from jaxdl import hosts
from jaxdl.errors import HostError
from jaxdl.hosts import Watch


@pytest.fixture
def no_exit(monkeypatch):
    """A failure registers nothing at the exit of the test's own process."""
    monkeypatch.setattr("atexit.register", lambda *args: None)


class Step:
    """As much of a placed step as a loop asks for."""

    extra = "kept"

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def init(self, key, batch):
        return (key, batch)

    def put(self, batch):
        return batch

    def __call__(self, state, batch):
        time.sleep(self._seconds)
        return state, batch


def wait_until(condition, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.02)


def test_one_process_starts_no_thread_and_leaves_the_step_alone():
    step = Step(0.0)
    with hosts.watch() as watch:
        assert watch.around(step) is step
        assert watch.hooks() == []
        assert watch._thread is None
    hosts.barrier("anything", deadline=1)
    hosts.agree({"anything": 1}, deadline=1)
    assert hosts.member() is None


def test_the_board_learns_the_step_and_where_the_time_goes(team):
    zero, one = team(2).all()
    with Watch(one, interval=0.05) as watch:
        step = watch.around(Step(0.05))
        assert step.extra == "kept"
        assert step.init(1, 2) == (1, 2)
        watch.open(40, 60)
        wait_until(lambda: zero.stands()[1].at == "step 40")
        for k in range(41, 46):
            time.sleep(0.01)
            step("state", "batch")
            watch.tick(k)
        wait_until(lambda: zero.stands()[1].at == "step 45")
        figures = watch.figures()
        assert 0.01 <= figures["own"] < figures["inside"]
        assert figures["inside"] >= 0.05
    stand = zero.stands()[1]
    assert stand.at == "the end of the run"
    assert stand.figures == figures
    assert stand.ended == ""


def test_a_step_never_waits_for_the_board(team):
    here = team(2)
    one = here.member(1)
    with Watch(one, interval=0.01) as watch:
        here.server.close()
        step = watch.around(Step(0.0))
        begin = time.perf_counter()
        for k in range(500):
            step("state", "batch")
            watch.tick(k)
        # One post that is waited for takes two seconds here.
        assert time.perf_counter() - begin < 20


@pytest.mark.usefixtures("no_exit")
def test_an_error_is_told_to_the_others_and_raised_as_it_is(team):
    zero, one = team(2).all()
    with pytest.raises(ValueError, match="ran short"), Watch(one) as watch:
        watch.tick(20)
        raise ValueError("ran short")
    stand = zero.stands()[1]
    assert (stand.ended, stand.at, stand.why) == ("failed", "step 20", "ValueError: ran short")


@pytest.mark.usefixtures("no_exit")
def test_an_error_of_the_collectives_is_named_after_the_host_that_caused_it(team):
    zero, one = team(2).all()
    one.post("step 7")
    one.end("DataError: ran short", left=False)
    told = "host 1 failed at step 7: DataError: ran short"
    with pytest.raises(HostError, match=told) as error, Watch(zero):
        raise jax.errors.JaxRuntimeError("UNKNOWN: Gloo AllGather failed")
    assert isinstance(error.value.__cause__, jax.errors.JaxRuntimeError)
    assert "host 1 (vm-1): step 7" in error.value.what
    assert "last checkpoint" in error.value.do


@pytest.mark.usefixtures("no_exit")
def test_a_save_that_failed_because_a_host_is_gone_is_named_after_it(team):
    zero, one = team(2).all()
    one.end("DataError: ran short", left=False)
    with pytest.raises(HostError, match="host 1 failed") as error, Watch(zero):
        try:
            raise jax.errors.JaxRuntimeError("Gloo AllGather failed")
        except jax.errors.JaxRuntimeError as inner:
            raise OSError("a checkpoint could not be written") from inner
    assert isinstance(error.value.__cause__, OSError)


@pytest.mark.usefixtures("no_exit")
def test_an_error_of_the_device_is_not_blamed_on_healthy_hosts(team, monkeypatch):
    monkeypatch.setattr("jaxdl.hosts.watching._LEARNT", 0.3)
    zero, one = team(2).all()
    one.end("done", left=True)
    with pytest.raises(jax.errors.JaxRuntimeError, match="out of memory"), Watch(zero):
        raise jax.errors.JaxRuntimeError("out of memory")


def test_a_host_that_hangs_because_another_failed_is_ended(team, monkeypatch):
    monkeypatch.setattr("jaxdl.hosts.watching._GRACE", 0.2)
    zero, one = team(2).all()
    left: list[HostError] = []
    with Watch(zero, interval=0.05, leave=left.append) as watch:
        watch.tick(3)
        time.sleep(0.5)
        assert not left
        one.end("DataError: ran short", left=False)
        wait_until(lambda: left)
    assert "host 1 failed" in left[0].what


def test_a_host_that_hangs_because_another_is_gone_is_ended(team, monkeypatch):
    monkeypatch.setattr("jaxdl.hosts.watching._GONE", 0.2)
    zero, one = team(2).all()
    one.post("step 12")
    left: list[HostError] = []
    with Watch(zero, interval=0.05, leave=left.append):
        one.client.close()
        wait_until(lambda: left)
    assert "host 1 is gone, last heard of at step 12" in left[0].what


def test_a_host_whose_board_is_gone_is_ended_within_the_deadline(team):
    here = team(2)
    one = here.member(1, deadline=0.5)
    left: list[HostError] = []
    here.server.close()
    with Watch(one, interval=0.05, leave=left.append):
        one.client.close()
        wait_until(lambda: left)
    assert "host 0 does not answer" in left[0].what


def test_a_host_that_is_done_ends_nobody(team, monkeypatch):
    monkeypatch.setattr("jaxdl.hosts.watching._GRACE", 0.05)
    zero, one = team(2).all()
    left: list[HostError] = []
    one.end("done", left=True)
    with Watch(zero, interval=0.02, leave=left.append):
        time.sleep(0.4)
    assert left == []
