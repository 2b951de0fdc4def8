"""The nearest training examples, against a full search."""

from __future__ import annotations

import numpy as np
import pytest

from jaxdl import explain
from jaxdl.errors import BatchError, ConfigError, DataError


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("size", [1, 7, 100])
def test_the_nearest_are_those_of_a_full_search(metric, size):
    rng = np.random.default_rng(0)
    there, asked = rng.normal(size=(40, 6)), rng.normal(size=(3, 6))
    there[7] = there[30]
    asked[0] = there[7]
    numbers = rng.permutation(100)[:40]
    chunks = [(numbers[i : i + size], there[i : i + size]) for i in range(0, 40, size)]
    found = explain.nearest_examples(asked, chunks, count=5, metric=metric)
    if metric == "cosine":
        unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (asked, there)]
        distance = 1 - unit[0] @ unit[1].T
    else:
        distance = np.linalg.norm(asked[:, None] - there[None], axis=2)
    # Equal distances are in the order of the numbers.
    order = np.lexsort((np.broadcast_to(numbers, distance.shape), distance.round(9)), axis=1)[:, :5]
    np.testing.assert_allclose(
        found.distances, np.take_along_axis(distance, order, axis=1), atol=1e-12
    )
    assert found.indices.tolist() == numbers[order].tolist()
    assert found.indices[0, :2].tolist() == sorted([numbers[7], numbers[30]])


def test_nearest_examples_at_the_edges():
    chunks = [([3, 1], [[0.0, 0.0], [1.0, 0.0]])]
    found = explain.nearest_examples([[0.0, 0.0]], chunks, count=9)
    assert (found.indices.tolist(), found.distances.tolist()) == ([[1, 3]], [[1.0, 1.0]])
    with pytest.raises(DataError, match="no examples"):
        explain.nearest_examples([[1.0]], [])
    with pytest.raises(BatchError, match="features of shape"):
        explain.nearest_examples([[np.nan]], chunks)
    with pytest.raises(BatchError, match=r"features of shape \[2, 2\]"):
        explain.nearest_examples([[1.0]], chunks)
    with pytest.raises(ConfigError, match="count is 0"):
        explain.nearest_examples([[1.0, 1.0]], chunks, count=0)
