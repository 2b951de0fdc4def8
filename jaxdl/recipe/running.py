"""A recipe run: trained, saved, measured; and a run that was cut, gone on with.

Reads from: errors, protocols, data, metrics, hosts, checkpoints, placement, evaluation, hooks,
loop, the rest of recipe. Used by: cli, rehearsal, and by hand.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxdl import checkpoints, data, hosts, metrics
from jaxdl.errors import CheckpointError, DivergedError, Interrupted
from jaxdl.evaluation import evaluate
from jaxdl.hooks import Checkpoint, Evaluate, JsonLines, Progress, TensorBoard
from jaxdl.hooks.logs import jsonable
from jaxdl.loop import FitResult, Signals, fit
from jaxdl.placement import compile_cache
from jaxdl.protocols import Batch, Hook, Memory
from jaxdl.recipe.agreeing import agree
from jaxdl.recipe.parts import Recipe, local
from jaxdl.recipe.placing import Placed, place
from jaxdl.recipe.resuming import Beginning, begin, fresh, go_back, position

__all__ = ["Outcome", "Scores", "score", "train"]

_LEAST_BETWEEN_SAVES = 100

Scores = dict[str, dict[str, Any]]
"""Metrics by name, by split."""


class Outcome(NamedTuple):
    """What a run leaves.

    Attributes:
        result: of ``fit``.
        scores: metrics by split, on every example of it; empty when a SIGTERM ended the run.
        seconds: from the first program to the last score.
        started: updates that were done when it began; 0 for a new run.
    """

    result: FitResult
    scores: Scores
    seconds: float
    started: int = 0


def train(
    recipe: Recipe,
    folder: Path | None = None,
    *,
    placed: Placed | None = None,
    one_batch: bool = False,
    progress: bool = True,
    settings: Mapping[str, Any] | None = None,
    source: Path | None = None,
    store: Callable[..., checkpoints.Checkpoints] = checkpoints.Checkpoints,
) -> Outcome:
    """Trains, saves, then measures every split; a folder that holds this run is gone on with.

    Going on gives the parameters and the records that the run would have had unbroken, bit for bit
    on the same devices. It never starts from zero while the folder holds checkpoints.

    On many hosts it is called on each of them. They compare what they are about to run, and one
    that fails or is gone ends the others with its name (see ``hosts``).

    Compiled programs are kept for the next start, see ``placement.compile_cache``.

    Args:
        recipe: the recipe.
        folder: receives ``metrics.jsonl``, ``tensorboard/``, ``checkpoints/`` and
            ``summary.json``; nothing is written when ``None``.
        placed: from ``place``, to run on devices of one's choice.
        one_batch: give every step the first batch, and measure that one only: a model and a loss
            that are right drive it to nothing.
        progress: show it on the standard error stream.
        settings: what the recipe was made from, in what JSON can hold, for every checkpoint to say.
        source: the file that the recipe comes from, for the hosts to compare.
        store: from a folder, and ``keep``, to the checkpoints in it; a
            ``security.SealedCheckpoints`` with its keys writes none in the clear.

    Raises:
        HostError: another host runs something else, is absent, failed, or is gone.
        CheckpointError: the folder is in use, cannot be written, or holds another run or no whole
            checkpoint.
        DivergedError: the loss is not finite or jumped, and the recipe does not roll back.
        JaxdlError: as ``place`` and ``fit``.
    """
    start = time.perf_counter()
    with ExitStack() as stack:
        watch = stack.enter_context(hosts.watch())
        signals = stack.enter_context(Signals())
        stack.enter_context(compile_cache())
        with signals.idle():
            placed = place(recipe) if placed is None else placed
            agree(recipe, placed, settings or {}, source, one_batch=one_batch)
        opened = None
        if folder is not None:
            _prepare(folder)
            if jax.process_index() == 0:
                stack.enter_context(checkpoints.lock(folder))
            opened = store(folder / "checkpoints", keep=recipe.keep)
            stack.callback(opened.close)
        run = _Run(recipe, placed, folder, opened, one_batch=one_batch, progress=progress)
        run.settings, run.watch = dict(settings or {}), watch
        with signals.idle():
            beginning = begin(recipe, placed, opened, one_batch=one_batch)
            watch.phase("compiling")
            run.compile()
            hosts.barrier("compiled")
        if folder is not None and beginning.state is None:
            _set_logs_aside(folder)
        result = run.to_the_end(beginning, signals)
        scores: Scores = {}
        if not signals.preempted:
            scores = run.measured(result, signals)
    preempted = result.preempted or signals.preempted
    outcome = Outcome(
        result._replace(preempted=preempted), scores, time.perf_counter() - start, beginning.step
    )
    if folder is not None and not preempted:
        _write_summary(folder, recipe, placed, outcome)
    return outcome


class _Run:
    """What stays the same when a run goes back and tries again."""

    def __init__(
        self,
        recipe: Recipe,
        placed: Placed,
        folder: Path | None,
        store: checkpoints.Checkpoints | None,
        *,
        one_batch: bool,
        progress: bool,
    ) -> None:
        self._recipe, self._placed, self._folder, self._store = recipe, placed, folder, store
        self._one_batch, self._progress = one_batch, progress
        self._batches = local(recipe.train)
        self.settings: dict[str, Any] = {}
        self.watch = hosts.Watch(None)

    def compile(self) -> None:
        """Compiles both programs, while nothing can be lost."""
        if self._placed.train.program is None:
            self._placed.train.compile(self._placed.state, self._batches[0])
        if self._placed.evaluation.program is None:
            self._placed.evaluation.compile(self._placed.state, self._first_evaluated())

    def to_the_end(self, beginning: Beginning, signals: Signals) -> FitResult:
        """Runs the loop, going back as often as the recipe says."""
        while True:
            if beginning.finished(self._recipe):
                memory = beginning.memory
                return FitResult(beginning.state, beginning.step, memory.stopped, ())
            try:
                return self._fit(beginning, signals)
            except DivergedError as error:
                if self._recipe.nonfinite != "rollback" or self._one_batch:
                    raise
                beginning = go_back(self._recipe, self._placed, self._store, beginning, error)
                if self._folder is not None and beginning.state is None:
                    _set_logs_aside(self._folder)

    def _fit(self, beginning: Beginning, signals: Signals) -> FitResult:
        recipe = self._recipe
        batches: Any = data.Skipping(self._batches, beginning.skipped)
        if self._one_batch:
            batches = _OneBatch(self._batches)
        elif not beginning.skipped:
            batches = self._batches
        state = beginning.state
        if state is None:
            with signals.idle():
                state, table = fresh(recipe, self._placed, batches[0])
            if table is not None and jax.process_index() == 0:
                sys.stderr.write(f"{table}\n")
        return fit(
            self.watch.around(self._placed.train),
            batches,
            steps=recipe.steps,
            state=state,
            log_every=recipe.log_every,
            hooks=self._hooks(beginning),
            memory=beginning.memory if beginning.state is not None else Memory(),
            signals=signals,
        )

    def _hooks(self, beginning: Beginning) -> list[Hook]:
        recipe, folder = self._recipe, self._folder
        hooks: list[Hook] = []
        if folder is not None:
            hooks += [JsonLines(folder / "metrics.jsonl"), TensorBoard(folder / "tensorboard")]
        hooks += [Progress()] if self._progress else []
        hooks += self.watch.hooks()
        hooks += [*recipe.hooks, *([] if recipe.spike is None else [recipe.spike])]
        if recipe.validation is not None and not self._one_batch:
            batches = local(recipe.validation)
            evaluation = self._placed.evaluation
            hooks.append(Evaluate(recipe.period(), evaluation, batches, rows=recipe.rows()))
            hooks += [] if recipe.early_stop is None else [recipe.early_stop]
        if self._store is not None:
            every = recipe.checkpoint_every or max(recipe.period(), _LEAST_BETWEEN_SAVES)
            record = position(recipe, beginning.skipped, one_batch=self._one_batch)
            record["settings"] = self.settings
            hooks.append(Checkpoint(every, self._store, self._placed.train, record=record))
        return hooks

    def measured(self, result: FitResult, signals: Signals) -> Scores:
        """The scores of every split; none when a SIGTERM comes first."""
        if signals.reason is not None:
            return self._scores(result)
        try:
            with signals.waiting():
                return self._scores(result)
        except Interrupted:
            return {}

    def _scores(self, result: FitResult) -> Scores:
        if self._one_batch:
            sums = self._placed.evaluation(result.state, self._first_evaluated())
            return {"one batch": metrics.report(metrics.total([sums]))}
        return score(self._recipe, self._placed, result.state)

    def _first_evaluated(self) -> Batch:
        plain = next(iter(self._recipe.evaluated().values()))
        batch = self._batches[0] if self._one_batch else plain[0]
        return data.pad_batch(batch, self._recipe.rows())


def score(recipe: Recipe, placed: Placed, state: Any, splits: Sequence[str] = ()) -> Scores:
    """Measures splits exactly.

    Args:
        recipe: the recipe.
        placed: from ``place``.
        state: is kept.
        splits: which; all when empty.

    Returns:
        Metrics by split.

    Raises:
        ConfigError: the recipe has no such split.
    """
    chosen = {name: recipe.split(name) for name in splits} or recipe.evaluated()
    return {
        name: evaluate(placed.evaluation, state, batches, rows=recipe.rows())
        for name, batches in chosen.items()
    }


class _OneBatch:
    """The first batch, whatever number is asked for."""

    def __init__(self, batches: data.Batches) -> None:
        self.batch_size = batches.batch_size
        self._batch = batches[0]

    def __getitem__(self, k: int) -> Batch:
        return self._batch


def _prepare(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(
            f"the run folder {folder} cannot be made: {error}",
            expected="a folder that may be written",
            do="give another one",
        ) from error


def _set_logs_aside(folder: Path) -> None:
    """A run that begins at zero begins its log too; what a killed one wrote is kept beside it."""
    if jax.process_index() != 0:
        return
    for name in ("metrics.jsonl", "tensorboard"):
        old = folder / f"{name}.old"
        if (folder / name).exists():
            shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)
            (folder / name).rename(old)


def _write_summary(folder: Path, recipe: Recipe, placed: Placed, outcome: Outcome) -> None:
    summary = {
        "name": recipe.name,
        "seed": recipe.seed,
        "steps": outcome.result.step,
        "stopped": outcome.result.stopped,
        "seconds": outcome.seconds,
        "parameters": placed.parameters,
        "devices": [str(device) for device in placed.train.mesh.devices.flat],
        "scores": outcome.scores,
    }
    if jax.process_index() == 0:
        new = folder / "summary.json.new"
        new.write_text(json.dumps(jsonable(summary), indent=2, allow_nan=False) + "\n")
        new.replace(folder / "summary.json")
