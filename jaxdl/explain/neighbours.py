"""The training examples nearest to others, by the features that a model gives them.

Reads from: errors. Used by: cli, and by hand.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from jaxdl.errors import BatchError, ConfigError, DataError, closest

__all__ = ["Nearest", "nearest_examples"]

_METRICS = ("cosine", "euclidean")


class Nearest(NamedTuple):
    """The nearest examples of each query, nearest first.

    Attributes:
        indices: ``[Q, count]``, as the chunks number them.
        distances: ``[Q, count]``, float64; of cosine from 0 to 2.
    """

    indices: npt.NDArray[np.int64]
    distances: npt.NDArray[np.float64]


def nearest_examples(
    queries: npt.ArrayLike,
    chunks: Iterable[tuple[npt.ArrayLike, npt.ArrayLike]],
    *,
    count: int = 5,
    metric: Literal["cosine", "euclidean"] = "cosine",
) -> Nearest:
    """The examples whose features are nearest to those of the queries.

    Exact: every distance is computed, in float64 on the host. One chunk is held at a time. Of equal
    distances the smaller index comes first, however the examples are cut.

    Source: Papernot and McDaniel 2018, "Deep k-nearest neighbors", arXiv:1803.04765, section 3.

    Args:
        queries: features ``[Q, D]``, such as what a classifier's last layer reads.
        chunks: ``(index [b], features [b, D])``, each example once.
        count: how many; all there are where that is less.
        metric: ``"cosine"`` (1 less the cosine; 1 for a feature that is all 0) or ``"euclidean"``.

    Returns:
        See ``Nearest``.

    Raises:
        BatchError: features are no ``[b, D]``, not finite, or of different lengths.
        ConfigError: ``count`` is below 1, or there is no such metric.
        DataError: there are no examples.

    Examples:
        >>> chunks = [([0, 1], [[0.0, 1.0], [3.0, 0.1]]), ([2], [[1.0, 1.0]])]
        >>> nearest_examples([[2.0, 0.0]], chunks, count=2).indices.tolist()
        [[1, 2]]
    """
    if count < 1 or metric not in _METRICS:
        raise ConfigError(
            f"count is {count}, metric is {metric!r}",
            expected=f"at least 1, and one of {', '.join(_METRICS)}",
            do=closest(str(metric), _METRICS) if metric not in _METRICS else "use count=5",
        )
    from scipy.spatial.distance import cdist

    asked = _features(queries, None)
    best: Nearest | None = None
    for index, features in chunks:
        numbers = np.asarray(index, np.int64).reshape(-1)
        there = _features(features, asked.shape[1])
        if len(numbers) != len(there):
            raise BatchError(
                f"{len(numbers)} numbers for {len(there)} features",
                expected="one number an example",
                do="leave padding out of both",
            )
        distance = cdist(asked, there, metric)
        if metric == "cosine":
            none = np.logical_or.outer((asked == 0).all(axis=1), (there == 0).all(axis=1))
            distance = np.where(none, 1.0, np.clip(distance, 0.0, 2.0))
        best = _kept(best, np.broadcast_to(numbers, distance.shape), distance, count)
    if best is None:
        raise DataError(
            "there are no examples to be near to", expected="at least one", do="check the source"
        )
    return best


def _kept(best: Nearest | None, index: Any, distance: Any, count: int) -> Nearest:
    if best is not None:
        index = np.concatenate([best.indices, index], axis=1)
        distance = np.concatenate([best.distances, distance], axis=1)
    order = np.lexsort((index, distance), axis=1)[:, :count]
    return Nearest(
        np.take_along_axis(index, order, axis=1), np.take_along_axis(distance, order, axis=1)
    )


def _features(values: Any, width: int | None) -> npt.NDArray[np.float64]:
    found = np.asarray(values, np.float64)
    if found.ndim != 2 or width not in (None, found.shape[1]) or not np.isfinite(found).all():
        raise BatchError(
            f"features of shape {list(found.shape)}, finite: {bool(np.isfinite(found).all())}",
            expected=f"finite numbers [b, {width or 'D'}]",
            do="give one row of features an example",
        )
    return found
