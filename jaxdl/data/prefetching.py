"""The next batches, made and put on the devices by a background thread while this one is used.

The thread makes ``batches[k]`` and calls ``put`` on it, at most ``size`` batches ahead. NumPy's
gather and JAX's transfer release the interpreter's lock, so this is real overlap.

Reads from: errors. Used by: fit, evaluation.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from jaxdl.errors import ConfigError, Interrupted

__all__ = ["Indexable", "Prefetcher", "prefetch"]

T = TypeVar("T")


@runtime_checkable
class Indexable(Protocol):
    """What batches are taken from: ``batches[k]``."""

    def __getitem__(self, k: int, /) -> Any: ...


@dataclass(frozen=True)
class _End:
    error: BaseException | None = None


class Prefetcher(Generic[T]):
    """An iterator over ``(k, put(batches[k]))`` with a thread behind it; see ``prefetch``."""

    def __init__(
        self,
        batches: Indexable,
        put: Callable[[Any], T],
        *,
        start: int,
        stop: int | None,
        size: int,
    ):
        self._made: queue.SimpleQueue[tuple[int, T] | _End] = queue.SimpleQueue()
        self._free = threading.Semaphore(size)
        self._closing = threading.Event()
        self._ended = False
        self._thread = threading.Thread(
            target=self._run, args=(batches, put, start, stop), name="jaxdl-prefetch", daemon=True
        )
        self._thread.start()

    def __iter__(self) -> Prefetcher[T]:
        return self

    def __next__(self) -> tuple[int, T]:
        if self._ended:
            raise StopIteration
        item = self._made.get()
        if isinstance(item, _End):
            self.close()
            raise StopIteration if item.error is None else item.error
        self._free.release()
        return item

    def __enter__(self) -> Prefetcher[T]:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # A run that a signal ended does not wait for data that may never come.
        self.close(wait=not isinstance(error, Interrupted))

    def close(self, *, wait: bool = True) -> None:
        """Stops the thread, after the batch that it is making.

        Args:
            wait: return when it has ended.
        """
        self._ended = True
        self._closing.set()
        self._free.release()
        if wait:
            self._thread.join()

    def _run(
        self, batches: Indexable, put: Callable[[Any], T], start: int, stop: int | None
    ) -> None:
        k = start
        try:
            while stop is None or k < stop:
                self._free.acquire()
                if self._closing.is_set():
                    return
                self._made.put((k, put(batches[k])))
                k += 1
            self._made.put(_End())
        except BaseException as error:  # noqa: BLE001 - the consumer raises it
            error.add_note(f"while batch {k} was prepared in the background")
            self._made.put(_End(error))


def prefetch(
    batches: Indexable,
    put: Callable[[Any], T],
    *,
    start: int = 0,
    stop: int | None = None,
    size: int = 2,
) -> Prefetcher[T]:
    """Iterates over ``(k, put(batches[k]))``, made in a background thread.

    Use it as a context manager: leaving the block, by an exception or Ctrl-C too, stops the
    thread and waits for it. An exception of the thread is raised, as it is and with its
    traceback, by the ``next`` that would have given that batch.

    Args:
        batches: indexed by ``k``.
        put: runs in the thread, such as ``placed.put``.
        start: the first ``k``.
        stop: the ``k`` after the last; ``None`` never ends.
        size: how many batches may lie ready beside the one in use, at least 1.

    Returns:
        An iterator and context manager.

    Raises:
        ConfigError: ``size`` is below 1.

    Examples:
        >>> with prefetch([10, 20, 30], float, stop=3) as ahead:
        ...     list(ahead)
        [(0, 10.0), (1, 20.0), (2, 30.0)]
    """
    if size < 1:
        raise ConfigError(
            f"prefetch size is {size}", expected="at least 1", do="give the number of batches ahead"
        )
    return Prefetcher(batches, put, start=start, stop=stop, size=size)
