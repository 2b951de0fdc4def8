"""The seq2seq objective against the definition, one token at a time."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import metrics
from jaxdl.errors import BatchError, ObjectiveError
from jaxdl.metrics import report
from jaxdl.objectives.seq2seq import seq2seq

V, START, END = 7, 1, 2
RNG = np.random.default_rng(0)
SOURCE, TARGET = RNG.integers(3, V, (3, 5)), RNG.integers(3, V, (3, 4))
LENGTHS = np.array([4, 2, 0])
TARGET_MASK = (np.arange(4)[None] < LENGTHS[:, None]).astype(np.int32)
SOURCE_MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]])


class Reader(nn.Module):
    """Logits by the token that is read and the number of source tokens that are seen."""

    @nn.compact
    def __call__(self, source, *, target, source_mask=None, train: bool = False):
        table = self.param("table", nn.initializers.normal(1.0), (V, V))
        seen = jnp.ones(source.shape) if source_mask is None else source_mask
        return table[target] * (1.0 + jnp.sum(seen, 1))[:, None, None]


def measured(objective, batch):
    params, state = objective.init(jax.random.key(0), batch)
    total, aux = objective.loss(params, state, batch, jax.random.key(1), train=True)
    return np.asarray(params["table"], np.float64), float(total), aux


def expected(table, rows, *, smoothing, seen, end):
    """The sum over rows of ``(target tokens, weight)``."""
    total, weight = 0.0, 0.0
    for row, (tokens, count) in enumerate(rows):
        asked = [*tokens, END] if end else list(tokens)
        for read, target in zip([START, *asked], asked, strict=False):
            logits = table[read] * (1.0 + seen[row])
            each = np.log(np.exp(logits).sum()) - logits
            total += count * ((1 - smoothing) * each[target] + smoothing * each.mean())
            weight += count
    return total, weight


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("end", [False, True])
def test_loss_is_that_of_the_tokens(end, smoothing):
    objective = seq2seq(
        Reader(),
        start_token=START,
        end_token=END if end else None,
        label_smoothing=smoothing,
        metrics={"accuracy": metrics.accuracy()},
    )
    batch = {
        "source": SOURCE,
        "target": TARGET,
        "source_mask": SOURCE_MASK,
        "target_mask": TARGET_MASK,
    }
    table, total, aux = measured(objective, batch)
    rows = [(row[:length], 1.0) for row, length in zip(TARGET, LENGTHS, strict=True)]
    options = {"smoothing": smoothing, "seen": SOURCE_MASK.sum(1), "end": end}
    value, weight = expected(table, rows, **options)
    np.testing.assert_allclose(total, value, rtol=1e-5)
    assert float(aux.weight) == weight == LENGTHS.sum() + 3 * end
    assert 0 <= report(aux.metrics)["accuracy"] <= 1
    # The rows' own mask takes rows out.
    table, total, aux = measured(objective, {**batch, "mask": np.array([1.0, 0.0, 1.0])})
    rows[1] = (rows[1][0], 0.0)
    value, weight = expected(table, rows, **options)
    np.testing.assert_allclose(total, value, rtol=1e-5)
    assert float(aux.weight) == weight


def test_without_masks_all_tokens_count_and_fields_have_names():
    objective = seq2seq(Reader(), start_token=START, label_smoothing=0.0, source="en", target="de")
    table, total, aux = measured(objective, {"en": SOURCE, "de": TARGET})
    rows = [(row, 1.0) for row in TARGET]
    value, weight = expected(table, rows, smoothing=0.0, seen=[5, 5, 5], end=False)
    np.testing.assert_allclose(total, value, rtol=1e-5)
    assert float(aux.weight) == weight


def test_what_is_padding_does_not_matter():
    objective = seq2seq(Reader(), start_token=START, end_token=END)
    batch = {"source": SOURCE, "target": TARGET, "target_mask": TARGET_MASK}
    other = np.where(TARGET_MASK, TARGET, (TARGET + 1) % V)
    first, second = (measured(objective, {**batch, "target": t})[1] for t in (TARGET, other))
    np.testing.assert_allclose(first, second, rtol=1e-6)


def test_wrong_batches_and_models_are_named():
    objective = seq2seq(Reader(), start_token=START)
    batch = {"source": SOURCE, "target": TARGET}
    for wrong, message in (
        ({"source": SOURCE}, "no field 'target'"),
        ({**batch, "target": TARGET.astype(np.float32)}, "dtype float32"),
        ({**batch, "target": TARGET[:2]}, "'source' has 3 rows, 'target' 2"),
        ({**batch, "target_mask": SOURCE_MASK}, r"'target_mask' has shape \[3, 5\]"),
        ({**batch, "mask": np.ones(2)}, "mask has shape"),
    ):
        with pytest.raises(BatchError, match=message):
            measured(objective, wrong)
    with pytest.raises(ObjectiveError, match="call of Dense takes no 'target'"):
        seq2seq(nn.Dense(3), start_token=0)
