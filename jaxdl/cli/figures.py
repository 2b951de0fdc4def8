"""What ``jaxdl evaluate`` says beyond the scores: classes, calibration, slices, intervals; as data.

Reads from: errors, evaluation, recipe, cli.rows. Used by: cli.measuring.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpy.typing as npt

from jaxdl import evaluation
from jaxdl.cli.rows import LABEL, Restored, Rows, class_names
from jaxdl.errors import ConfigError
from jaxdl.evaluation import Interval, weighted_mean
from jaxdl.recipe import Predictions

__all__ = ["check_path", "details", "intervals", "save", "slices"]

_MOST_SLICES = 200


def details(run: Restored, split: str, rows: Rows) -> dict[str, Any]:
    """The table by class, the confusion matrix, and whether probabilities can be believed.

    Args:
        run: the run.
        split: of the rows.
        rows: of a classifier.

    Raises:
        ConfigError: the model is no classifier.
    """
    if rows.chances is None or rows.label is None or rows.said is None:
        raise ConfigError(
            "--details is of classifiers, and this run is none",
            expected=f"outputs [B, K] of an integer field {LABEL!r} [B]",
            do="leave it out; --by and --intervals measure the loss of any run",
        )
    classes = rows.chances.shape[1]
    counts = evaluation.confusion(rows.label, rows.said, classes)
    names = class_names(run.recipe, split, LABEL)
    table = evaluation.class_table(counts, names if len(names) == classes else None)
    bins = evaluation.reliability(*evaluation.top_label(rows.chances, rows.label))
    return {
        "classes": [row._asdict() for row in table],
        "confusion": counts,
        "calibration": {
            "calibration_error": evaluation.calibration_error(bins),
            "brier_score": evaluation.brier_score(rows.chances, rows.label),
            "log_loss": evaluation.log_loss(rows.chances, rows.label),
            "bins": [dict(zip(bins._fields, row, strict=True)) for row in zip(*bins, strict=True)],
        },
    }


def slices(
    run: Restored, split: str, rows: Rows, field: str, edges: Sequence[float] = ()
) -> list[dict[str, Any]]:
    """Accuracy and loss of each part of a split that a field makes.

    Args:
        run: the run.
        split: of the rows.
        rows: with the field among them.
        field: of one value a row.
        edges: for a quantity, see ``evaluation.by_slice``.

    Raises:
        ConfigError: the field has more values a row, or too many different ones.
    """
    by = rows.fields[field]
    if by.ndim != 1:
        raise ConfigError(
            f"the field {field!r} has the shape {list(by.shape)}",
            expected="one value a row",
            do="name a field of numbers or classes",
        )
    found = len(np.unique(by))
    if not edges and found > _MOST_SLICES:
        raise ConfigError(
            f"the field {field!r} has {found} different values",
            expected=f"at most {_MOST_SLICES}",
            do="cut it with --edges, such as --edges 16 64 256",
        )
    options: dict[str, Any] = {"by": by, "edges": list(edges) if edges else None}
    columns = {
        name: evaluation.by_slice(weighted_mean, values, rows.weight, **options)
        for name, values in rows.figures.items()
    }
    names = {} if edges else dict(enumerate(class_names(run.recipe, split, field)))
    return [
        {
            "slice": names.get(parts[0].slice, parts[0].slice),
            "rows": parts[0].rows,
            **{name: part.value for name, part in zip(columns, parts, strict=True)},
        }
        for parts in zip(*columns.values(), strict=True)
    ]


def intervals(rows: Rows, *, seed: int, level: float, resamples: int) -> dict[str, Interval]:
    """Intervals by drawing rows: of the loss, and of a classifier's accuracy and macro F1.

    Args:
        rows: of a split.
        seed: of the draws.
        level: of the intervals.
        resamples: how many times to draw.

    Raises:
        BatchError: there are fewer than 2 rows.
        ConfigError: ``level`` or ``resamples`` is out of range.
    """
    options: dict[str, Any] = {"seed": seed, "level": level, "resamples": resamples}
    found = {
        name: evaluation.bootstrap(
            weighted_mean, values, rows.weight, method="percentile", **options
        )
        for name, values in rows.figures.items()
    }
    if rows.said is not None and rows.label is not None and rows.chances is not None:
        classes = rows.chances.shape[1]

        def macro_f1(said: npt.NDArray[Any], label: npt.NDArray[Any]) -> float:
            counts = [
                np.bincount(numbers, minlength=classes)
                for numbers in (label[said == label], label, said)
            ]
            occur = counts[1] + counts[2]
            return float(np.mean(2 * counts[0][occur > 0] / occur[occur > 0]))

        found["f1"] = evaluation.bootstrap(
            macro_f1, rows.said, rows.label, method="percentile", **options
        )
    return found


def check_path(path: Path) -> None:
    """Checks that predictions can be written to a file, before anything is computed.

    Args:
        path: the file.

    Raises:
        ConfigError: it does not end in ``.npz``, or its folder is not there.
    """
    if path.suffix != ".npz" or not path.parent.is_dir() or path.is_dir():
        raise ConfigError(
            f"predictions cannot be saved to {path}",
            expected="FOLDER/NAME.npz in a folder that is there",
            do="make the folder, or give another file",
        )


def save(path: Path, splits: Mapping[str, Predictions]) -> None:
    """Writes predictions as arrays named ``SPLIT/outputs``, ``SPLIT/loss``, ``SPLIT/batch/FIELD``.

    Args:
        path: the file; one that is there is replaced.
        splits: what was predicted.

    Raises:
        ConfigError: it cannot be written.
    """
    arrays: dict[str, Any] = {}
    for split, found in splits.items():
        parts = {"loss": found.loss, "weight": found.weight}
        for where, leaf in jax.tree_util.tree_flatten_with_path(found.outputs)[0]:
            parts["outputs" + jax.tree_util.keystr(where)] = leaf
        parts |= {f"batch/{name}": value for name, value in found.batch.items()}
        arrays |= {f"{split}/{name}": leaf for name, leaf in parts.items() if leaf is not None}
    # A type that numpy does not know, such as bfloat16, would need its library to be read back.
    plain = {
        name: value.astype(np.float32) if value.dtype.kind == "V" else value
        for name, value in arrays.items()
    }
    try:
        with path.open("wb") as file:
            np.savez_compressed(file, **plain)
    except OSError as error:
        raise ConfigError(
            f"predictions cannot be saved to {path}: {error}",
            expected="a file that may be written",
            do="give another one",
        ) from error
