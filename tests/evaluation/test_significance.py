"""Intervals and tests against closed forms, plain numpy and what statsmodels gives."""

from __future__ import annotations

import itertools
from statistics import NormalDist

import numpy as np
import pytest

from jaxdl.errors import BatchError, ConfigError
from jaxdl.evaluation import (
    bootstrap,
    class_table,
    confusion,
    mcnemar,
    paired_bootstrap,
    permutation_test,
)

NORMAL = NormalDist()


def right(only_a, only_b, both=5, neither=3):
    a = [1] * only_a + [0] * only_b + [1] * both + [0] * neither
    b = [0] * only_a + [1] * only_b + [1] * both + [0] * neither
    return np.array(a), np.array(b)


# statsmodels 0.15.0, contingency_tables.mcnemar(table, exact=..., correction=True).pvalue
@pytest.mark.parametrize(
    ("only_a", "only_b", "exact", "corrected"),
    [
        (6, 16, 0.052478790283203125, 0.055008833629265896),
        (0, 7, 0.015625, 0.02334220201289086),
        (121, 59, 4.4344492637551645e-06, 5.450094825427117e-06),
    ],
)
def test_mcnemar_is_statsmodels(only_a, only_b, exact, corrected):
    a, b = right(only_a, only_b)
    assert mcnemar(a, b) == (only_a, only_b, pytest.approx(exact, rel=1e-9))
    assert mcnemar(a, b, exact=False).p_value == pytest.approx(corrected, rel=1e-9)
    assert mcnemar(b, a).p_value == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("each", [0, 4])
def test_mcnemar_of_equals(exact, each):
    assert mcnemar(*right(each, each), exact=exact) == (each, each, 1.0)


def numpy_bca(values, statistic, draws, level):
    """Efron 1987, equations 2.3 and 6.6, written down."""
    whole = statistic(values)
    below = np.mean(draws < whole) / 2 + np.mean(draws <= whole) / 2
    bias = NORMAL.inv_cdf(below)
    left_out = np.array([statistic(np.delete(values, i)) for i in range(len(values))])
    gap = left_out.mean() - left_out
    skew = (gap**3).sum() / (6 * (gap**2).sum() ** 1.5)
    ends = []
    for side in ((1 - level) / 2, (1 + level) / 2):
        z = bias + NORMAL.inv_cdf(side)
        ends.append(np.quantile(draws, NORMAL.cdf(bias + z / (1 - skew * z))))
    return ends


@pytest.mark.parametrize(
    "statistic", [np.mean, np.var, lambda x: np.mean(x) ** 3], ids=["mean", "variance", "cube"]
)
def test_intervals_are_those_of_plain_numpy(statistic):
    values = np.random.default_rng(0).exponential(size=25)
    rows = np.random.default_rng(7).integers(0, 25, (400, 25))
    draws = np.array([statistic(values[row]) for row in rows])
    plain = bootstrap(statistic, values, seed=7, resamples=400, method="percentile", level=0.9)
    assert plain.value == statistic(values)
    np.testing.assert_allclose(plain[1:], np.quantile(draws, [0.05, 0.95]), rtol=1e-9)
    better = bootstrap(statistic, values, seed=7, resamples=400, level=0.9)
    np.testing.assert_allclose(better[1:], numpy_bca(values, statistic, draws, 0.9), rtol=1e-6)


def test_rows_of_several_arrays_are_drawn_together():
    labels = np.random.default_rng(0).integers(0, 2, 40)
    chances = np.stack([labels, 1 - labels], 1)
    found = bootstrap(lambda y, p: np.mean(p[:, 0] == y), labels, chances, seed=1, resamples=50)
    assert found == (1.0, 1.0, 1.0)


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(2)
    held = 0
    for trial in range(100):
        found = bootstrap(np.mean, rng.normal(size=40), seed=trial, resamples=199, level=0.9)
        held += found.low <= 0.0 <= found.high
    # Of 100 at 90 %: three standard deviations to either side.
    assert 81 <= held <= 99


def test_the_seed_decides():
    values = np.random.default_rng(0).normal(size=30)
    first, again, other = (bootstrap(np.mean, values, seed=s, resamples=99) for s in (1, 1, 2))
    assert first == again
    assert first != other


def test_permutation_is_exact_where_every_exchange_can_be_tried():
    rng = np.random.default_rng(3)
    a, b = rng.normal(0.4, 1, 9), rng.normal(0, 1, 9)
    signs = np.array(list(itertools.product([1, -1], repeat=9)))
    every = (signs * (a - b)).mean(1)
    expected = 2 * min(
        np.mean(every >= (a - b).mean() - 1e-12), np.mean(every <= (a - b).mean() + 1e-12)
    )
    value, p_value = permutation_test(a, b, seed=0)
    assert value == pytest.approx((a - b).mean())
    assert p_value == pytest.approx(min(1, expected), abs=1e-12)


def test_permutation_of_right_and_wrong_is_mcnemars_exact_test():
    a, b = right(7, 1, both=1, neither=1)
    assert permutation_test(a, b, seed=0, resamples=2**10)[1] == pytest.approx(
        mcnemar(a, b).p_value, rel=1e-12
    )


def draw_systems(better):
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 3, 120)
    a = np.where(rng.random(120) < (0.95 if better else 0.7), labels, rng.integers(0, 3, 120))
    b = np.where(rng.random(120) < 0.7, labels, rng.integers(0, 3, 120))
    return a, b, labels


def macro_f1(said, labels):
    return np.mean([row.f1 for row in class_table(confusion(labels, said, 3))])


@pytest.mark.parametrize("better", [True, False])
def test_any_statistic_of_two_systems(better):
    a, b, labels = draw_systems(better)
    expected = macro_f1(a, labels) - macro_f1(b, labels)
    boot = paired_bootstrap(a, b, labels, seed=0, statistic=macro_f1, resamples=199)
    value, p_value = permutation_test(a, b, labels, seed=0, statistic=macro_f1, resamples=199)
    assert boot.value == value == pytest.approx(expected)
    assert boot.low <= expected <= boot.high
    assert (boot.p_value < 0.05) == better
    assert (p_value < 0.05) == better
    assert (boot.low > 0) == better


def test_paired_bootstrap_is_plain_numpy():
    rng = np.random.default_rng(5)
    a, b = rng.normal(0.3, 1, 30), rng.normal(0, 1, 30)
    found = paired_bootstrap(a, b, seed=6, resamples=300, level=0.9)
    again = np.random.default_rng(6)
    draws = np.array([(a - b)[again.integers(0, 30, 30)].mean() for _ in range(300)])
    np.testing.assert_allclose(found[1:3], np.quantile(draws, [0.05, 0.95]), rtol=1e-9)
    gap = (a - b).mean()
    assert found.p_value == (1 + (np.abs(draws - gap) >= abs(gap)).sum()) / 301


def test_a_system_is_no_better_than_itself():
    a, _, labels = draw_systems(better=True)
    right_a = a == labels
    assert paired_bootstrap(right_a, right_a, seed=0, resamples=50) == (0.0, 0.0, 0.0, 1.0)
    assert permutation_test(right_a, right_a, seed=0, resamples=50) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap(np.mean, [1.0], seed=0), "at least 2 rows"),
        (lambda: bootstrap(np.mean, seed=0), "at least one, of equally many"),
        (lambda: bootstrap(np.mean, [1.0, 2.0], seed=0, level=1.0), "level is 1.0"),
        (lambda: bootstrap(np.mean, [1.0, 2.0], seed=-1), "seed is -1"),
        (
            lambda: bootstrap(lambda x: 1 / x.sum() if x.any() else np.nan, [0.0, 1.0], seed=0),
            "not finite for",
        ),
        (lambda: bootstrap(np.median, [0.0] * 5 + [1.0] * 2, seed=0), "method='percentile'"),
        (lambda: mcnemar([0, 2], [1, 1]), "truth values"),
        (lambda: paired_bootstrap([1.0, 2.0], [1.0], seed=0), "equally many rows"),
        (lambda: paired_bootstrap([1.0, np.nan], [1.0, 2.0], seed=0), "the difference is nan"),
        (lambda: permutation_test([[1.0], [2.0]], [1.0, 2.0], seed=0), "a number a row"),
        (lambda: permutation_test([1.0, 2.0], [1.0, 2.0], seed=0, resamples=0), "resamples is 0"),
    ],
)
def test_what_cannot_be_compared_is_said(call, message):
    with pytest.raises((BatchError, ConfigError), match=message):
        call()
