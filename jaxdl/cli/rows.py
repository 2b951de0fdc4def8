"""The rows of a trained run: restored, predicted, and what is read from them.

Reads from: errors, protocols, recipe, cli.opening.
Used by: cli.measuring, cli.figures, cli.comparing_runs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from jaxdl.cli.opening import rebuilt
from jaxdl.errors import ConfigError
from jaxdl.protocols import MASK
from jaxdl.recipe import Placed, Predictions, Recipe, predict_split

__all__ = ["LABEL", "Restored", "Rows", "class_names", "is_classifier", "loaded", "rows_of"]

LABEL = "label"
"""The field that a classifier's scores are of."""


class Restored(NamedTuple):
    """A trained run in memory.

    Attributes:
        folder: of the run.
        recipe: rebuilt from it.
        placed: its programs.
        state: as the checkpoint has it.
    """

    folder: Path
    recipe: Recipe
    placed: Placed
    state: Any


class Rows(NamedTuple):
    """The rows of a split that count, ``M`` of them.

    Attributes:
        predictions: of all rows, as ``predict_split`` gives them.
        fields: of the rows that count.
        weight: of each row ``[M]``, above 0.
        loss: of each row for a weight of 1 ``[M]``; ``None`` where rows have no loss of their own.
        chances: of each class ``[M, K]``; ``None`` where the model is no classifier.
        label: class numbers ``[M]``, or ``None``.
        said: the class that the model says ``[M]``, or ``None``.
    """

    predictions: Predictions
    fields: dict[str, npt.NDArray[Any]]
    weight: npt.NDArray[np.float64]
    loss: npt.NDArray[np.float64] | None
    chances: npt.NDArray[np.float64] | None
    label: npt.NDArray[np.int64] | None
    said: npt.NDArray[np.int64] | None

    @property
    def figures(self) -> dict[str, npt.NDArray[Any]]:
        """What is measured of each row by name: ``accuracy`` where it is right, and ``loss``."""
        found = {"accuracy": self.right, "loss": self.loss}
        return {name: value for name, value in found.items() if value is not None}

    @property
    def right(self) -> npt.NDArray[np.bool_] | None:
        """Whether the model says the label ``[M]``; ``None`` where it is no classifier."""
        return None if self.said is None else self.said == self.label


def loaded(
    folder: Path,
    *,
    step: int | None = None,
    devices: int | None = None,
    key: str | None = None,
    trust: Sequence[Path] = (),
) -> Restored:
    """Rebuilds a run's recipe from its folder and restores it.

    Args:
        folder: of the run.
        step: the checkpoint of which step; the newest when ``None``.
        devices: how many to use; all when ``None``.
        key: where a key lies that opens sealed checkpoints; the run's own when ``None``.
        trust: files of the public keys whose signatures on them count.

    Raises:
        CheckpointError: it is no run, or has no such checkpoint.
        SealError: the key opens none of it, or nobody trusted signed it.
    """
    run = rebuilt(folder, devices)
    restored = run.restore(step, key=key, trust=trust)
    if restored.step < run.recipe.steps:
        print(f"measured after step {restored.step} of {run.recipe.steps}", file=sys.stderr)
    return Restored(folder, run.recipe, run.placed, restored.state)


def is_classifier(run: Restored) -> bool:
    """Whether the model gives scores ``[B, K]``, or a logit ``[B]``, of an integer label ``[B]``.

    Args:
        run: the run.
    """
    spec = dict(next(iter(run.recipe.evaluated().values())).spec)
    label = spec.get(LABEL)
    if label is None or label.dtype.kind not in "iub" or len(label.shape) != 1:
        return False
    said = _outputs(run, spec)
    if not hasattr(said, "shape") or said.shape[:1] != label.shape or said.ndim > 2:
        return False
    return jnp.issubdtype(said.dtype, jnp.floating) and _is_read(run, spec)


def _outputs(run: Restored, spec: Any) -> Any:
    """The shapes of ``Aux.outputs``; nothing is computed."""
    key = jax.eval_shape(jax.random.key, 0)

    def outputs(params: Any, model_state: Any, batch: Any, key: Any) -> Any:
        return run.recipe.objective.loss(params, model_state, batch, key, train=False)[1].outputs

    return jax.eval_shape(outputs, run.state.params, run.state.model_state, spec, key)


def _is_read(run: Restored, spec: dict[str, Any]) -> bool:
    """Whether the objective needs the label: an autoencoder of labelled images does not."""
    try:
        _outputs(run, {name: leaf for name, leaf in spec.items() if name != LABEL})
    except Exception:  # noqa: BLE001 - anybody's objective may miss it in its own way
        return True
    return False


def rows_of(
    run: Restored, split: str, *, fields: Sequence[str] = (), everything: bool = False
) -> Rows:
    """Predicts every row of a split.

    Args:
        run: the run.
        split: its name.
        fields: which to keep besides the label.
        everything: keep all fields of one number a row too, and the outputs of any model.

    Raises:
        JaxdlError: as ``predict_split``.
    """
    batches = run.recipe.evaluated().get(split)
    spec = {} if batches is None else dict(batches.spec)
    # The weight says what the mask of the padding does.
    more = [name for name in spec if everything and name != MASK]
    single = [name for name in more if len(spec[name].shape) == 1]
    kept = [*fields, *single, *(name for name in (LABEL,) if name in spec)]
    classifies = is_classifier(run)
    found = predict_split(
        run.recipe,
        run.placed,
        run.state,
        split,
        fields=kept,
        with_loss=not run.recipe.objective.mixes_rows,
        with_outputs=classifies or everything,
    )
    weight = found.weight
    if weight is None:
        weight = _weights(found)
    count = weight > 0
    loss = None if found.loss is None else found.loss[count] / weight[count]
    chosen = {name: value[count] for name, value in found.batch.items()}
    chances = said = label = None
    if classifies:
        scores = np.asarray(found.outputs, np.float64)[count]
        chances, said = _read(scores)
        label = chosen[LABEL].astype(np.int64)
    return Rows(found, chosen, weight[count], loss, chances, label, said)


def class_names(recipe: Recipe, split: str, field: str) -> list[str]:
    """The names of the classes of a field; none where the data does not know them.

    Args:
        recipe: of the run.
        split: whose source is asked.
        field: of class numbers.
    """
    known: Any = getattr(recipe.evaluated()[split].source, "class_names", {})
    return [str(name) for name in known.get(field, ())]


def _weights(found: Predictions) -> npt.NDArray[np.float64]:
    rows = len(next(iter(found.batch.values())))
    mask = found.batch.get(MASK)
    if mask is None:
        return np.ones(rows)
    return np.asarray(mask, np.float64).reshape(rows, -1).max(axis=1)


def _read(
    scores: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Softmax of scores, and the class that ``metrics.accuracy`` takes for the model's."""
    if scores.ndim == 1 or scores.shape[1] == 1:
        logit = scores.reshape(len(scores))
        scores = np.stack([np.zeros_like(logit), logit], axis=1)
    if not np.isfinite(scores).all():
        raise ConfigError(
            f"{np.count_nonzero(~np.isfinite(scores).all(axis=1))} rows have scores that are "
            "not finite",
            expected="numbers",
            do="measure a checkpoint of an earlier step with --step",
        )
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True), scores.argmax(axis=1)
