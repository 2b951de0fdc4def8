"""Tables over the predictions of a data set: confusion, classes, slices.

Reads from: errors, metrics, evaluation.rows. Used by: cli, and by hand.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from jaxdl.errors import BatchError, ConfigError
from jaxdl.evaluation.rows import same_rows
from jaxdl.metrics import class_scores

__all__ = ["ClassRow", "SliceRow", "by_slice", "class_table", "confusion"]


class ClassRow(NamedTuple):
    """One class.

    Attributes:
        name: of the class, or its number.
        precision: of the rows predicted as it, the share that is of it.
        recall: of its rows, the share that is predicted as it.
        f1: their harmonic mean.
        support: how many rows are of it.
        predicted: how many are predicted as it.
    """

    name: str
    precision: float
    recall: float
    f1: float
    support: int
    predicted: int


class SliceRow(NamedTuple):
    """A part of a data set.

    Attributes:
        slice: the value of the field in this part.
        rows: how many.
        value: what was measured over them; NaN where there are none.
    """

    slice: Any
    rows: int
    value: float


def confusion(
    labels: npt.ArrayLike, predictions: npt.ArrayLike, num_classes: int
) -> npt.NDArray[np.int64]:
    """Counts by class: row the target, column the prediction.

    Args:
        labels: class numbers ``[B]``.
        predictions: class numbers ``[B]``.
        num_classes: ``K``.

    Returns:
        ``[K, K]``.

    Raises:
        BatchError: the arrays differ in length, or a class number is not in ``0 .. K - 1``.

    Examples:
        >>> confusion([0, 0, 1], [0, 1, 1], 2)
        array([[1, 1],
               [0, 1]])
    """
    true, said = same_rows(labels, predictions)
    for name, numbers in (("labels", true), ("predictions", said)):
        if numbers.dtype.kind not in "iub" or numbers.ndim != 1:
            raise BatchError(
                f"{name} are {numbers.dtype} of shape {list(numbers.shape)}",
                expected="class numbers, integers of shape [B]",
                do="give argmax(scores, axis=-1), with padded rows left out",
            )
        if numbers.size and not 0 <= int(numbers.min()) <= int(numbers.max()) < num_classes:
            raise BatchError(
                f"{name} are from {numbers.min()} to {numbers.max()}",
                expected=f"class numbers from 0 to {num_classes - 1}",
                do="leave rows out that do not count, or give the right num_classes",
            )
    cells = true.astype(np.int64) * num_classes + said.astype(np.int64)
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def class_table(counts: npt.ArrayLike, names: Sequence[str] | None = None) -> list[ClassRow]:
    """Precision, recall, F1 and support by class.

    Args:
        counts: a confusion matrix ``[K, K]``, from ``confusion`` or
            ``metrics.confusion_matrix``.
        names: of the classes; their numbers when ``None``.

    Returns:
        A row a class. A class that never occurs scores 0.

    Raises:
        ConfigError: there are not ``K`` names, or the matrix is not square.

    Examples:
        >>> for row in class_table([[1, 1], [0, 1]], ["cat", "dog"]):
        ...     print(row.name, row.precision, row.recall, round(row.f1, 4), row.support)
        cat 1.0 0.5 0.6667 2
        dog 0.5 1.0 0.6667 1
    """
    matrix = np.asarray(counts)
    titles = [str(k) for k in range(len(matrix))] if names is None else list(names)
    if matrix.shape != (len(titles), len(titles)):
        raise ConfigError(
            f"a confusion matrix of shape {list(matrix.shape)} with {len(titles)} names",
            expected="a matrix [K, K] and K names",
            do="give a name for each class",
        )
    scores = class_scores(matrix)
    return [
        ClassRow(
            name,
            *(float(scores[part][k]) for part in ("precision", "recall", "f1")),
            support=int(scores["actual"][k]),
            predicted=int(scores["predicted"][k]),
        )
        for k, name in enumerate(titles)
    ]


def by_slice(
    statistic: Callable[..., Any],
    *arrays: npt.ArrayLike,
    by: npt.ArrayLike,
    values: Sequence[Any] | None = None,
    edges: npt.ArrayLike | None = None,
) -> list[SliceRow]:
    """Measures each part of a data set that a field makes.

    Args:
        statistic: from the arrays' rows of one part to a number; not called where there are none.
        *arrays: of the same rows ``[B, ...]``.
        by: the field ``[B]``: numbers, texts or truth values.
        values: the parts; those that occur, in order, when ``None``.
        edges: for a quantity, in place of ``values``: at least one, rising; each belongs to the
            interval above it, and NaN to none.

    Returns:
        A row a part. Rows whose value is in none of the parts are in none.

    Raises:
        BatchError: the arrays and the field differ in length.
        ConfigError: the edges do not rise, or there are ``values`` too.

    Examples:
        >>> right = np.array([1, 0, 1, 1])
        >>> for row in by_slice(np.mean, right, by=["night", "night", "day", "day"]):
        ...     print(*row)
        day 2 1.0
        night 2 0.5
        >>> for row in by_slice(np.mean, right, by=[3, 10, 25, 11], edges=[10, 20]):
        ...     print(*row)
        below 10 1 1.0
        10 to 20 2 0.5
        from 20 1 1.0
    """
    field, *columns = same_rows(by, *arrays)
    if edges is not None:
        field, values = _intervals(field, np.atleast_1d(np.asarray(edges, np.float64)), values)
    parts = np.unique(field).tolist() if values is None else list(values)
    rows: list[SliceRow] = []
    for part in parts:
        # NaN is a part too, and equals nothing.
        same = field == part if part == part else field != field
        chosen = np.flatnonzero(same)
        value = float(statistic(*(c[chosen] for c in columns))) if chosen.size else float("nan")
        rows.append(SliceRow(part, int(chosen.size), value))
    return rows


def _intervals(
    numbers: npt.NDArray[Any], edges: npt.NDArray[np.float64], values: Any
) -> tuple[npt.NDArray[Any], list[str]]:
    """The name of the interval of each number, and the names in order."""
    if values is not None or not edges.size or not (np.diff(edges) > 0).all():
        raise ConfigError(
            f"edges are {edges.tolist()}" + ("" if values is None else ", and there are values"),
            expected="at least one, rising, and no values",
            do="sort the edges, each once",
        )
    middle = [f"{a:g} to {b:g}" for a, b in itertools.pairwise(edges)]
    names = [f"below {edges[0]:g}", *middle, f"from {edges[-1]:g}"]
    known = numbers.astype(np.float64)
    index = np.where(np.isnan(known), len(names), np.digitize(known, edges))
    return np.array([*names, ""])[index], names
