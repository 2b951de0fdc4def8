"""Arrays of the same rows, checked.

Reads from: errors. Used by: evaluation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from jaxdl.errors import BatchError, ConfigError

__all__ = ["check_level", "same_rows"]


def same_rows(*arrays: npt.ArrayLike, least: int = 0) -> list[npt.NDArray[Any]]:
    """The arrays on the host, when they have equally many rows.

    Args:
        *arrays: each ``[B, ...]``.
        least: how many rows there must be.

    Raises:
        BatchError: there are none, one is a scalar, they differ in length, or have too few rows.
    """
    found = [np.asarray(array) for array in arrays]
    shapes = ", ".join(str(list(array.shape)) for array in found)
    lengths = {array.shape[:1] for array in found}
    if len(lengths) != 1 or () in lengths:
        raise BatchError(
            f"arrays of shapes {shapes}",
            expected="at least one, of equally many rows",
            do="give the figures of the same examples, in the same order",
        )
    if len(found[0]) < least:
        raise BatchError(
            f"arrays of shapes {shapes}",
            expected=f"at least {least} rows",
            do="measure more examples",
        )
    return found


def check_level(level: float, resamples: int) -> None:
    """Checks how sure an interval shall be.

    Args:
        level: between 0 and 1.
        resamples: at least 1.

    Raises:
        ConfigError: one is not.
    """
    if not 0 < level < 1 or resamples < 1:
        raise ConfigError(
            f"level is {level}, resamples is {resamples}",
            expected="a level between 0 and 1, and at least one resample",
            do="use level=0.95, resamples=2_000",
        )
