"""Cross-validation for small data: which rows to train on and which to hold out.

Reads from: errors, data, evaluation.rows. Used by: recipe, and by hand.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from jaxdl.data.order import check_seed
from jaxdl.errors import ConfigError
from jaxdl.evaluation.rows import same_rows

__all__ = ["Fold", "stratified_folds"]


class Fold(NamedTuple):
    """Row numbers, rising.

    Attributes:
        train: to train on.
        held_out: to measure on.
    """

    train: npt.NDArray[np.int64]
    held_out: npt.NDArray[np.int64]


def stratified_folds(
    labels: npt.ArrayLike, count: int, *, seed: int, groups: npt.ArrayLike | None = None
) -> list[Fold]:
    """Cuts rows so that each is held out once, and each fold has every class in its share.

    Through scikit-learn's ``StratifiedKFold``, or ``StratifiedGroupKFold`` with ``groups``.

    Args:
        labels: class numbers or names ``[B]``.
        count: how many folds, at least 2.
        seed: of the shuffle, from 0 to 2**32 - 1.
        groups: what may not be cut apart, such as speakers ``[B]``; shares of classes are then
            only as even as whole groups allow.

    Returns:
        The folds. The rows of one are ``data.arrays(source.gather(fold.train))``.

    Raises:
        BatchError: the arrays differ in length.
        ConfigError: a class has fewer than ``count`` rows, there are fewer groups than that, or
            ``count`` or ``seed`` is out of range.

    Examples:
        >>> for fold in stratified_folds([0, 0, 1, 1], 2, seed=0):
        ...     print(fold.train.tolist(), fold.held_out.tolist())
        [0, 3] [1, 2]
        [1, 2] [0, 3]
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    (true, *grouped) = same_rows(labels, *(() if groups is None else (groups,)), least=1)
    _check(true, count)
    if grouped:
        _check_groups(grouped[0], count)
    if not 0 <= check_seed(seed) < 2**32:
        raise ConfigError(
            f"seed is {seed}", expected="from 0 to 2**32 - 1", do="choose a smaller one"
        )
    kind: Any = StratifiedGroupKFold if grouped else StratifiedKFold
    splitter = kind(n_splits=count, shuffle=True, random_state=seed)
    return [Fold(train, held) for train, held in splitter.split(true, true, *grouped)]


def _check(values: npt.NDArray[Any], count: int) -> None:
    if count < 2:
        raise ConfigError(f"count is {count}", expected="at least 2 folds", do="use 5 or 10")
    names, sizes = np.unique(values, return_counts=True)
    if sizes.min() < count:
        rare = names[sizes.argmin()]
        raise ConfigError(
            f"class {rare} has {sizes.min()} rows, and there are to be {count} folds",
            expected=f"at least {count} rows of each class",
            do=f"use {sizes.min()} folds, or leave rare classes out"
            if sizes.min() >= 2
            else "leave rare classes out",
        )


def _check_groups(groups: npt.NDArray[Any], count: int) -> None:
    found = len(np.unique(groups))
    if found < count:
        raise ConfigError(
            f"there are {found} groups, and there are to be {count} folds",
            expected=f"at least {count} groups",
            do=f"use {found} folds" if found >= 2 else "give no groups",
        )
