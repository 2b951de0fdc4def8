"""Tests of significance equal statsmodels', in the cases where nothing differs too."""

from __future__ import annotations

import numpy as np
import pytest

from jaxdl import evaluation

pytestmark = pytest.mark.slow
tables = pytest.importorskip("statsmodels.stats.contingency_tables")
multitest = pytest.importorskip("statsmodels.stats.multitest")


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("exact", [True, False])
def test_mcnemar(seed, exact):
    rng = np.random.default_rng(seed)
    rows = int(rng.integers(1, 400))
    a, b = rng.random(rows) < rng.random(), rng.random(rows) < rng.random()
    found = evaluation.mcnemar(a, b, exact=exact)
    table = [[(a & b).sum(), (a & ~b).sum()], [(~a & b).sum(), (~a & ~b).sum()]]
    assert (found.only_a, found.only_b) == (table[0][1], table[1][0])
    if found.only_a == found.only_b:
        # statsmodels corrects -1 there, and so gives a p below 1; R and jaxdl do not.
        assert found.p_value == 1.0
        return
    expected = tables.mcnemar(table, exact=exact, correction=True).pvalue
    assert found.p_value == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_holm(seed):
    rng = np.random.default_rng(seed)
    p_values = np.round(rng.random(int(rng.integers(1, 30))) ** 3, 2)
    expected = multitest.multipletests(p_values, method="holm")[1]
    np.testing.assert_allclose(evaluation.holm(p_values), expected, atol=1e-12)
