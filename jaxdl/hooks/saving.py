"""The hook that saves a run, and the way back from what it saved.

Reads from: protocols, checkpoints, hooks.logs. Used by: recipe, and by hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from jaxdl.checkpoints import Checkpoints, Restored
from jaxdl.hooks.logs import jsonable
from jaxdl.protocols import Hook, Memory, Moment, Record

__all__ = ["Checkpoint", "Logical", "memory_of"]


@runtime_checkable
class Logical(Protocol):
    """A placed step that can give a state as it is stored."""

    def logical(self, state: Any) -> Any:
        """The state without what its placement added."""
        ...


class Checkpoint(Hook):
    """Saves the train state with what the loop remembers, every so many steps, at the end, and
    when a signal ends the run. Put it last, so that the other hooks are done when it saves.

    A save goes on in the background; one that fails ends the run at the next visit, or at its end.

    Args:
        every: the period, in steps.
        store: where to.
        step: the placed step that the state belongs to.
        record: what to keep beside the state, in what JSON can hold.
    """

    on_interrupt = True

    def __init__(
        self,
        every: int,
        store: Checkpoints,
        step: Logical,
        *,
        record: Mapping[str, Any] | None = None,
    ) -> None:
        self.every = every
        self._store, self._step, self._record = store, step, dict(record or {})
        self._measured: dict[str, float] = {}

    def remember(self) -> dict[str, Any]:
        """The last figures of every split."""
        return jsonable(self._measured)

    def recall(self, memory: Any) -> None:
        """Goes on from them."""
        known = {name: value for name, value in memory.items() if value is not None}
        self._measured = {**known}

    def record(self, record: Record) -> None:
        """Keeps the figures that checkpoints are judged by."""
        for name, value in record.values.items():
            if np.ndim(value) == 0:
                self._measured[f"{record.split}/{name}"] = float(value)

    def at(self, moment: Moment) -> None:
        """Starts to save."""
        memory = moment.memory()
        kept = {"hooks": memory.hooks, "due": list(memory.due), "stopped": memory.stopped}
        self._store.save(
            moment.step,
            self._step.logical(moment.state),
            record={**self._record, "memory": kept},
            window=memory.window,
            metrics=self._measured,
        )

    def close(self) -> None:
        """Waits for what is being saved."""
        self._store.wait()


def memory_of(restored: Restored) -> Memory:
    """What the loop remembered when a checkpoint was made.

    Args:
        restored: the checkpoint.
    """
    kept = restored.record.get("memory", {})
    return Memory(
        window=restored.window,
        hooks=kept.get("hooks", {}),
        due=tuple(kept.get("due", ())),
        stopped=kept.get("stopped"),
    )
