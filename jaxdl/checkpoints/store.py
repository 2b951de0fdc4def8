"""The checkpoints of a run: written in the background, verified, kept by a rule.

Orbax writes, commits and deletes. A checkpoint is three items in one commit: the tensors, a record
in JSON, and the manifest of hashes.

Reads from: errors, protocols, data.folders, checkpoints.*. Used by: hooks, recipe, security,
cli.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdl import data
from jaxdl.checkpoints import faults
from jaxdl.checkpoints.choosing import all_agree, check_finite, newest_whole
from jaxdl.checkpoints.keeping import Keep
from jaxdl.checkpoints.manifest import Manifest, snapshot
from jaxdl.checkpoints.reading import (
    STATE,
    WINDOW,
    list_steps,
    load,
    open_step,
    read_tensor,
    step_folder,
)
from jaxdl.checkpoints.tensors import differences, generator, named, rebuilt, spec_of, words
from jaxdl.errors import CheckpointError, NonFiniteError
from jaxdl.protocols import PyTree

__all__ = ["Checkpoints", "Restored", "move_aside"]

_MARGIN = 1 << 20
_THREADS = 4


class Restored(NamedTuple):
    """A checkpoint read back.

    Attributes:
        step: updates done.
        state: placed as it was asked for.
        record: what was saved beside it.
        window: the NumPy arrays that were saved beside it.
        passed_over: one line for each newer checkpoint that is not whole.
    """

    step: int
    state: Any
    record: dict[str, Any]
    window: tuple[np.ndarray, ...]
    passed_over: tuple[str, ...]


class Checkpoints:
    """The checkpoints in a folder, one a step. Every process of a run makes and calls it.

    Args:
        folder: made at the first save.
        keep: which of them stay.
        verify: compare all hashes when one is restored.
    """

    def __init__(self, folder: Path, *, keep: Keep | None = None, verify: bool = True) -> None:
        self.folder = Path(folder).absolute()
        self.keep = Keep() if keep is None else keep
        self._verify = verify
        self._manager: Any = None
        self._metrics: dict[int, float | None] = {}

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, ascending. Whether it is whole, reading it tells."""
        return list_steps(self.folder)

    def save(
        self,
        step: int,
        state: PyTree,
        *,
        record: Mapping[str, Any] | None = None,
        window: Sequence[Any] = (),
        metrics: Mapping[str, float] | None = None,
    ) -> bool:
        """Starts writing a checkpoint, and returns when the state may be consumed.

        Args:
            step: updates done.
            state: a pytree of arrays and typed keys.
            record: what JSON can hold, for whoever reads it back.
            window: arrays to keep beside the state, the same on every process.
            metrics: numbers by ``split/name``; ``keep`` may judge by one of them.

        Returns:
            Whether it is written; ``False`` when this step has a checkpoint already.

        Raises:
            CheckpointError: the folder cannot be written or the disk is full, now or when the
                checkpoint before was written.
            NonFiniteError: the parameters of the checkpoint before were not finite.
        """
        # A NumPy scalar is stored as the array that it is read back as.
        leaves = {STATE + name: _array(leaf) for name, leaf in named(state).items()}
        leaves |= {f"{WINDOW}{i}": np.array(array) for i, array in enumerate(window)}
        told = {key: float(value) for key, value in (metrics or {}).items()}
        kept = {"format": 1, "step": step, "time": time.time(), **(record or {}), "metrics": told}
        with faults.writing(self.folder):
            manager = self._opened()
            if step in manager.all_steps():
                return False
            data.check_space(self.folder, _bytes(leaves))
            views = snapshot(leaves)
            self._metrics[step] = told.get(self.keep.metric)
            return _save(manager, step, leaves, views, kept)

    def wait(self) -> None:
        """Returns when all that was saved is on disk.

        Raises:
            CheckpointError: it could not be written.
            NonFiniteError: the parameters were not finite.
        """
        if self._manager is not None:
            with faults.writing(self.folder):
                self._manager.wait_until_finished()
                self._manager.check_for_errors()

    def close(self) -> None:
        """Waits, then lets go of the folder."""
        manager, self._manager = self._manager, None
        if manager is not None:
            with faults.writing(self.folder):
                try:
                    manager.wait_until_finished()
                    manager.check_for_errors()
                finally:
                    manager.close()

    def restore(
        self,
        like: PyTree,
        *,
        step: int | None = None,
        before: int | None = None,
        set_aside: bool = False,
    ) -> Restored:
        """Reads the newest whole checkpoint onto the devices.

        Args:
            like: the state's structure in ``jax.ShapeDtypeStruct`` with shardings, such as
                ``placed.abstract_state(batch)``. It may lie otherwise than the one saved.
            step: which; the newest whole one when ``None``.
            before: only those of earlier steps.
            set_aside: move those that are not whole into ``damaged/``, so that the run can save
                these steps again.

        Returns:
            The checkpoint.

        Raises:
            DamagedError: no checkpoint is whole, or the one asked for is not.
            CheckpointError: there is none, or it holds another state (what differs is listed).

        Warns:
            UserWarning: for every checkpoint that is passed over.
        """
        found, passed = newest_whole(
            self.folder,
            step,
            lambda candidate: _read_step(self.folder, candidate, like, check=self._verify),
            before=before,
            damaged=partial(move_aside, self.folder) if set_aside else None,
        )
        return found._replace(passed_over=passed)

    def go_back_before(self, step: int) -> bool:
        """Moves the checkpoints of a step and of all after it into ``damaged/``.

        Args:
            step: the first that went wrong.

        Returns:
            Whether there are others.
        """
        with contextlib.suppress(NonFiniteError):  # it is why the run goes back
            self.close()
        for late in [each for each in self.steps() if each >= step]:
            move_aside(self.folder, late)
        return bool(self.steps())

    def _opened(self) -> Any:
        if self._manager is None:
            self._manager = _manager(self.folder, self._kept)
        return self._manager

    def _kept(self, steps: Sequence[int]) -> set[int]:
        for step in steps:
            if step not in self._metrics:
                self._metrics[step] = _recorded_metric(self.folder, step, self.keep.metric)
        return self.keep.kept({step: self._metrics[step] for step in steps})


def _manager(folder: Path, kept: Any) -> Any:
    import orbax.checkpoint as ocp

    class Policy(ocp.checkpoint_managers.PreservationPolicy):
        def should_preserve(self, checkpoints: Any, *, context: Any) -> list[bool]:
            del context
            steps = [checkpoint.step for checkpoint in checkpoints]
            staying = kept(steps)
            return [step in staying for step in steps]

    folder.mkdir(parents=True, exist_ok=True)
    options = ocp.CheckpointManagerOptions(
        preservation_policy=Policy(), cleanup_tmp_directories=True, save_root_metadata=False
    )
    return ocp.CheckpointManager(folder, options=options)


def _save(manager: Any, step: int, leaves: Any, views: Any, record: Any) -> bool:
    import orbax.checkpoint as ocp

    from jaxdl.checkpoints.handler import ManifestSave

    # Orbax stores no empty arrays or trees; the manifest alone says that they were there.
    stored = {name: words(leaf) for name, leaf in leaves.items() if 0 not in leaf.shape}
    items: dict[str, Any] = {
        "record": ocp.args.JsonSave(record),
        "manifest": ManifestSave(views, record, step),
    }
    if stored:
        items["state"] = ocp.args.PyTreeSave(stored)
    return manager.save(step, args=ocp.args.Composite(**items), force=True)


def _array(leaf: Any) -> Any:
    return np.asarray(leaf) if isinstance(leaf, np.generic) else leaf


def _bytes(leaves: Mapping[str, Any]) -> int:
    flat = map(words, leaves.values())
    return _MARGIN + sum(math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in flat)


def _read_step(folder: Path, step: int, like: PyTree, *, check: bool) -> Restored:
    manifest, record = open_step(folder, step)
    path = step_folder(folder, step)
    wanted = named(like)
    _check_same(path, manifest, wanted)
    check_finite(path, manifest)

    def read(name: str) -> Any:
        leaf = wanted[name]
        array = load(path, STATE + name, manifest.tensors[STATE + name], words(leaf), check=check)
        kind = generator(leaf)
        return array if kind is None else jax.random.wrap_key_data(array, impl=kind)

    # Arrays over several processes must be made in one order by all of them.
    threads = _THREADS if jax.process_count() == 1 else 1
    with ThreadPoolExecutor(threads) as pool:
        tensors = dict(zip(wanted, pool.map(read, wanted), strict=True))
    return Restored(step, rebuilt(like, tensors), record, _window(path, manifest), ())


def _window(path: Path, manifest: Manifest) -> tuple[np.ndarray, ...]:
    names = [name for name in manifest.tensors if name.startswith(WINDOW)]
    ordered = sorted(names, key=lambda name: int(name.removeprefix(WINDOW)))
    return tuple(read_tensor(path, name, manifest.tensors[name].spec) for name in ordered)


def _check_same(path: Path, manifest: Manifest, wanted: Mapping[str, Any]) -> None:
    stored = {
        name.removeprefix(STATE): entry.spec
        for name, entry in manifest.tensors.items()
        if name.startswith(STATE)
    }
    lines = differences(stored, {name: spec_of(leaf) for name, leaf in wanted.items()})
    if lines:
        shown = lines[:8] + ([f"... and {len(lines) - 8} more"] if len(lines) > 8 else [])
        raise CheckpointError(
            f"the checkpoint {path} holds another state:\n    " + "\n    ".join(shown),
            expected="the same parameters, optimizer and options of the step",
            do="use the recipe that it was trained with; checkpoints.load_partial takes over what "
            "fits",
        )


def move_aside(folder: Path, step: int) -> None:
    """Moves a checkpoint into ``damaged/``, on every process of the run.

    Args:
        folder: of the checkpoints.
        step: updates done.
    """
    if jax.process_index() == 0:
        aside = folder / "damaged"
        aside.mkdir(exist_ok=True)
        step_folder(folder, step).rename(aside / f"{step}-{time.strftime('%Y%m%d-%H%M%S')}")
    all_agree(True)


def _recorded_metric(folder: Path, step: int, name: str) -> float | None:
    try:
        return open_step(folder, step)[1]["metrics"].get(name)
    except CheckpointError:
        return None
