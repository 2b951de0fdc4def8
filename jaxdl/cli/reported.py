"""What the page of a run needs of its model: the rows of a split, and explanations of the worst.

Reads from: errors, checkpoints, data, placement, protocols, recipe, reporting, cli.explained,
.explanations, .subjects, .training. Used by: cli.reporting.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import numpy.typing as npt

from jaxdl import checkpoints, data, reporting
from jaxdl.cli.explained import missed_rows, relative_error
from jaxdl.cli.explanations import explainer
from jaxdl.cli.subjects import Method, Settings, Subject, subject_of
from jaxdl.cli.training import choose_devices, reopened, with_options
from jaxdl.errors import ConfigError, JaxdlError, ObjectiveError
from jaxdl.placement import jit
from jaxdl.protocols import MASK
from jaxdl.recipe import Placed, Recipe, place, predict_split
from jaxdl.reporting import Classified, Explained, FewRows, Worst
from jaxdl.reporting.wording import percent

__all__ = ["Explainer", "Reopened", "reopen", "rows_of", "split_of"]

_LARGEST = 1 << 29
"""Bytes of outputs, and of fields, that are held of all rows. Of larger outputs the rows have a
loss alone; larger fields are read again for the rows that are shown."""
_STEPS = (50, 200)
_FILES: tuple[tuple[Method, str], ...] = (
    ("integrated-gradients", "integrated gradients"),
    ("grad-cam", "Grad-CAM"),
    ("saliency", "saliency"),
    ("smoothgrad", "SmoothGrad"),
    ("occlusion", "occlusion"),
    ("gradient-x-input", "gradient x input"),
    ("attention-rollout", "attention rollout"),
)


class Reopened(NamedTuple):
    """A run in memory.

    Attributes:
        folder: of the run.
        recipe: rebuilt from it.
        placed: its programs.
        state: of the newest checkpoint.
        words: of tokens, by number; empty where the file does not say them.
        rate: values a second of recordings.
    """

    folder: Path
    recipe: Recipe
    placed: Placed
    state: Any
    words: tuple[str, ...]
    rate: int


def reopen(folder: Path, devices: int | None = None) -> Reopened:
    """Rebuilds a run's recipe and restores its newest checkpoint.

    The words of tokens are those of the function ``token_names(config)`` of the run's file.

    Args:
        folder: of the run.
        devices: how many to use; all when ``None``.

    Raises:
        JaxdlError: the folder, the data or the checkpoint is not as it was.
    """
    example, config, run_options = reopened(folder)
    recipe = with_options(example.build(config), run_options)
    placed = place(recipe, devices=choose_devices(devices))
    state = checkpoints.Checkpoints(folder / "checkpoints").restore(placed.state).state
    module = sys.modules.get(example.config.__module__)
    named: Any = getattr(module, "token_names", None)
    words = (named(config) if named is not None else None) or ()
    rate = getattr(config, "sample_rate", getattr(module, "RATE", 16_000))
    return Reopened(folder, recipe, placed, state, tuple(map(str, words)), int(rate))


def split_of(recipe: Recipe, asked: str | None) -> str:
    """The split that the page is of: the one asked for, else test, validation or train.

    Args:
        recipe: of the run.
        asked: its name.

    Raises:
        ConfigError: there is no such split.
    """
    there = recipe.evaluated()
    if asked is None:
        return next(name for name in ("test", "validation", "train") if name in there)
    if asked not in there:
        raise ConfigError(
            f"recipe {recipe.name!r} has no split {asked!r}",
            expected=f"one of {', '.join(there)}",
            do="choose one of them",
        )
    return asked


def rows_of(run: Reopened, split: str) -> reporting.Rows:
    """Outputs, where they are not too large, and losses, where rows have their own.

    Args:
        run: in memory.
        split: of its recipe.

    Raises:
        ObjectiveError: the rows have neither.
    """
    batches = run.recipe.evaluated()[split]
    with_loss = not run.recipe.objective.mixes_rows
    with_outputs = bool({"label", "target"} & set(batches.spec))
    with_outputs = with_outputs and _bytes_of_outputs(run, batches) <= _LARGEST
    kept = _small_fields(batches)
    left = [name for name in batches.spec if name not in kept]
    options: dict[str, Any] = {"fields": kept}
    attempts = dict.fromkeys([(with_loss, with_outputs), (with_loss, False), (False, with_outputs)])
    reasons: list[str] = []
    for loss, outputs in attempts:
        if not loss and not outputs:
            continue
        try:
            found = predict_split(
                *(run.recipe, run.placed, run.state, split),
                **options,
                with_loss=loss,
                with_outputs=outputs,
            )
        except ObjectiveError as error:
            reasons.append(error.what)
            continue
        names = getattr(batches.source, "class_names", {}).get("label", ())
        return reporting.Rows(
            split,
            found.outputs,
            found.batch,
            found.loss,
            found.weight,
            class_names=tuple(map(str, names)),
            words=run.words,
            rate=run.rate,
            fetch=functools.partial(_fetched, batches, left) if left else None,
        )
    raise ObjectiveError(
        "; ".join(reasons) or "the rows have neither outputs that fit nor losses of their own",
        expected="either",
        do="see the scores of the whole split",
    )


class Explainer:
    """Why the model said what it said of the rows that are shown.

    Explanations that ``jaxdl explain`` left in the run's folder are taken where they are of these
    rows and predictions; integrated gradients of the predicted class are computed where none are.

    Args:
        run: in memory.
    """

    def __init__(self, run: Reopened) -> None:
        self._run = run

    def __call__(
        self, rows: reporting.Rows, worst: Worst, found: Classified | str
    ) -> tuple[list[Explained], str]:
        """The explanations, and why there are none.

        Args:
            rows: of the split.
            worst: which rows.
            found: what was predicted.
        """
        try:
            subject = self._subject(rows.split)
            left = self._left(subject, rows, worst, found)
            return left or [self._computed(subject, rows, worst)], ""
        except JaxdlError as error:
            return [], f"Not explained: {error.what}; it takes {error.expected}."

    def _subject(self, split: str) -> Subject:
        recipe = self._run.recipe
        rows = recipe.rows()
        spec = {
            name: jax.ShapeDtypeStruct((rows, *leaf.shape[1:]), leaf.dtype)
            for name, leaf in recipe.evaluated()[split].spec.items()
        }
        spec.setdefault(MASK, jax.ShapeDtypeStruct((rows,), np.float32))
        return subject_of(recipe, self._run.placed.state, spec, None)

    def _left(
        self, subject: Subject, rows: reporting.Rows, worst: Worst, found: Classified | str
    ) -> list[Explained]:
        explained: list[Explained] = []
        for method, title in _FILES:
            file = self._run.folder / "explanations" / f"{rows.split}-{method}.npz"
            if not file.is_file():
                continue
            inputs = rows.batch[subject.field]
            weights = _read(file, inputs, worst, found)
            if weights:
                explained.append(Explained(title, subject.field, weights))
        return explained

    def _computed(self, subject: Subject, given: reporting.Rows, worst: Worst) -> Explained:
        rows = np.array(worst.rows)
        batch = {name: value[rows] for name, value in given.batch.items()}
        devices = list(self._run.placed.evaluation.mesh.devices.flat)
        size = -(-len(rows) // len(devices)) * len(devices)
        padded = data.pad_batch(batch, size)
        arrays: dict[str, Any] = {}
        for steps in _STEPS:
            settings = Settings("integrated-gradients", steps=steps)
            made = explainer(self._run.recipe, subject, settings)
            program = jit(made, layout=self._run.recipe.layout, devices=devices)
            told = program(program.place(self._run.state), program.put(padded))
            arrays = {name: np.asarray(value)[: len(rows)] for name, value in told.items()}
            if not missed_rows(arrays):
                break
        if not np.allclose(arrays["given"], arrays["scores"], rtol=1e-3, atol=1e-3):
            raise ConfigError(
                f"the model reads integers in {subject.field!r} in another way than scaled to 0 "
                "to 1",
                expected="floats",
                do="turn them to floats in the data",
            )
        share = float(np.max(relative_error(arrays["error"], arrays["change"])))
        note = f"of the predicted score, which they add up to within {percent(share)}"
        by_row = dict(zip(worst.rows, arrays["attributions"], strict=True))
        return Explained("integrated gradients", subject.field, by_row, note)


def _read(
    file: Path, inputs: Any, worst: Worst, found: Classified | str
) -> dict[int, npt.NDArray[Any]]:
    """The rows of a file that are shown, if it is of these inputs and predictions."""
    try:
        with np.load(file, allow_pickle=False) as opened:
            there = {name: opened[name] for name in opened.files}
        index = there["index"].tolist()
    except (OSError, ValueError, KeyError) as error:
        print(f"warning: {file} cannot be read: {error}", file=sys.stderr)
        return {}
    said: dict[int, int] = {}
    if not isinstance(found, str):
        said = dict(zip(found.rows.tolist(), found.predicted.tolist(), strict=True))
    rows: dict[int, npt.NDArray[Any]] = {}
    for n, row in enumerate(index):
        if row not in worst.rows or "attributions" not in there:
            continue
        same = np.array_equal(there["inputs"][n], inputs[row])
        if same and ("target" not in there or there["target"][n] == said.get(row)):
            rows[row] = there["attributions"][n]
    return rows


def _small_fields(batches: Any) -> list[str]:
    """The fields that can be held of all rows, the smallest first."""
    sizes = {
        name: math.prod(leaf.shape[1:]) * np.dtype(leaf.dtype).itemsize * batches.num_examples
        for name, leaf in batches.spec.items()
    }
    kept: list[str] = []
    for name in sorted(sizes, key=sizes.__getitem__):
        if sum(sizes[each] for each in [*kept, name]) <= _LARGEST:
            kept.append(name)
    return kept


def _fetched(batches: Any, names: Sequence[str], wanted: Sequence[int]) -> dict[str, FewRows]:
    """Fields of a few rows, read again."""
    found: dict[str, dict[int, npt.NDArray[Any]]] = {name: {} for name in names}
    for k in range(batches.batches_per_epoch):
        rows = batches.rows(k)
        places = np.flatnonzero(np.isin(rows, np.asarray(wanted)))
        if not places.size:
            continue
        batch = batches[k]
        for name in names:
            found[name] |= {int(rows[place]): batch[name][place] for place in places}
    return {
        name: FewRows(
            found[name],
            (batches.num_examples, *batches.spec[name].shape[1:]),
            np.dtype(batches.spec[name].dtype),
        )
        for name in names
    }


def _bytes_of_outputs(run: Reopened, batches: Any) -> float:
    """What the outputs of all rows of a split would take."""
    key = jax.eval_shape(jax.random.key, 0)

    def outputs(params: Any, model_state: Any, batch: Any, key: Any) -> Any:
        return run.recipe.objective.loss(params, model_state, batch, key, train=False)[1].outputs

    state: Any = run.state
    found = jax.eval_shape(outputs, state.params, state.model_state, dict(batches.spec), key)
    sizes = [math.prod(x.shape) * np.dtype(x.dtype).itemsize for x in jax.tree.leaves(found)]
    rows = next(iter(batches.spec.values())).shape[0]
    return sum(sizes) / max(rows, 1) * batches.num_examples
