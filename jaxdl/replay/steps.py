"""One step of a run made again: its state and its batch, and what in it is not finite.

Reads from: errors, protocols, data, metrics, checkpoints, recipe, replay. Used by: cli, and by
hand.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdl import data, metrics
from jaxdl.checkpoints import Checkpoints, open_step, read_tensor
from jaxdl.errors import ConfigError
from jaxdl.protocols import Batch, TrainState
from jaxdl.recipe import Placed, Recipe, check_position, position, train_step
from jaxdl.replay.finding import Finding
from jaxdl.replay.nonfinite import find_nonfinite

__all__ = ["Replayed", "examine", "keep", "reopen", "replay"]

_BATCH = "state/batch/"


class Replayed(NamedTuple):
    """A step made again.

    Attributes:
        step: its number, from 1.
        began: the step of the checkpoint that it was reached from; 0 for the run's start.
        state: the state before it, on one device.
        batch: its batch, on the host.
        loss: its mean loss.
        finding: what first was not finite, ``None`` when everything was.
        examples: the rows of the training source that the finding concerns.
    """

    step: int
    began: int
    state: TrainState
    batch: Batch
    loss: float
    finding: Finding | None
    examples: tuple[int, ...]


def replay(
    recipe: Recipe,
    placed: Placed,
    store: Checkpoints,
    step: int | None = None,
    *,
    one_batch: bool = False,
) -> Replayed:
    """Makes one step again, from the newest whole checkpoint before it, and examines it.

    The steps between the two run as they did. A run that went back and left batches out leaves
    them out again, as far as the checkpoint knows of it; ask for the step at which a run went back
    by the checkpoint before.

    Args:
        recipe: of the run.
        placed: its programs.
        store: its checkpoints.
        step: which, from 1; the first after the newest checkpoint that is not finite when ``None``.
        one_batch: whether every step had the first batch.

    Raises:
        ConfigError: the run has no such step, or all steps after the checkpoint are finite.
        CheckpointError: the checkpoints are of another run, or none before the step is whole.
    """
    if step is not None and not 1 <= step <= recipe.steps:
        raise ConfigError(
            f"step {step} was asked for",
            expected=f"a step of the run, from 1 to {recipe.steps}",
            do="choose one of them; metrics.jsonl tells where the loss went wrong",
        )
    began, state, skipped = _before(recipe, placed, store, step, one_batch=one_batch)
    batches = data.Skipping(recipe.train, skipped)
    for number in range(began + 1, (step or recipe.steps) + 1):
        k = 0 if one_batch else batches.number(number - 1)
        batch, kept = recipe.train[k], _on_one_device(state)
        state, sums = placed.train(state, batch)
        loss = float(metrics.report(metrics.total([sums])).get("loss", np.nan))
        if number == step or (step is None and _spoiled(recipe, loss, sums, state)):
            finding = examine(recipe, kept, batch)
            rows = recipe.train.rows(k)
            concerned = finding.rows if finding is not None else ()
            examples = tuple(int(rows[row]) for row in concerned if row < len(rows))
            return Replayed(number, began, kept, batch, loss, finding, examples)
    raise ConfigError(
        f"no step after {began}, where its newest checkpoint is, is other than finite",
        expected="a step whose loss or parameters are not",
        do="name a step with --step to see it all the same",
    )


def examine(recipe: Recipe, state: TrainState, batch: Batch) -> Finding | None:
    """What in one step is first not finite; ``None`` when nothing is.

    Args:
        recipe: of the run.
        state: before the step, on one device.
        batch: of the step.
    """
    # A step that passes over bad gradients returns a finite state.
    plain = dataclasses.replace(recipe, nonfinite="propagate")
    rows = int(jax.tree.leaves(batch)[0].shape[0])
    return find_nonfinite(train_step(plain).update, state, batch, rows=rows)


def keep(folder: Path, replayed: Replayed) -> None:
    """Stores the state before a step and its batch, for ``reopen``.

    Args:
        folder: receives ``checkpoints/``.
        replayed: the step.
    """
    store = Checkpoints(folder / "checkpoints")
    store.save(replayed.step - 1, {"before": replayed.state, "batch": dict(replayed.batch)})
    store.close()


def reopen(folder: Path, recipe: Recipe) -> tuple[int, TrainState, Batch]:
    """The number of a step, the state before it, and its batch, as ``keep`` stored them.

    Args:
        folder: given to ``keep``.
        recipe: of the run.
    """
    store = Checkpoints(folder / "checkpoints")
    (before,) = store.steps()
    manifest, _ = open_step(store.folder, before)
    batch = {
        name.removeprefix(_BATCH): read_tensor(store.folder / str(before), name, entry.spec)
        for name, entry in manifest.tensors.items()
        if name.startswith(_BATCH)
    }
    key = jax.eval_shape(jax.random.key, 0)
    like = jax.eval_shape(train_step(recipe).init, key, batch)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch)
    restored = store.restore({"before": like, "batch": shapes})
    return before + 1, restored.state["before"], batch


def _before(
    recipe: Recipe, placed: Placed, store: Checkpoints, step: int | None, *, one_batch: bool
) -> tuple[int, Any, Any]:
    if not [each for each in store.steps() if step is None or each < step]:
        return 0, placed.train.init(recipe.seed, recipe.train[0]), ()
    restored = store.restore(placed.state, before=step)
    check_position(restored.record, position(recipe, one_batch=one_batch), recipe.steps)
    skipped = tuple((first, stop) for first, stop in restored.record.get("skipped", ()))
    return restored.step, restored.state, skipped


def _spoiled(recipe: Recipe, loss: float, sums: Mapping[str, Any], state: TrainState) -> bool:
    if recipe.nonfinite == "skip":
        return int(sums["skipped"]) > 0
    leaves = [leaf for leaf in jax.tree.leaves(state.params) if leaf.dtype.kind in "fVc"]
    return not np.isfinite(loss) or not all(np.all(np.isfinite(np.asarray(x))) for x in leaves)


def _on_one_device(state: Any) -> Any:
    """A copy that the next step does not consume."""
    first = jax.devices()[0]
    return jax.tree.map(lambda x: jax.numpy.copy(jax.device_put(x, first)), state)
