"""``jaxdl evaluate RUN_A RUN_B``: trained runs against each other on the same examples.

Reads from: errors, evaluation, cli.rows, cli.tables. Used by: cli.measuring.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from jaxdl import evaluation
from jaxdl.cli.rows import LABEL, Restored, Rows
from jaxdl.cli.tables import table
from jaxdl.errors import BatchError, ConfigError
from jaxdl.evaluation import Comparison

__all__ = ["Pair", "as_data", "compared", "in_words", "show"]


class Pair(NamedTuple):
    """Two runs on the same examples.

    Attributes:
        a: the name of the first.
        b: the name of the second.
        figure: ``"accuracy"`` or ``"loss"``.
        rows: how many examples count.
        found: the figures and the tests.
        corrected: the p-value of the permutation test, by Holm's correction over all pairs.
    """

    a: str
    b: str
    figure: str
    rows: int
    found: Comparison
    corrected: float


def compared(
    runs: Sequence[tuple[Restored, Rows]], *, seed: int, level: float, resamples: int
) -> list[Pair]:
    """Compares every two runs: by accuracy where all are classifiers, else by loss.

    Args:
        runs: at least two, each with its rows of one split.
        seed: of the draws.
        level: of the intervals.
        resamples: how many times to draw.

    Raises:
        BatchError: they did not see the same examples.
        ConfigError: the rows of one have no loss of their own.
    """
    names = _names([run for run, _ in runs])
    for name, (_, rows) in zip(names, runs, strict=True):
        _check_same(names[0], runs[0][1], name, rows)
    figure = "accuracy" if all(rows.right is not None for _, rows in runs) else "loss"
    columns = [_column(name, figure, rows) for name, (_, rows) in zip(names, runs, strict=True)]
    weight = runs[0][1].weight
    pairs = list(itertools.combinations(range(len(runs)), 2))
    found = [
        evaluation.compare(
            columns[i], columns[j], weight, seed=seed, level=level, resamples=resamples
        )
        for i, j in pairs
    ]
    corrected = evaluation.holm([each.permutation for each in found])
    return [
        Pair(names[i], names[j], figure, len(weight), each, float(p_value))
        for (i, j), each, p_value in zip(pairs, found, corrected, strict=True)
    ]


def show(pairs: Sequence[Pair], split: str, level: float) -> None:
    """Prints the comparisons, then each in words.

    Args:
        pairs: from ``compared``.
        split: what they were measured on.
        level: of the intervals.
    """
    first = pairs[0]
    sure = f"{100 * level:g} % interval"
    alone = {pair.a: pair.found.a for pair in pairs} | {pair.b: pair.found.b for pair in pairs}
    print(f"\n{first.figure} on {first.rows:,} examples of {split}")
    table([[name, f"{x.value:.4f}", _ends(x)] for name, x in alone.items()], ["", "", sure])
    several = len(pairs) > 1
    header = ["", "difference", sure, "p: McNemar", "bootstrap", "permutation"]
    table(
        [
            [
                f"{pair.a} - {pair.b}",
                f"{pair.found.difference.value:+.4f}",
                _ends(pair.found.difference),
                "" if pair.found.mcnemar is None else _p(pair.found.mcnemar.p_value),
                _p(pair.found.difference.p_value),
                _p(pair.found.permutation),
                *([_p(pair.corrected)] if several else []),
            ]
            for pair in pairs
        ],
        [*header, *(["Holm"] if several else [])],
    )
    for pair in pairs:
        print(in_words(pair, level))


def in_words(pair: Pair, level: float) -> str:
    """The comparison as a sentence.

    Args:
        pair: of two runs.
        level: of the interval; what is left of it is the p-value below which a difference counts.
    """
    gap = pair.found.difference
    better = (gap.value > 0) == (pair.figure == "accuracy")
    first, second = (pair.a, pair.b) if better else (pair.b, pair.a)
    threshold = 1 - level
    told = f"p = {_p(pair.corrected)} by permutation" + (
        ", corrected by Holm" if pair.corrected != pair.found.permutation else ""
    )
    if gap.value == 0:
        return f"{pair.a} and {pair.b} have the same {pair.figure} on these {pair.rows:,} examples."
    if pair.figure == "accuracy":
        size = f"{100 * abs(gap.value):.2f} percentage points more of {pair.rows:,} examples right"
    else:
        size = f"a loss lower by {abs(gap.value):.4f} over {pair.rows:,} examples"
    if pair.corrected <= threshold:
        end = f"so large a difference is unlikely by chance ({told})."
    else:
        end = f"chance alone often gives as much ({told}): these rows do not tell them apart."
    return f"{first} has {size} than {second}; {end}"


def as_data(pairs: Sequence[Pair], split: str, level: float) -> dict[str, Any]:
    """The comparisons for JSON.

    Args:
        pairs: from ``compared``.
        split: what they were measured on.
        level: of the intervals.
    """
    return {
        "split": split,
        "level": level,
        "figure": pairs[0].figure,
        "rows": pairs[0].rows,
        "pairs": [
            {
                "a": {"run": pair.a, **pair.found.a._asdict()},
                "b": {"run": pair.b, **pair.found.b._asdict()},
                "difference": pair.found.difference._asdict(),
                "permutation_p_value": pair.found.permutation,
                "holm_p_value": pair.corrected,
                "mcnemar": pair.found.mcnemar and pair.found.mcnemar._asdict(),
                "words": in_words(pair, level),
            }
            for pair in pairs
        ],
    }


def _ends(interval: Any) -> str:
    return f"{interval.low:.4f} .. {interval.high:.4f}"


def _p(value: float) -> str:
    return f"{value:.4f}" if value >= 1e-4 else f"{value:.1e}"


def _names(runs: Sequence[Restored]) -> list[str]:
    """The folders' last parts, where they differ; else as they were given."""
    short = [run.folder.resolve().name for run in runs]
    if len(set(short)) == len(short):
        return short
    full = [str(run.folder) for run in runs]
    if len(set(full)) == len(full):
        return full
    raise ConfigError(
        f"one run is named twice: {', '.join(full)}",
        expected="runs that differ",
        do="give each folder once",
    )


def _check_same(name_a: str, a: Rows, name_b: str, b: Rows) -> None:
    """The labels row by row; where there are none, every field that was kept."""
    names = [LABEL] if LABEL in a.fields and LABEL in b.fields else sorted({*a.fields, *b.fields})
    weights = (a.weight, b.weight)
    for name in names:
        values = (a.fields.get(name), b.fields.get(name))
        if not _equal(*values):
            raise BatchError(
                f"{name_a} and {name_b} differ in the field {name!r} of their "
                f"{len(a.weight)} and {len(b.weight)} rows{_where(*values)}",
                expected="the same examples in the same order",
                do="compare runs whose recipes read the same split of the same data",
            )
    if not _equal(*weights):
        raise BatchError(
            f"{name_a} and {name_b} weigh their rows differently{_where(*weights)}",
            expected="the same mask and the same tokens",
            do="compare runs whose objectives count the same things",
        )


def _equal(a: Any, b: Any) -> bool:
    if a is None or b is None or a.shape != b.shape:
        return False
    inexact = a.dtype.kind in "fc" and b.dtype.kind in "fc"
    return np.array_equal(a, b, equal_nan=inexact)


def _where(a: Any, b: Any) -> str:
    if a is None or b is None or a.shape != b.shape:
        return ""
    rows = np.flatnonzero((a != b).reshape(len(a), -1).any(axis=1))
    return f", first in row {rows[0]}" if rows.size else ""


def _column(name: str, figure: str, rows: Rows) -> npt.NDArray[Any]:
    if figure not in rows.figures:
        raise ConfigError(
            f"the rows of {name} have no {figure} of their own",
            expected="an objective whose loss is a sum over rows",
            do="compare the scores that jaxdl evaluate RUN gives, each by itself",
        )
    return rows.figures[figure]
