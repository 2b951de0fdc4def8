"""The rows of a split as a page reads them, and which of them went most wrong.

Reads from: reporting.classes, .wording. Used by: reporting.mistakes, .sections, .comparing, cli.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from jaxdl.reporting.classes import Classified
from jaxdl.reporting.wording import plural

__all__ = ["Explained", "FewRows", "Rows", "Worst", "choose", "mean_loss"]


class Explained(NamedTuple):
    """How much each part of an input weighed.

    Attributes:
        method: its name.
        field: of the rows that was explained.
        rows: by number of the row, an array of the shape of its field; of images also ``[H, W]``.
        note: more words about it.
    """

    method: str
    field: str
    rows: Mapping[int, npt.NDArray[Any]]
    note: str = ""


class Rows(NamedTuple):
    """The rows of a split.

    Attributes:
        split: its name.
        outputs: of the model, ``None`` where they are not kept.
        batch: fields ``[N, ...]``.
        loss: of each row ``[N]``, or ``None``.
        weight: of each row ``[N]``, or ``None``.
        class_names: of the labels; empty where they are not known.
        words: of tokens, by number; empty where they are not known.
        waves: from the field ``tokens`` of a row to the recording that it stands for, or ``None``.
        rate: values a second of recordings.
        fetch: from numbers of rows to the fields that are too large to hold of all rows, each
            indexed by these numbers; ``None`` where ``batch`` has every field.
    """

    split: str
    outputs: Any
    batch: Mapping[str, Any]
    loss: npt.NDArray[Any] | None = None
    weight: npt.NDArray[Any] | None = None
    class_names: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    waves: Callable[[Any], Any] | None = None
    rate: int = 16_000
    fetch: Callable[[Sequence[int]], Mapping[str, Any]] | None = None


class FewRows(NamedTuple):
    """A field of which some rows are held.

    Attributes:
        rows: by number.
        shape: of the field with all rows.
        dtype: of the field.
    """

    rows: Mapping[int, npt.NDArray[Any]]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __getitem__(self, key: Any) -> Any:
        """A row by its number, or several by an array of numbers."""
        if np.ndim(key):
            return np.stack([self.rows[int(row)] for row in key])
        return self.rows[int(key)]


class Worst(NamedTuple):
    """Which rows are shown.

    Attributes:
        rows: their numbers, the worst first.
        words: how they were chosen.
    """

    rows: tuple[int, ...]
    words: str


def choose(rows: Rows, found: Classified | str, count: int) -> Worst:
    """The rows to show: wrong ones of the greatest loss, or of any the greatest loss.

    Args:
        rows: of the split.
        found: from ``classify``.
        count: how many at most.
    """
    loss = mean_loss(rows)
    if not isinstance(found, str) and not found.places:
        sure = found.probabilities.max(axis=1)
        size = sure if loss is None else loss[found.rows]
        wrong = ~found.right
        by = "greatest loss" if loss is not None else "greatest confidence"
        if wrong.any():
            place = np.flatnonzero(wrong)
            order = place[np.argsort(-size[place], kind="stable")][:count]
            words = (
                f"The {plural(len(order), 'wrong prediction')} of the {by}, of {len(place):,} wrong"
            )
        else:
            order = np.argsort(sure, kind="stable")[:count]
            words = f"No prediction is wrong. The {len(order)} of the least confidence"
        return Worst(tuple(found.rows[order].tolist()), f"{words}, among {len(wrong):,}.")
    if loss is None:
        return Worst((), "The rows have no loss of their own, so that none is the worst.")
    order = np.argsort(-loss, kind="stable")
    order = order[np.isfinite(loss[order])][:count]
    if not order.size:
        return Worst((), "No row has a finite loss.")
    words = f"The {plural(len(order), 'example')} of the greatest loss"
    return Worst(tuple(order.tolist()), f"{words}, among {np.isfinite(loss).sum():,}.")


def mean_loss(rows: Rows) -> npt.NDArray[np.float64] | None:
    """The loss of each row for a weight of 1; of rows that do not count it is not finite.

    Args:
        rows: of the split.
    """
    if rows.loss is None:
        return None
    weight = np.ones(len(rows.loss)) if rows.weight is None else np.asarray(rows.weight, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(weight > 0, np.asarray(rows.loss, np.float64) / weight, np.nan)
