"""One small model of the shelf with its objective: what the shared tests of the shelf take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jaxdl.protocols import Objective


class Case(NamedTuple):
    """A tiny model of one family, as its recipes train it.

    Attributes:
        name: of the test.
        objective: called as ``(dtype, axis_name)``: the dtype of the computation, ``None`` for
            float32, and the mapped axis for models or losses that look over it (BatchNorm, a loss
            of pairs), ``None`` under ``jit``. Others ignore the second.
        batch: ``rows -> batch`` of numpy arrays, without a mask of rows.
        mixes_rows: the loss of a row depends on the other rows (batch statistics, contrast), so
            that microbatches are another computation.
        limit: the largest difference of a parameter after the steps, as a share of the leaf's
            largest.
    """

    name: str
    objective: Callable[[Any, str | None], Objective]
    batch: Callable[[int], dict[str, np.ndarray]]
    mixes_rows: bool = False
    limit: float = 1e-5
