"""One host of a rehearsal: ``python -m jaxdl.rehearsal.host``, started by the supervisor alone.

What it is and what goes wrong in it stands in its orders. It tells the supervisor what it did in a
file of events and a file of its last step, which outlive a SIGKILL, and it ends when the supervisor
does.

Reads from: errors, protocols, hosts, recipe, rehearsal.faults, rehearsal.orders. Used by:
rehearsal.processes, which starts it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdl import hosts
from jaxdl.errors import JaxdlError
from jaxdl.protocols import Hook
from jaxdl.recipe import Outcome, Recipe
from jaxdl.rehearsal.faults import Fault, inject
from jaxdl.rehearsal.orders import VARIABLE, Orders, Program
from jaxdl.tree_paths import leaf_paths

__all__ = ["main", "state_hash"]


class _Diary(Hook):
    """Tells the supervisor what happened, and the last step in a file that is written in place."""

    def __init__(self, orders: Orders) -> None:
        stem = Path(orders.folder) / f"host{orders.host}"
        self._events = stem.with_suffix(".events").open("a", buffering=1)
        self._step = os.open(stem.with_suffix(".step"), os.O_WRONLY | os.O_CREAT, 0o644)

    def note(self, event: str, **content: Any) -> None:
        """Writes one event."""
        self._events.write(json.dumps({"event": event, "time": time.time(), **content}) + "\n")

    def open(self, start: int, steps: int) -> None:
        """The programs are compiled."""
        self.note("compiled", start=start, steps=steps)

    def tick(self, step: int) -> None:
        """A step was made."""
        os.pwrite(self._step, f"{step:>15}\n".encode(), 0)


def main() -> int:
    """Runs this host.

    Returns:
        The exit code: that of the run, or 1.
    """
    _end_with_supervisor()
    orders = Orders(**json.loads(os.environ[VARIABLE]))
    fault = None if orders.fault is None else Fault(*orders.fault)
    diary = _Diary(orders)
    jax.config.update("jax_num_cpu_devices", orders.devices)
    module, _, name = orders.program.partition(":")

    def change(recipe: Recipe) -> Recipe:
        made = dataclasses.replace(recipe, hooks=[*recipe.hooks, diary])
        return inject(made, fault, orders.host)

    def seen(outcome: Outcome) -> None:
        result = outcome.result
        found = {"step": result.step, "begun": outcome.started, "stopped": result.stopped}
        diary.note("finished", hash=state_hash(result.state), **found, **_figures())

    try:
        _join(orders)
        diary.note("started")
        program: Program = getattr(importlib.import_module(module), name)
        return program(Path(orders.file), Path(orders.home), orders.words, change, seen)
    except JaxdlError as error:
        sys.stderr.write(f"error: {error}\n")
        diary.note("error", kind=type(error).__name__, text=error.what)
        return 1
    except Exception as error:
        diary.note("error", kind=type(error).__name__, text=str(error)[:2000])
        raise


def state_hash(state: Any) -> str:
    """SHA-256 over the step, the parameters, the optimizer's and the model's state, and the EMA.

    Every host calls it, and gets the hash of the whole state.

    Args:
        state: a ``TrainState`` on the devices.
    """
    sha = hashlib.sha256()
    fields = ("step", "params", "opt_state", "model_state", "ema")
    kept = {name: getattr(state, name, None) for name in fields}
    for path, leaf in zip(leaf_paths(kept), jax.tree.leaves(kept), strict=True):
        value = _whole(leaf)
        sha.update(f"{path} {value.dtype} {value.shape}\n".encode() + value.tobytes())
    return sha.hexdigest()


def _whole(leaf: Any) -> Any:
    if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
        from jax.experimental import multihost_utils

        return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
    return np.asarray(leaf)


def _join(orders: Orders) -> None:
    if orders.num_hosts > 1:
        hosts.initialize(
            orders.coordinator,
            orders.num_hosts,
            orders.host,
            timeout=orders.deadline,
            deadline=orders.deadline,
            board=orders.board,
            token=orders.token,
        )


def _figures() -> dict[str, Any]:
    me = hosts.member()
    stands = [] if me is None else me.stands()
    return {"figures": dict(stands[me.host].figures)} if me is not None and stands else {}


def _end_with_supervisor() -> None:
    """The supervisor holds the other end of this process's input: when it ends, so does this."""

    def wait() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 4096):
                pass
        os.killpg(os.getpgid(0), signal.SIGKILL)

    threading.Thread(target=wait, name="jaxdl-supervisor", daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
