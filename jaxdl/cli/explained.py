"""What ``jaxdl explain`` leaves: arrays, a picture or a page, and a table.

Reads from: errors, protocols, explain, cli.subjects, cli.tables. Used by: cli.explaining.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from jaxdl.cli.subjects import TOLERATED, Subject
from jaxdl.cli.tables import table
from jaxdl.errors import CheckpointError
from jaxdl.explain.showing import draw_attributions, draw_neighbours, token_page
from jaxdl.protocols import MASK

__all__ = ["Arrays", "described", "missed_rows", "relative_error", "show", "written"]

Arrays: TypeAlias = dict[str, npt.NDArray[Any]]


def described(batch: Arrays, found: Arrays, subject: Subject) -> Arrays:
    """The arrays of the file.

    Args:
        batch: the rows that were explained.
        found: what was found of them.
        subject: what was explained.
    """
    arrays = {"inputs": batch[subject.field], **found}
    if "label" in batch:
        arrays["label"] = batch["label"]
    if subject.tokens:
        mask = batch.get(MASK, np.ones(len(arrays["inputs"])))
        wide = mask if mask.ndim == 2 else mask[:, None]
        arrays["mask"] = np.broadcast_to(wide, arrays["inputs"].shape)
    scores = arrays["scores"].astype(np.float64)
    if scores.ndim == 2 and scores.shape[1] > 1:
        share = np.exp(scores - scores.max(axis=1, keepdims=True))
        share /= share.sum(axis=1, keepdims=True)
        arrays["confidence"] = share[np.arange(len(share)), arrays["predicted"]]
    else:
        del arrays["predicted"], arrays["target"]
    # NumPy's files have no bfloat16.
    return {
        name: value if value.dtype.kind in "biuf" else value.astype(np.float32)
        for name, value in arrays.items()
    }


def relative_error(error: Any, change: Any) -> Any:
    """How far integrated gradients are from adding up, as a share of what they should add up to.

    Args:
        error: see ``explain.Integrated``.
        change: see ``explain.Integrated``.

    Returns:
        Not negative; infinite where the score does not change and the error is not 0.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.abs(error) / np.abs(change)
    return np.where(error == 0, 0.0, share)


def missed_rows(found: Arrays) -> int:
    """How many rows' attributions are further from adding up than 1 %.

    Args:
        found: with ``error`` and ``change``.
    """
    share = relative_error(found["error"], found["change"])
    return int(np.sum(~(share <= TOLERATED)))


def written(
    file: Path, arrays: Arrays, subject: Subject, title: str, *, words: Sequence[str] | None
) -> list[Path]:
    """Writes the arrays, and the picture or page beside them.

    Args:
        file: ``.npz``, in a folder that is made.
        arrays: from ``described``.
        subject: what was explained.
        title: of the page.
        words: of tokens.

    Returns:
        The files.

    Raises:
        CheckpointError: the folder cannot be written.
        MissingExtraError: a picture is to be drawn, and matplotlib is not installed.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("wb") as opened:
            np.savez(opened, allow_pickle=False, **arrays)
        return [file, *_shown(file, arrays, subject, title, words)]
    except OSError as error:
        raise CheckpointError(
            f"{file} cannot be written: {error}",
            expected="a folder that may be written",
            do="give another one with --to",
        ) from error


def _shown(
    file: Path, arrays: Arrays, subject: Subject, title: str, words: Sequence[str] | None
) -> list[Path]:
    said = [" ".join(_line(arrays, row)) for row in range(len(arrays["index"]))]
    if subject.tokens:
        page = file.with_suffix(".html")
        page.write_text(token_page(arrays, said, words=words, title=title), encoding="utf-8")
        return [page]
    if arrays["inputs"].ndim != 4:
        return []
    picture = file.with_suffix(".png")
    if "neighbours" in arrays:
        labels = arrays.get("neighbour_labels")
        near = arrays["neighbour_inputs"]
        draw_neighbours(picture, arrays["inputs"], near, said, labels=labels)
    else:
        draw_attributions(picture, arrays["inputs"], arrays["attributions"], said)
    return [picture]


def _line(arrays: Arrays, row: int) -> list[str]:
    """What is said of one example under its picture."""
    said = [f"#{arrays['index'][row]}"]
    if "label" in arrays and arrays["label"].ndim == 1:
        said.append(f"label {arrays['label'][row]}")
    if "predicted" in arrays:
        said.append(f"predicted {arrays['predicted'][row]} ({arrays['confidence'][row]:.2f})")
        if arrays["target"][row] != arrays["predicted"][row]:
            said.append(f"why {arrays['target'][row]}")
    return said


def show(arrays: Arrays, files: Sequence[Path]) -> None:
    """Prints a table of the rows, and the files.

    Args:
        arrays: from ``described``.
        files: from ``written``.
    """
    columns: dict[str, list[str]] = {"row": [str(row) for row in arrays["index"]]}
    for name in ("label", "predicted", "target"):
        if name in arrays and arrays[name].ndim == 1:
            columns[name] = [str(value) for value in arrays[name]]
    if "predicted" not in arrays:
        columns["score"] = [f"{value:.4g}" for value in arrays["scores"].reshape(-1)]
    if "confidence" in arrays:
        columns["confidence"] = [f"{value:.3f}" for value in arrays["confidence"]]
    if "error" in arrays:
        share = relative_error(arrays["error"], arrays["change"])
        columns["error"] = [f"{value:.2%}" for value in share]
    if "neighbours" in arrays:
        columns["nearest training rows"] = [
            ", ".join(map(str, row.tolist())) for row in arrays["neighbours"]
        ]
    table(list(zip(*columns.values(), strict=True)), list(columns))
    if "error" in arrays and (missed := missed_rows(arrays)):
        print(
            f"warning: the attributions of {missed} rows miss the change of their score by more "
            f"than {TOLERATED:.0%}: give more --steps",
            file=sys.stderr,
        )
    for file in files:
        print(file)
