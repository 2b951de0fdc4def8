"""Where a run begins: at zero, at its newest whole checkpoint, or before what spoiled it.

Reads from: errors, protocols, tree_paths, data, gradients, checkpoints, hooks, recipe.parts,
recipe.placing. Used by: recipe.running, cli.
"""

from __future__ import annotations

import importlib.metadata
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax

from jaxdl import data
from jaxdl.checkpoints import Checkpoints, Table
from jaxdl.errors import CheckpointError, ConfigError, DivergedError
from jaxdl.gradients.remembering import joined
from jaxdl.hooks import memory_of
from jaxdl.protocols import Batch, Memory, Params
from jaxdl.recipe.parts import Recipe
from jaxdl.recipe.placing import Placed
from jaxdl.tree_paths import match_mask, partition

__all__ = ["VERSIONED", "Beginning", "begin", "check_position", "fresh", "go_back", "position"]

VERSIONED = ("jaxdl", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
_TRIES = 5


class Beginning(NamedTuple):
    """Where a run begins.

    Attributes:
        step: updates done.
        state: the train state; ``None`` when it is still to be made.
        memory: of the loop that saved it.
        skipped: ranges of batch numbers that the run leaves out.
        tries: how often it went back.
    """

    step: int = 0
    state: Any = None
    memory: Memory = Memory()
    skipped: tuple[tuple[int, int], ...] = ()
    tries: int = 0

    def finished(self, recipe: Recipe) -> bool:
        """Whether nothing is left to train.

        Args:
            recipe: of the run.
        """
        ended = self.step >= recipe.steps or self.memory.stopped is not None
        return self.state is not None and ended and not self.memory.due


def position(
    recipe: Recipe, skipped: Sequence[tuple[int, int]] = (), *, one_batch: bool = False
) -> dict[str, Any]:
    """What a checkpoint says of its run beside the state: the data position, and the versions.

    The position in the data is the seed and the step: batch ``k`` is a function of ``(seed, k)``.

    Args:
        recipe: of the run.
        skipped: ranges of batch numbers that the run leaves out.
        one_batch: whether every step had the first batch.
    """
    train = recipe.train
    return {
        "run": {
            "name": recipe.name,
            "seed": recipe.seed,
            "data_seed": train.seed,
            "data": train.source.fingerprint,
            "examples": train.num_examples,
            "batch_size": train.batch_size,
            "batches_per_epoch": train.batches_per_epoch,
            "log_every": recipe.log_every,
            "one_batch": one_batch,
        },
        "skipped": [list(pair) for pair in skipped],
        "versions": {name: importlib.metadata.version(name) for name in VERSIONED},
        "devices": [jax.device_count(), jax.default_backend(), jax.process_count()],
    }


def begin(
    recipe: Recipe, placed: Placed, store: Checkpoints | None, *, one_batch: bool = False
) -> Beginning:
    """The newest whole checkpoint, or zero when there is none at all.

    Args:
        recipe: of the run.
        placed: its programs.
        store: its checkpoints.
        one_batch: whether every step has the first batch.

    Raises:
        CheckpointError: the checkpoints are of another run, or none of them is whole.
    """
    if store is None or not store.steps():
        return Beginning()
    restored = store.restore(placed.state, set_aside=True)
    now = position(recipe, one_batch=one_batch)
    check_position(restored.record, now, recipe.steps)
    skipped = tuple((first, stop) for first, stop in restored.record.get("skipped", ()))
    return Beginning(restored.step, restored.state, memory_of(restored), skipped)


def fresh(recipe: Recipe, placed: Placed, batch: Batch) -> tuple[Any, Table | None]:
    """The state of a new run, with what it takes over from another one.

    Args:
        recipe: of the run.
        placed: its programs.
        batch: any batch of the run.

    Returns:
        The state, and what happened to every leaf when something was taken over.

    Raises:
        JaxdlError: as ``checkpoints.load_partial``.
    """
    state = placed.train.init(recipe.seed, batch)
    if recipe.init_from is None:
        return state, None

    def opt_init(params: Params) -> Any:
        if recipe.freeze is not None:
            params = partition(params, match_mask(recipe.freeze, params))[1]
        return joined(recipe.gradient, recipe.optimizer.init(params))

    state, taken = recipe.init_from.fill(state, opt_init)
    return state, taken.table


def check_position(record: Mapping[str, Any], now: Mapping[str, Any], steps: int) -> None:
    """Checks that a checkpoint is of this run, and warns when the versions are others.

    Args:
        record: of the checkpoint.
        now: from ``position``.
        steps: of the recipe.

    Raises:
        CheckpointError: data, seed or batch size are not those of the run.
        ConfigError: the run went beyond the recipe's last step.

    Warns:
        UserWarning: a package has another version than when the checkpoint was made.
    """
    then, present = record.get("run", {}), now["run"]
    changed = [
        f"{name}: {then.get(name)!r} became {value!r}"
        for name, value in present.items()
        if then.get(name) != value
    ]
    if changed:
        raise CheckpointError(
            "the checkpoint is of another run:\n    " + "\n    ".join(changed),
            expected="the data, seed and batch size that it began with",
            do="go on with those, or give a new folder; checkpoints.load_partial takes over its "
            "parameters",
        )
    if record["step"] > steps:
        raise ConfigError(
            f"the run has done {record['step']} steps",
            expected=f"at most the recipe's {steps}",
            do="raise steps, or give a new folder",
        )
    versions = [
        f"{name} {old} is now {now['versions'].get(name)}"
        for name, old in record.get("versions", {}).items()
        if now["versions"].get(name) != old
    ]
    if versions:
        warnings.warn(
            "the checkpoint was made with other versions, so the run goes on, but perhaps not to "
            f"the same bits: {', '.join(versions)}",
            stacklevel=2,
        )


def go_back(
    recipe: Recipe,
    placed: Placed,
    store: Checkpoints | None,
    beginning: Beginning,
    error: DivergedError,
) -> Beginning:
    """The last checkpoint before the steps that went wrong, their batches left out from now on.

    Args:
        recipe: of the run.
        placed: its programs.
        store: its checkpoints; without them the run goes back to zero.
        beginning: where it began this time.
        error: what went wrong, with its steps.

    Raises:
        DivergedError: ``error``, when its steps are unknown or the run went back too often.

    Warns:
        UserWarning: says where the run goes back to and what it leaves out.
    """
    if error.steps is None or beginning.tries >= _TRIES:
        raise error
    first, last = error.steps
    skipped = data.with_skipped(beginning.skipped, first, last)
    back = Beginning(skipped=skipped, tries=beginning.tries + 1)
    if store is not None and store.go_back_before(first):
        restored = store.restore(placed.state, set_aside=True)
        memory = memory_of(restored)
        back = back._replace(step=restored.step, state=restored.state, memory=memory)
    warnings.warn(
        f"{error.what}: going back to step {back.step} and leaving out the batches of steps "
        f"{first} to {last}",
        stacklevel=2,
    )
    return back
