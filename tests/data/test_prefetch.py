"""The background thread: in order, bounded, its errors surface, and it always ends."""

from __future__ import annotations

import threading
import time

import pytest

from jaxdl import data
from jaxdl.errors import ConfigError


def threads() -> list[str]:
    return [t.name for t in threading.enumerate() if "prefetch" in t.name]


class Squares:
    def __init__(self):
        self.asked = []

    def __getitem__(self, k):
        self.asked.append(k)
        return k * k


def test_batches_come_in_order_through_put():
    with data.prefetch(Squares(), float, start=2, stop=6) as ahead:
        assert list(ahead) == [(2, 4.0), (3, 9.0), (4, 16.0), (5, 25.0)]
    assert threads() == []


def test_it_runs_no_further_ahead_than_its_size():
    squares = Squares()
    with data.prefetch(squares, float, size=3) as ahead:
        next(ahead)
        deadline = time.monotonic() + 5
        while len(squares.asked) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        assert squares.asked == [0, 1, 2, 3]


def test_an_error_in_the_thread_surfaces_after_the_batches_before_it():
    class Breaks:
        def __getitem__(self, k):
            if k == 2:
                raise ValueError("row 7 is torn")
            return k

    seen = []
    with (
        pytest.raises(ValueError, match="row 7 is torn") as caught,
        data.prefetch(Breaks(), int, stop=9) as ahead,
    ):
        seen += [k for k, _ in iter(lambda: next(ahead), None)]
    assert "while batch 2 was prepared" in caught.value.__notes__[0]
    assert threads() == []


def test_put_runs_in_the_background():
    names = []
    with data.prefetch(
        Squares(), lambda x: names.append(threading.current_thread().name), stop=2
    ) as a:
        list(a)
    assert set(names) == {"jaxdl-prefetch"}


def test_leaving_early_ends_the_thread():
    with pytest.raises(KeyboardInterrupt), data.prefetch(Squares(), float) as ahead:
        next(ahead)
        raise KeyboardInterrupt
    assert threads() == []
    assert list(ahead) == []


def test_size_is_checked():
    with pytest.raises(ConfigError, match="prefetch size is 0"):
        data.prefetch([1], float, size=0)
