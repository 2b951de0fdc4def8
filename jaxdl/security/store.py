"""The checkpoints of a run, each sealed from memory: nothing of them is ever on disk in the clear.

Reads from: errors, protocols, checkpoints, security.keys, .opening, .proving, .restoring, .roles,
.sealing, .sources. Used by: security, and by recipe.train when it is handed one.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdl.checkpoints import Checkpoints, Keep, Restored, faults
from jaxdl.checkpoints.choosing import newest_whole
from jaxdl.checkpoints.manifest import Views, all_finite, snapshot
from jaxdl.checkpoints.reading import PARAMS, STATE, WINDOW, step_folder
from jaxdl.checkpoints.store import move_aside
from jaxdl.checkpoints.tensors import named
from jaxdl.errors import CheckpointError, ConfigError, DamagedError, NonFiniteError
from jaxdl.protocols import PyTree
from jaxdl.security.keys import Secret
from jaxdl.security.opening import Opened, open_sealed
from jaxdl.security.proving import Trust, is_sealed
from jaxdl.security.restoring import restore
from jaxdl.security.sealing import Holders, check_holders, seal
from jaxdl.security.sources import RECORD, Source, state_source

__all__ = ["SealedCheckpoints"]


class SealedCheckpoints(Checkpoints):
    """Checkpoints in a folder, one a step, each of which ``open_sealed`` opens too.

    It stands wherever ``Checkpoints`` does: in ``recipe.train(store=...)``, in the hook, by hand.
    It is for runs of one process.

    Args:
        folder: made at the first save.
        key: opens what is there; for a run to go on it needs the role train.
        trust: whose signatures count.
        holders: who may open what is saved, as what; none where nothing will be saved.
        signer: signs what is saved; nobody does when ``None``.
        keep: which of them stay.
        partly: restore what the key opens and fill the rest with zeros, to measure a model under
            the role evaluate.

    Raises:
        ConfigError: there are holders and none has the role train, or the run has many processes.
    """

    def __init__(
        self,
        folder: Path,
        *,
        key: Secret,
        trust: Trust,
        holders: Holders = (),
        signer: Secret | None = None,
        keep: Keep | None = None,
        partly: bool = False,
    ) -> None:
        super().__init__(folder, keep=keep)
        if holders:
            check_holders(holders)
        if jax.process_count() > 1:
            raise ConfigError(
                f"sealed checkpoints, on {jax.process_count()} processes",
                expected="a run of one process",
                do="save in the clear on an encrypted disk, and seal what is saved: "
                "jaxdl checkpoint seal",
            )
        self._key, self._trust, self._partly = key, trust, partly
        self._holders, self._signer = list(holders), signer
        self._pool: ThreadPoolExecutor | None = None
        self._writing: Future[None] | None = None

    def save(
        self,
        step: int,
        state: PyTree,
        *,
        record: Mapping[str, Any] | None = None,
        window: Sequence[Any] = (),
        metrics: Mapping[str, float] | None = None,
    ) -> bool:
        """Starts to seal, and returns when the state may be consumed. As ``Checkpoints.save``.

        Args:
            step: updates done.
            state: a pytree of arrays and typed keys.
            record: what JSON can hold.
            window: arrays to keep beside the state.
            metrics: numbers by ``split/name``.

        Raises:
            ConfigError: it was made without holders, to read.
            CheckpointError: the folder cannot be written, now or at the checkpoint before.
            NonFiniteError: the parameters of the checkpoint before were not finite.
        """
        if not self._holders:
            raise ConfigError(
                f"the sealed checkpoints in {self.folder} were opened to be read",
                expected="holders: who may open what is saved",
                do="give SealedCheckpoints(..., holders=[('train', key)])",
            )
        self.wait()
        if step in self.steps():
            return False
        told = {name: float(value) for name, value in (metrics or {}).items()}
        self._metrics[step] = told.get(self.keep.metric)
        kept = {**(record or {}), "metrics": told}
        source = state_source(state, step, record=kept, window=window, snapshot=True)
        leaves = {STATE + name: leaf for name, leaf in named(state).items()}
        views = snapshot({name: leaf for name, leaf in leaves.items() if name.startswith(PARAMS)})
        if self._pool is None:
            with faults.writing(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
                _remove_unfinished(self.folder)
            self._pool = ThreadPoolExecutor(1, "jaxdl_seal")
        self._writing = self._pool.submit(self._write, step, source, views)
        return True

    def wait(self) -> None:
        """Returns when what was saved is on disk; raises what went wrong, see ``save``."""
        pending, self._writing = self._writing, None
        if pending is not None:
            with faults.writing(self.folder):
                pending.result()

    def close(self) -> None:
        """Waits, then lets go of the thread."""
        pool, self._pool = self._pool, None
        try:
            self.wait()
        finally:
            if pool is not None:
                pool.shutdown()

    def restore(
        self,
        like: PyTree,
        *,
        step: int | None = None,
        before: int | None = None,
        set_aside: bool = False,
    ) -> Restored:
        """Decrypts the newest whole checkpoint onto the devices. As ``Checkpoints.restore``.

        Args:
            like: the state's structure in ``jax.ShapeDtypeStruct`` with shardings.
            step: which; the newest whole one when ``None``.
            before: only those of earlier steps.
            set_aside: move those that are not whole into ``damaged/``.

        Raises:
            DamagedError: no checkpoint is whole, or the one asked for is not.
            SealError: the key opens none of it, or its signer is not trusted. That is no damage,
                and no older checkpoint is taken in its place.
            CheckpointError: there is none, or it holds another state.
        """
        found, passed = newest_whole(
            self.folder,
            step,
            lambda candidate: self._read(candidate, like),
            before=before,
            damaged=partial(move_aside, self.folder) if set_aside else None,
        )
        return found._replace(passed_over=passed)

    def _read(self, step: int, like: PyTree) -> Restored:
        opened = self._open(step)
        if "training" not in opened.keys and not self._partly:
            raise ConfigError(
                f"the key opens only {', '.join(opened.keys)} of {opened.folder}",
                expected="a key with the role train, to go on with the run",
                do="give that key; with this one the run can be measured: jaxdl evaluate",
            )
        state = restore(opened, like, partly=self._partly)
        names = [name for name in opened.items if name.startswith(WINDOW)]
        names.sort(key=lambda name: int(name.removeprefix(WINDOW)))
        window = tuple(np.array(opened.read(name)) for name in names)
        return Restored(step, state, _record(opened), window, ())

    def _open(self, step: int) -> Opened:
        path = step_folder(self.folder, step)
        if not is_sealed(path):
            if (path / "manifest").is_dir():
                raise CheckpointError(
                    f"the checkpoint {path} is not sealed",
                    expected="a run whose checkpoints are all sealed",
                    do="leave the key out to read it; for a sealed run give a new folder",
                )
            raise DamagedError(
                f"the checkpoint {path} has no seal",
                expected="a sealed checkpoint",
                do="take an earlier one",
            )
        opened = open_sealed(path, self._key, trust=self._trust)
        if opened.envelope.about.get("step") != step:
            raise DamagedError(
                f"{path} holds step {opened.envelope.about.get('step')}",
                expected=f"the checkpoint of step {step}",
                do="give it its own name back",
            )
        return opened

    def _write(self, step: int, source: Source, views: Views) -> None:
        if not all_finite(views):
            error = NonFiniteError(
                f"the parameters after step {step} hold NaN or an infinity, and were not saved",
                expected="finite parameters",
                do="lower the learning rate, warm it up or clip the gradient's norm; the "
                "checkpoints before are whole",
            )
            error.steps = (step, step)
            raise error
        seal(source, step_folder(self.folder, step), self._holders, signer=self._signer)
        steps = self.steps()
        staying = self.keep.kept({each: self._metric(each) for each in steps})
        for gone in (each for each in steps if each not in staying):
            # Renamed first: what is half deleted is no checkpoint.
            leaving = self.folder / f".{gone}.gone"
            step_folder(self.folder, gone).rename(leaving)
            shutil.rmtree(leaving)

    def _metric(self, step: int) -> float | None:
        if step not in self._metrics:
            try:
                told = _record(self._open(step)).get("metrics", {})
            except CheckpointError:
                told = {}
            self._metrics[step] = told.get(self.keep.metric)
        return self._metrics[step]


def _record(opened: Opened) -> dict[str, Any]:
    return json.loads(opened.read(RECORD).tobytes()) if RECORD in opened.items else {}


def _remove_unfinished(folder: Path) -> None:
    """What a killed run left: ciphertext under a hidden name."""
    for path in folder.iterdir():
        if re.fullmatch(r"\.\d+\.(\d+|gone)", path.name):
            shutil.rmtree(path, ignore_errors=True)
