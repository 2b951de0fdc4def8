"""Intervals and strengths against closed forms, scipy, statsmodels, scikit-learn and choix."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import optimize, stats

from jaxdl.errors import BatchError, ConfigError
from jaxdl.judging import (
    Judgements,
    Preference,
    Rating,
    bradley_terry,
    mean_ratings,
    ranking,
    side_rate,
    summarize,
    wilson_interval,
    win_rates,
)

WINS = np.array([[0, 3, 5, 2], [4, 0, 6, 1], [2, 3, 0, 5], [3, 7, 2, 0]])


@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
@pytest.mark.parametrize(
    ("count", "total"), [(0.0, 5.0), (5.0, 5.0), (7.0, 10.0), (250.0, 1000.0), (1.0, 2.0)]
)
def test_wilson_is_scipys(count, total, level):
    expected = stats.binomtest(int(count), int(total)).proportion_ci(level, method="wilson")
    got = wilson_interval(count, total, level=level)
    np.testing.assert_allclose(got, (expected.low, expected.high), atol=1e-9)


def test_wilson_of_halves_is_statsmodels():
    # statsmodels 0.15.0, proportion.proportion_confint(6.5, 10, 0.1, method="wilson")
    expected = (0.39565244433955, 0.8404649646354279)
    np.testing.assert_allclose(wilson_interval(6.5, 10.0, level=0.9), expected, atol=1e-9)


def test_bradley_terry_is_choix():
    # choix 0.4.1, mm_pairwise and ilsr_pairwise
    expected = [0.05482242, -0.13503944, -0.21180515, 0.29202217]
    np.testing.assert_allclose(bradley_terry(WINS), expected, atol=1e-8)


def test_bradley_terry_is_the_maximum_of_the_likelihood():
    def loss(strength):
        gap = strength[:, None] - strength
        return (WINS * np.logaddexp(0, -gap)).sum()

    found = optimize.minimize(loss, np.zeros(4), tol=1e-12).x
    np.testing.assert_allclose(bradley_terry(WINS), found - found.mean(), atol=1e-5)


def test_bradley_terry_keeps_its_laws():
    order = [2, 0, 3, 1]
    whole = bradley_terry(WINS)
    np.testing.assert_allclose(bradley_terry(WINS[np.ix_(order, order)]), whole[order], atol=1e-8)
    np.testing.assert_allclose(bradley_terry(10 * WINS), whole, atol=1e-8)
    np.testing.assert_allclose(bradley_terry(WINS.T), -whole, atol=1e-8)
    many = bradley_terry(np.stack([WINS, WINS.T]))
    np.testing.assert_allclose(many, [whole, -whole], atol=1e-8)
    two = bradley_terry([[0, 9], [2, 0]])
    assert two[0] - two[1] == pytest.approx(math.log(9 / 2))


def test_a_prior_draws_together_and_holds_who_never_lost():
    with pytest.raises(ConfigError, match="prior=0.1"):
        bradley_terry([[0, 5], [0, 0]])
    weak, strong = (bradley_terry([[0, 5], [0, 0]], prior=p)[0] for p in (0.1, 1.0))
    assert weak == pytest.approx(math.log(5.1 / 0.1) / 2)
    assert strong == pytest.approx(math.log(6 / 1) / 2)


def said(strengths, items, seed, judges=1):
    rng = np.random.default_rng(seed)
    names = sorted(strengths)
    found = []
    for item, (a, b), judge in itertools.product(
        range(items), itertools.combinations(names, 2), range(judges)
    ):
        left, right = (a, b) if rng.random() < 0.5 else (b, a)
        chance = 1 / (1 + math.exp(strengths[right] - strengths[left]))
        answer = "same" if rng.random() < 0.1 else "left" if rng.random() < chance else "right"
        found.append(Preference(f"j{judge}", str(item), left, right, answer))
    return found


STRENGTHS = {"best": 1.0, "good": 0.0, "poor": -1.0}


def test_ranking_finds_the_strengths_that_the_answers_came_from():
    found = ranking(said(STRENGTHS, 200, seed=0), seed=0, resamples=200)
    assert [row.system for row in found] == ["best", "good", "poor"]
    for row in found:
        assert row.low < row.value < row.high
        assert row.value == pytest.approx(STRENGTHS[row.system], abs=0.25)
    # Farther apart than they are unsure.
    assert found[0].low > found[1].high
    assert found == ranking(said(STRENGTHS, 200, seed=0), seed=0, resamples=200)
    assert found != ranking(said(STRENGTHS, 200, seed=0), seed=1, resamples=200)


def test_judges_who_copy_each_other_make_nothing_surer():
    alone = said(STRENGTHS, 40, seed=1)
    copied = [each._replace(judge=name) for each in alone for name in ("a", "b", "c", "d")]
    once, often = (ranking(x, seed=0, resamples=300, prior=0.0) for x in (alone, copied))
    np.testing.assert_allclose([r[1:] for r in once], [r[1:] for r in often], atol=1e-6)
    # Wilson's interval does not know.
    assert np.diff(win_rates(alone)[0][-2:]) > 1.5 * np.diff(win_rates(copied)[0][-2:])


def test_win_rates_are_counted():
    preferences = [
        Preference("j", "1", "x", "y", "left"),
        Preference("j", "2", "y", "x", "right"),
        Preference("j", "3", "y", "x", "left"),
        Preference("j", "4", "x", "y", "same"),
        Preference("j", "4", "x", "z", "left"),
    ]
    x, y, z = win_rates(preferences)
    assert x[:5] == ("x", 3, 1, 1, 0.7)
    assert y[:5] == ("y", 1, 1, 2, 0.375)
    assert z[:5] == ("z", 0, 0, 1, 0.0)
    assert x[5:] == wilson_interval(3.5, 5.0)
    assert side_rate(preferences) == ("left", 0.75, *wilson_interval(3.0, 4.0))
    assert side_rate(preferences[3:4]) is None


def test_mean_ratings_and_their_intervals():
    rng = np.random.default_rng(0)
    ratings = [
        Rating("j", str(item), name, int(np.clip(round(rng.normal(mean, 1)), 1, 5)))
        for item in range(60)
        for name, mean in (("x", 2.0), ("y", 4.0))
    ]
    # Rated of one item only: most draws say nothing of it.
    ratings.append(Rating("j", "0", "z", 1))
    found = mean_ratings(ratings, seed=0, resamples=400)
    assert [row.system for row in found] == ["y", "x", "z"]
    assert found[2] == ("z", 1.0, 1.0, 1.0)
    values = np.array([r.rating for r in ratings if r.system == "x"])
    half = 1.96 * values.std() / math.sqrt(60)
    assert found[1].value == pytest.approx(values.mean())
    assert found[1].low == pytest.approx(values.mean() - half, abs=0.08)
    assert found[1].high == pytest.approx(values.mean() + half, abs=0.08)


def test_the_summary_is_json():
    import json

    pairs = summarize(Judgements(tuple(said(STRENGTHS, 5, seed=3, judges=2)), ()), resamples=50)
    assert json.loads(json.dumps(pairs, allow_nan=False)) == pairs
    assert pairs["judgements"] == 30
    assert [row["system"] for row in pairs["win_rates"]]
    alone = summarize(Judgements((), (Rating("j", "1", "x", 3),)), resamples=5)
    assert alone["mean_ratings"] == [{"system": "x", "value": 3.0, "low": 3.0, "high": 3.0}]
    assert alone["agreement"]["fleiss"] is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: wilson_interval(3.0, 2.0), "3.0 of 2.0"),
        (lambda: wilson_interval(0.0, 0.0), "0.0 of 0.0"),
        (lambda: bradley_terry([[0, 1, 1], [1, 0, 1]]), r"shape \[2, 3\]"),
        (lambda: bradley_terry([[1, 1], [1, 0]]), "zeros on the diagonal"),
        (lambda: bradley_terry([[0, -1], [1, 0]]), "none below 0"),
        (lambda: bradley_terry(WINS, prior=-1), "prior is -1"),
        (
            lambda: bradley_terry([[0, 1e6, 0, 0], [1, 0, 1e6, 0], [0, 1, 0, 1e6], [0, 0, 1, 0]]),
            "still move",
        ),
        (lambda: win_rates([]), "no judgements"),
        (lambda: ranking([], seed=0), "no judgements"),
        (lambda: mean_ratings([Rating("j", "1", "x", 3)], seed=0, level=0.0), "level 0.0"),
    ],
)
def test_what_cannot_be_ranked_is_said(call, message):
    with pytest.raises((BatchError, ConfigError), match=message):
        call()
