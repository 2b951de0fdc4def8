"""How far judges agree beyond chance.

Reads from: errors, judging.judgements. Used by: judging.summary, and by hand.
"""

from __future__ import annotations

import itertools
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from jaxdl.errors import BatchError
from jaxdl.judging.judgements import Judgements

__all__ = [
    "Agreement",
    "Level",
    "PairOfJudges",
    "agreement",
    "cohen_kappa",
    "fleiss_kappa",
    "krippendorff_alpha",
]

Level = Literal["nominal", "ordinal", "interval"]
_LEVELS: tuple[Level, ...] = ("nominal", "ordinal", "interval")


class PairOfJudges(NamedTuple):
    """Two judges.

    Attributes:
        first: one.
        second: the other.
        questions: how many both answered.
        same: the share of these with the same answer.
        kappa: Cohen's.
    """

    first: str
    second: str
    questions: int
    same: float
    kappa: float


class Agreement(NamedTuple):
    """All judges; NaN where it is not defined.

    Attributes:
        judges: their names.
        questions: how many at least two answered.
        same: of all pairs of answers to one question, the share that is the same.
        fleiss: Fleiss's kappa over the questions that all answered.
        alpha: Krippendorff's, by level of measurement, over all questions.
        pairs: of judges with a question in common.
    """

    judges: tuple[str, ...]
    questions: int
    same: float
    fleiss: float
    alpha: dict[str, float]
    pairs: tuple[PairOfJudges, ...]


def cohen_kappa(
    a: npt.ArrayLike, b: npt.ArrayLike, *, weights: Literal["linear", "quadratic"] | None = None
) -> float:
    """Cohen's kappa of two judges.

    Source: Cohen 1960, "A coefficient of agreement for nominal scales"; with weights, of 1968.

    Args:
        a: one judge's categories ``[N]``: numbers or texts.
        b: the other's.
        weights: how a disagreement counts: by the distance of the categories' ranks, or its
            square; all alike when ``None``.

    Returns:
        1 for full agreement, 0 for that of chance; NaN when both gave only one and the same
        category, or nothing.

    Raises:
        BatchError: the arrays differ in length.

    Examples:
        >>> cohen_kappa(["yes", "yes", "no", "no"], ["yes", "no", "no", "no"])
        0.5
    """
    first, second = np.asarray(a), np.asarray(b)
    if first.ndim != 1 or first.shape != second.shape:
        raise BatchError(
            f"answers of shapes {list(first.shape)} and {list(second.shape)}",
            expected="one answer of each judge to the same questions, [N]",
            do="leave questions out that only one answered",
        )
    names, codes = np.unique(np.concatenate([first, second]), return_inverse=True)
    count, size = len(first), len(names)
    seen = np.bincount(codes[:count] * size + codes[count:], minlength=size**2)
    table = seen.reshape(size, size)
    apart = np.abs(np.subtract.outer(np.arange(size), np.arange(size)))
    cost = {None: (apart > 0).astype(int), "linear": apart, "quadratic": apart**2}[weights]
    expected = (np.outer(table.sum(1), table.sum(0)) * cost).sum()
    return _beyond(count * (table * cost).sum(), expected)


def fleiss_kappa(counts: npt.ArrayLike) -> float:
    """Fleiss's kappa of several judges.

    Source: Fleiss 1971, "Measuring nominal scale agreement among many raters".

    Args:
        counts: how many judges chose each category, ``[questions, categories]``; equally many
            judges in all rows.

    Returns:
        1 for full agreement, 0 for that of chance; NaN when only one category was ever chosen, or
        there is no question.

    Raises:
        BatchError: rows have different sums, or fewer than 2.

    Examples:
        >>> fleiss_kappa([[2, 0], [0, 2], [1, 1], [1, 1]])
        0.0
    """
    table = np.asarray(counts, np.float64)
    judges = np.unique(table.sum(1)) if table.ndim == 2 else np.zeros(0)
    if table.ndim != 2 or (len(table) and (len(judges) != 1 or judges[0] < 2)):
        raise BatchError(
            f"counts of shape {list(table.shape)} with rows of sums {judges.tolist()}",
            expected="counts [questions, categories] of the same judges, at least 2",
            do="krippendorff_alpha takes questions that some judges left out",
        )
    if not len(table):
        return float("nan")
    count = judges[0]
    same = ((table**2).sum(1) - count) / (count * (count - 1))
    share = table.sum(0) / table.sum()
    return _beyond(1 - same.mean(), 1 - (share**2).sum())


def krippendorff_alpha(ratings: npt.ArrayLike, *, level: Level = "nominal") -> float:
    """Krippendorff's alpha of any number of judges, some of whom left questions out.

    Source: Krippendorff 2011, "Computing Krippendorff's alpha-reliability".

    Args:
        ratings: numbers ``[judges, questions]``, NaN where there is none.
        level: of measurement: ``"nominal"`` numbers are names, ``"ordinal"`` ones have an order,
            ``"interval"`` ones a distance.

    Returns:
        1 for full agreement, 0 for that of chance, less for worse; NaN when only one number was
        ever given, or no question has two answers.

    Raises:
        BatchError: the ratings are not of that shape.

    Examples:
        >>> krippendorff_alpha([[1, 2, 3, 3], [1, 2, 3, np.nan]])
        1.0
    """
    table = np.asarray(ratings, np.float64)
    if table.ndim != 2:
        raise BatchError(
            f"ratings of shape {list(table.shape)}",
            expected="[judges, questions]",
            do="use NaN where a judge gave none",
        )
    values = np.unique(table[~np.isnan(table)])
    counts = (table[:, :, None] == values).sum(axis=0).astype(np.float64)
    counts = counts[counts.sum(1) >= 2]
    each = counts.sum(1, keepdims=True)
    # Pairs of answers to one question, each question weighing as much as it has answers.
    pairs = (counts / (each - 1)).T @ counts - np.diag((counts / (each - 1)).sum(0))
    totals = counts.sum(0)
    apart = _distances(values, totals, level)
    expected = (np.outer(totals, totals) * apart).sum()
    return _beyond((totals.sum() - 1) * (pairs * apart).sum(), expected)


def _distances(
    values: npt.NDArray[np.float64], totals: npt.NDArray[np.float64], level: Level
) -> npt.NDArray[np.float64]:
    if level == "nominal":
        return 1 - np.eye(len(values))
    # Ordinal: a value stands in the middle of all that were given it.
    places = values if level == "interval" else np.cumsum(totals) - totals / 2
    return np.subtract.outer(places, places) ** 2


def _beyond(observed: Any, expected: Any) -> float:
    """One less disagreement over that of chance."""
    return float(1 - observed / expected) if expected else float("nan")


def agreement(judgements: Judgements) -> Agreement:
    """How far the judges agree, over all that they were asked.

    A preference is read as it was shown: -1 for the left answer, 0 for the same, 1 for the right
    one. Sides are by chance, so a system that always wins is agreement, and no name matters. Where
    pages show a pair differently, they are turned to the first one's sides; where a judge was
    asked the same on two pages, the last answer counts.

    Args:
        judgements: from ``read_judgements``; of preferences or of ratings.

    Raises:
        BatchError: there are none, or of both kinds.
    """
    said = _table(judgements)
    judges = tuple(sorted({judge for judge, _ in said}))
    questions = sorted({question for _, question in said})
    table = np.full((len(judges), len(questions)), np.nan)
    columns = {question: column for column, question in enumerate(questions)}
    for (judge, question), number in said.items():
        table[judges.index(judge), columns[question]] = number
    table = table[:, (~np.isnan(table)).sum(0) >= 2]
    pairs = tuple(
        pair
        for (i, first), (j, second) in itertools.combinations(enumerate(judges), 2)
        if (pair := _pair(first, second, table[[i, j]])).questions
    )
    values = np.unique(table[~np.isnan(table)])
    counts = (table[:, :, None] == values).sum(axis=0)
    asked = sum(pair.questions for pair in pairs)
    return Agreement(
        judges,
        table.shape[1],
        sum(pair.same * pair.questions for pair in pairs) / asked if asked else float("nan"),
        fleiss_kappa(counts[counts.sum(1) == len(judges)]) if len(judges) > 1 else float("nan"),
        {level: krippendorff_alpha(table, level=level) for level in _LEVELS},
        pairs,
    )


def _pair(first: str, second: str, both: npt.NDArray[np.float64]) -> PairOfJudges:
    a, b = both[:, ~np.isnan(both).any(axis=0)]
    same = float(np.mean(a == b)) if len(a) else float("nan")
    return PairOfJudges(first, second, len(a), same, cohen_kappa(a, b))


def _table(judgements: Judgements) -> dict[tuple[str, tuple[str, ...]], float]:
    preferences, ratings = judgements
    if bool(preferences) == bool(ratings):
        raise BatchError(
            f"there are {len(preferences)} preferences and {len(ratings)} ratings",
            expected="one of the two",
            do="give files from pages of one kind",
        )
    said: dict[tuple[str, tuple[str, ...]], float] = {}
    sides: dict[tuple[str, frozenset[str]], tuple[str, str]] = {}
    for each in preferences:
        shown = (each.left, each.right)
        left, right = sides.setdefault((each.item, frozenset(shown)), shown)
        number = 0.0 if each.winner is None else -1.0 if each.winner == left else 1.0
        said[each.judge, (each.item, left, right)] = number
    for each in ratings:
        said[each.judge, (each.item, each.system)] = float(each.rating)
    return said
