"""What a model says of every example of a split, row by row, for tables, tests and reports.

Reads from: errors, protocols, data, placement, step, recipe.parts, recipe.placing.
Used by: recipe.crossing, cli, and by hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from jaxdl import data
from jaxdl.errors import ConfigError, HostError, ObjectiveError, closest
from jaxdl.placement import PlacedFunction, jit
from jaxdl.protocols import MASK, Batch, PyTree, TrainState
from jaxdl.recipe.parts import Recipe
from jaxdl.recipe.placing import Placed
from jaxdl.step import PredictStep, make_predict_step

__all__ = ["Predictions", "predict_split"]


class Predictions(NamedTuple):
    """The rows of a split in the order of its source, whatever the batch size or shuffle.

    Attributes:
        outputs: host arrays ``[N, ...]``, what the objective's ``Aux.outputs`` gave; ``None`` when
            they were not asked for.
        batch: the fields of those rows. ``mask`` is among them where the data has one of its own.
        loss: float64 ``[N]``: each row's own loss sum, 0 where its weight is 0, so that
            ``loss.sum() / weight.sum()`` is the loss of the split; ``None`` when not asked for.
        weight: float64 ``[N]``: 1 for an example, its tokens for a sequence, 0 for a row that is
            masked; ``None`` with ``loss``.
    """

    outputs: PyTree
    batch: dict[str, npt.NDArray[Any]]
    loss: npt.NDArray[np.float64] | None
    weight: npt.NDArray[np.float64] | None


def predict_split(
    recipe: Recipe,
    placed: Placed,
    state: Any,
    split: str,
    *,
    devices: Sequence[Any] | None = None,
    fields: Sequence[str] | None = None,
    with_loss: bool = True,
    with_outputs: bool = True,
) -> Predictions:
    """Runs the model over a split and keeps what it says of each row, on the host.

    It measures what evaluation measures: the recipe's layout, the average with ``ema_decay``, no
    dropout. A row's loss comes from the objective given that row alone.

    Args:
        recipe: the recipe.
        placed: from ``place``.
        state: is kept.
        split: one of ``recipe.evaluated()``.
        devices: the devices to use; those of ``placed`` when ``None``.
        fields: which fields of the rows to keep; all when ``None``. Name a few where rows are
            large: all of them are held in memory at once.
        with_loss: measure each row's loss, which runs the model a second time.
        with_outputs: keep the outputs. Without them objectives that give none will do, and
            outputs too large to hold, such as logits of a vocabulary.

    Returns:
        The rows, without padding.

    Raises:
        ConfigError: the recipe has no such split, or the split no such field.
        ObjectiveError: the objective gives no outputs, or none by row; or its rows mix, so that a
            row has no loss of its own.
        HostError: there are many hosts, each of which has some of the rows only.
    """
    _check_host()
    batches = recipe.split(split)
    kept = _kept_fields(batches, fields)
    if devices is None:
        devices = list(placed.evaluation.mesh.devices.flat)
    step = _row_step(recipe, with_loss=with_loss, with_outputs=with_outputs)
    _check_rows(step, placed.state, batches, recipe.rows())
    function = jit(step, layout=recipe.layout, devices=devices)
    found, read = _all_rows(function, function.place(state), batches, recipe.rows())
    order = np.argsort(np.concatenate([batches.rows(k) for k in range(len(found))]))

    def joined(*parts: Any) -> npt.NDArray[Any]:
        return np.concatenate(parts)[order]

    rows = jax.tree.map(joined, *found)
    fields_of = {name: joined(*(batch[name] for batch in read)) for name in kept}
    if fields is None and MASK not in batches.source.spec and np.all(fields_of.get(MASK, 1) == 1):
        fields_of.pop(MASK, None)
    loss, weight = rows["loss"], rows["weight"]
    if loss is not None:
        loss, weight = np.asarray(loss, np.float64), np.asarray(weight, np.float64)
        loss = np.where(weight == 0, 0.0, loss)
    return Predictions(rows["outputs"], fields_of, loss, weight)


def _row_step(recipe: Recipe, *, with_loss: bool, with_outputs: bool) -> PredictStep:
    objective, use_ema = recipe.objective, recipe.ema_decay is not None
    if with_loss and objective.mixes_rows:
        raise ObjectiveError(
            "the loss of a row is made of the other rows of its batch",
            expected="an objective whose rows have a loss of their own",
            do="measure the split with jaxdl evaluate RUN, or give with_loss=False",
        )
    outputs = make_predict_step(objective, use_ema=use_ema)

    def loss(state: TrainState, batch: Batch) -> tuple[Any, Any]:
        params = state.ema if use_ema else state.params
        key = jax.random.fold_in(state.key, state.step)

        def of_row(row: Batch) -> tuple[Any, Any]:
            alone = jax.tree.map(lambda x: x[None], row)
            total, aux = objective.loss(params, state.model_state, alone, key, train=False)
            return jnp.asarray(total, jnp.float32), jnp.asarray(aux.weight, jnp.float32)

        return jax.vmap(of_row)(batch)

    def apply(state: TrainState, batch: Batch) -> PyTree:
        total, weight = loss(state, batch) if with_loss else (None, None)
        said = outputs(state, batch) if with_outputs else None
        return {"outputs": said, "loss": total, "weight": weight}

    return PredictStep(apply)


def _all_rows(
    function: PlacedFunction, state: Any, batches: data.Batches, size: int
) -> tuple[list[PyTree], list[dict[str, npt.NDArray[Any]]]]:
    """What the function gives for each batch, and the batches, both without padding."""

    def put(batch: dict[str, Any]) -> tuple[dict[str, Any], Batch]:
        return batch, function.put(data.pad_batch(batch, size))

    found: list[PyTree] = []
    read: list[dict[str, npt.NDArray[Any]]] = []
    with data.prefetch(batches, put, stop=batches.batches_per_epoch) as ahead:
        for k, (batch, there) in ahead:
            real = len(batches.rows(k))
            given = jax.device_get(function(state, there))
            found.append(jax.tree.map(lambda x, real=real: x[:real], given))
            read.append({name: value[:real] for name, value in batch.items()})
    return found, read


def _check_rows(step: PredictStep, state: Any, batches: data.Batches, rows: int) -> None:
    shapes = {
        name: jax.ShapeDtypeStruct((rows, *leaf.shape[1:]), leaf.dtype)
        for name, leaf in batches.spec.items()
    }
    shapes.setdefault(MASK, jax.ShapeDtypeStruct((rows,), np.float32))
    outputs = jax.eval_shape(step.apply, state, shapes)["outputs"]
    wrong = [leaf.shape for leaf in jax.tree.leaves(outputs) if leaf.shape[:1] != (rows,)]
    if wrong:
        raise ObjectiveError(
            f"outputs of shape {', '.join(str(list(shape)) for shape in wrong)} for {rows} rows",
            expected="one row of outputs an example",
            do="return what belongs to single examples as Aux.outputs, or give with_outputs=False",
        )


def _kept_fields(batches: data.Batches, fields: Sequence[str] | None) -> list[str]:
    there: Mapping[str, Any] = batches.spec
    for name in fields or ():
        if name not in there:
            raise ConfigError(
                f"the rows have no field {name!r}",
                expected=f"one of {', '.join(there)}",
                do=closest(name, there),
            )
    return list(there if fields is None else dict.fromkeys(fields))


def _check_host() -> None:
    if jax.process_count() > 1:
        raise HostError(
            f"the rows of a split were asked for on {jax.process_count()} hosts",
            expected="one host, which has all of them",
            do="evaluate the run's folder on one host: jaxdl evaluate RUN",
        )
