"""Why a model said what it said of the rows that its page shows.

Reads from: errors, data, placement, protocols, reporting, cli.explained, .explanations, .reported,
.subjects. Used by: cli.reporting.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpy.typing as npt

from jaxdl import data, reporting
from jaxdl.cli.explained import missed_rows, relative_error
from jaxdl.cli.explanations import explainer
from jaxdl.cli.reported import Reopened
from jaxdl.cli.subjects import Method, Settings, Subject, subject_of
from jaxdl.errors import ConfigError, JaxdlError
from jaxdl.placement import jit
from jaxdl.protocols import MASK
from jaxdl.reporting import Classified, Explained, Worst
from jaxdl.reporting.wording import percent

__all__ = ["Explainer"]

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
