"""Agreement against the tables of the papers, scikit-learn, statsmodels and krippendorff."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from jaxdl.errors import BatchError
from jaxdl.judging import (
    Judgements,
    Preference,
    Rating,
    agreement,
    cohen_kappa,
    fleiss_kappa,
    krippendorff_alpha,
)

NONE = math.nan

# Fleiss 1971, table 1: 10 subjects, 14 raters, 5 categories. He gives 0.210.
FLEISS = [
    [0, 0, 0, 0, 14],
    [0, 2, 6, 4, 2],
    [0, 0, 3, 5, 6],
    [0, 3, 9, 2, 0],
    [2, 2, 8, 1, 1],
    [7, 7, 0, 0, 0],
    [3, 2, 6, 3, 0],
    [2, 5, 3, 2, 2],
    [6, 5, 2, 1, 0],
    [0, 2, 2, 3, 7],
]

# Krippendorff 2011, example C: 4 observers, 12 units. He gives 0.743, 0.815 and 0.849.
KRIPPENDORFF = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, NONE, NONE, NONE],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NONE, 3],
    [NONE, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NONE],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NONE],
]


def from_table(table):
    """Two judges' answers from the counts of each pair of them."""
    rows = [(i, j) for i, row in enumerate(table) for j, n in enumerate(row) for _ in range(n)]
    return np.array(rows).T


# statsmodels 0.15.0, inter_rater.cohens_kappa(table).kappa
@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ([[20, 5], [10, 15]], 0.4),
        ([[45, 15], [25, 15]], 0.13043478260869554),
        ([[25, 35], [5, 35]], 0.25925925925925924),
    ],
)
def test_cohen_is_statsmodels(table, expected):
    assert cohen_kappa(*from_table(table)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("weights", [None, "linear", "quadratic"])
@pytest.mark.parametrize("seed", range(4))
def test_cohen_is_scikit_learns(weights, seed):
    rng = np.random.default_rng(seed)
    a = rng.integers(0, 5, 40)
    # The last category only one of them uses.
    b = np.where(rng.random(40) < 0.5, np.minimum(a, 3), rng.integers(0, 4, 40))
    expected = cohen_kappa_score(a, b, weights=weights)
    assert cohen_kappa(a, b, weights=weights) == pytest.approx(expected, abs=1e-12)
    assert cohen_kappa(b, a, weights=weights) == pytest.approx(expected, abs=1e-12)
    assert cohen_kappa(a, a, weights=weights) == 1.0


def test_fleiss_is_the_papers_table():
    # statsmodels 0.15.0, inter_rater.fleiss_kappa(table)
    assert fleiss_kappa(FLEISS) == pytest.approx(0.20993070442195522, abs=1e-12)


def test_krippendorff_is_the_papers_example():
    # krippendorff 0.9.0, alpha(data, level_of_measurement=...)
    expected = {
        "nominal": 0.743421052631579,
        "ordinal": 0.8153875037548814,
        "interval": 0.8491071428571428,
    }
    for level, value in expected.items():
        assert krippendorff_alpha(KRIPPENDORFF, level=level) == pytest.approx(value, abs=1e-12)


def test_krippendorff_of_disagreement_and_gaps():
    rng = np.random.default_rng(5)
    table = rng.integers(1, 6, (3, 20)).astype(float)
    table[0, 3] = table[1, 3] = table[2, 7] = NONE
    # krippendorff 0.9.0
    expected = {
        "nominal": -0.12831858407079633,
        "ordinal": -0.25534654552511693,
        "interval": -0.2501732501732501,
    }
    for level, value in expected.items():
        assert krippendorff_alpha(table, level=level) == pytest.approx(value, abs=1e-12)


def test_alpha_keeps_its_laws():
    rng = np.random.default_rng(0)
    table = rng.integers(0, 4, (3, 15)).astype(float)
    alpha = {
        level: krippendorff_alpha(table, level=level)
        for level in ("nominal", "ordinal", "interval")
    }
    other = np.array([2.0, 9.0, 10.0, 40.0])[table.astype(int)]
    assert krippendorff_alpha(other, level="nominal") == pytest.approx(alpha["nominal"])
    assert krippendorff_alpha(other, level="ordinal") == pytest.approx(alpha["ordinal"])
    assert krippendorff_alpha(3 * table - 7, level="interval") == pytest.approx(alpha["interval"])
    assert krippendorff_alpha(table[::-1, ::-1]) == pytest.approx(alpha["nominal"])
    alone = np.concatenate([table, [[9.0], [NONE], [NONE]]], axis=1)
    assert krippendorff_alpha(alone) == pytest.approx(alpha["nominal"])


@pytest.mark.parametrize(
    "value",
    [
        cohen_kappa(["a", "a"], ["a", "a"]),
        cohen_kappa([], []),
        fleiss_kappa([[3, 0], [3, 0]]),
        fleiss_kappa(np.zeros((0, 2))),
        krippendorff_alpha([[1, 1], [1, 1]]),
        krippendorff_alpha([[1, NONE], [NONE, 2]]),
    ],
)
def test_what_is_not_defined_is_nan(value):
    assert math.isnan(value)


def preference(judge, item, first_is_better, *, swapped=False):
    if first_is_better is None:
        return Preference(judge, item, "x", "y", "same")
    left, right = ("y", "x") if swapped else ("x", "y")
    return Preference(
        judge, item, left, right, "left" if (left == "x") == first_is_better else "right"
    )


def test_pages_of_other_sides_are_turned():
    said = [(True, True), (True, True), (False, False), (None, None), (True, False)]
    preferences = [
        each
        for item, (one, two) in enumerate(said)
        for each in (
            preference("ann", str(item), one),
            preference("bob", str(item), two, swapped=item % 2 == 0),
        )
    ]
    found = agreement(Judgements((*preferences, preference("cem", "9", True)), ()))
    assert found.judges == ("ann", "bob", "cem")
    assert found.questions == 5
    assert found.same == 0.8
    assert [(pair.first, pair.second, pair.questions) for pair in found.pairs] == [
        ("ann", "bob", 5)
    ]
    a, b = [-1, -1, 1, 0, -1], [-1, -1, 1, 0, 1]
    assert found.pairs[0].kappa == pytest.approx(cohen_kappa_score(a, b))
    assert found.alpha["nominal"] == pytest.approx(krippendorff_alpha([a, b]))
    # Nothing was answered by all three.
    assert math.isnan(found.fleiss)


def test_agreement_is_that_of_what_was_shown_and_sees_no_name():
    rng = np.random.default_rng(2)
    table = rng.integers(-1, 2, (2, 30))
    words = {-1: "left", 0: "same", 1: "right"}

    def found(names):
        shown = [tuple(names[i] for i in rng.permutation(3)[:2]) for _ in range(30)]
        return agreement(
            Judgements(
                tuple(
                    Preference(f"judge {j}", f"item {i}", *shown[i], words[int(value)])
                    for (j, i), value in np.ndenumerate(table)
                ),
                (),
            )
        )

    first, second = found(["a", "b", "c"]), found(["z", "y", "x"])
    assert first == second
    assert first.pairs[0].kappa == pytest.approx(cohen_kappa_score(*table), abs=1e-12)


def test_agreement_of_ratings_is_that_of_their_table():
    table = np.random.default_rng(1).integers(1, 6, (3, 8))
    ratings = tuple(
        Rating(f"judge {j}", f"item {i}", "x", int(value))
        for (j, i), value in np.ndenumerate(table)
    )
    found = agreement(Judgements((), ratings))
    for level, alpha in found.alpha.items():
        assert alpha == pytest.approx(krippendorff_alpha(table, level=level))
    counts = (table[:, :, None] == np.arange(1, 6)).sum(0)
    assert found.fleiss == pytest.approx(fleiss_kappa(counts))
    assert len(found.pairs) == 3


def test_one_judge_agrees_with_nobody():
    found = agreement(Judgements((preference("ann", "1", True),), ()))
    assert (found.questions, found.pairs) == (0, ())
    assert all(math.isnan(v) for v in (found.same, found.fleiss, *found.alpha.values()))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cohen_kappa([1, 2], [1]), r"shapes \[2\] and \[1\]"),
        (lambda: fleiss_kappa([[2, 0], [1, 0]]), r"rows of sums \[1.0, 2.0\]"),
        (lambda: fleiss_kappa([[1, 0], [0, 1]]), "at least 2"),
        (lambda: krippendorff_alpha([1, 2]), r"shape \[2\]"),
        (lambda: agreement(Judgements((), ())), "0 preferences and 0 ratings"),
    ],
)
def test_what_cannot_be_compared_is_said(call, message):
    with pytest.raises(BatchError, match=message):
        call()
