"""How well scores rank: areas under curves, exact, on the host, by scipy and scikit-learn.

``metrics.auroc`` is the first of them as a sum over batches on the device, with an error that it
states.

Reads from: errors, metrics, evaluation.rows. Used by: by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from jaxdl.errors import BatchError
from jaxdl.evaluation.rows import same_rows
from jaxdl.metrics.sums import quotient

__all__ = ["auroc", "average_precision"]

_Average: TypeAlias = Literal["macro", "weighted"] | None


def auroc(scores: npt.ArrayLike, labels: npt.ArrayLike, *, average: _Average = "macro") -> Any:
    """The area under the receiver operating curve: how often a row of a class outranks another.

    Pairs of equal scores count half. Of several classes each is measured against the rest.

    Args:
        scores: of an event ``[B]``, on any scale; or of classes ``[B, K]``.
        labels: 0 and 1; or class numbers.
        average: over classes, each alike or by its rows; ``None`` for one value a class.

    Returns:
        A number, or ``[K]``. A class that has no row, or all of them, is NaN and in no average.

    Raises:
        BatchError: the arrays do not go together, or a score is not finite.

    Examples:
        >>> float(auroc([0.1, 0.4, 0.4, 0.8], [0, 0, 1, 1]))
        0.875
    """
    from scipy.stats import rankdata

    def area(true: npt.NDArray[np.bool_], score: npt.NDArray[np.float64]) -> float:
        rows, positive = len(true), int(true.sum())
        below = rankdata(score)[true].sum() - positive * (positive + 1) / 2
        return float(quotient(below, positive * (rows - positive)))

    return _by_class(area, scores, labels, average)


def average_precision(
    scores: npt.ArrayLike, labels: npt.ArrayLike, *, average: _Average = "macro"
) -> Any:
    """The mean of precision over the recall gained at each threshold.

    Args:
        scores: as ``auroc``.
        labels: as ``auroc``.
        average: as ``auroc``.

    Returns:
        A number, or ``[K]``. A class that has no row is NaN and in no average.

    Raises:
        BatchError: as ``auroc``.

    Examples:
        >>> round(average_precision([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1]), 4)
        0.8333
    """
    from sklearn.metrics import average_precision_score

    def area(true: npt.NDArray[np.bool_], score: npt.NDArray[np.float64]) -> float:
        return float(average_precision_score(true, score))

    return _by_class(area, scores, labels, average)


def _by_class(
    area: Callable[[npt.NDArray[np.bool_], npt.NDArray[np.float64]], float],
    scores: npt.ArrayLike,
    labels: npt.ArrayLike,
    average: _Average,
) -> Any:
    given, true = same_rows(scores, labels, least=1)
    table = np.asarray(given, np.float64)
    event = table.ndim == 1
    classes = 2 if event else table.shape[-1]
    whole = true.ndim == 1 and true.dtype.kind in "iub"
    if table.ndim > 2 or not whole or not np.isfinite(table).all():
        raise BatchError(
            f"scores of shape {list(table.shape)}, labels {true.dtype} of {list(true.shape)}",
            expected="finite scores [B] or [B, K] and integer labels [B]",
            do="give one number of each class a row",
        )
    if not (true.min() >= 0 and true.max() < classes):
        raise BatchError(
            f"labels are from {true.min()} to {true.max()}",
            expected=f"from 0 to {classes - 1}",
            do="leave rows out that do not count",
        )
    if event:
        return area(true == 1, table) if (true == 1).any() else float("nan")
    rows = np.bincount(true.astype(np.int64), minlength=classes)
    found = np.array([area(true == k, table[:, k]) if rows[k] else np.nan for k in range(classes)])
    if average is None:
        return found
    known = ~np.isnan(found)
    weights = rows[known] if average == "weighted" else np.ones(int(known.sum()))
    return float(quotient((found[known] * weights).sum(), weights.sum()))
