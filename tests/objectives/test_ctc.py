"""CTC: the loss by enumeration, the objective's sums, error rates by a table."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import losses, metrics, models, objectives
from jaxdl.errors import BatchError, ConfigError, ObjectiveError
from jaxdl.generation.ctc import ctc_greedy

ROWS = [(), (1,), (1, 1), (2, 1), (1, 1, 1), (2, 2, 1)]


def by_enumeration(logits, row):
    log_probs = np.asarray(jax.nn.log_softmax(logits), np.float64)
    total = -np.inf
    for path in itertools.product(range(3), repeat=len(logits)):
        merged = tuple(k for k, _ in itertools.groupby(path) if k != 0)
        if merged == row:
            total = np.logaddexp(total, sum(log_probs[t, k] for t, k in enumerate(path)))
    return -total


def batch_of_rows():
    logits = np.random.default_rng(0).normal(size=(len(ROWS), 6, 3)).astype(np.float32)
    labels = np.zeros((len(ROWS), 4), np.int32)
    for place, row in enumerate(ROWS):
        labels[place, : len(row)] = row
    lengths = np.array([6, 4, 2, 5, 5, 3])
    return logits, labels, np.arange(6)[None] < lengths[:, None], lengths


def test_the_loss_is_the_sum_over_all_paths():
    logits, labels, mask, lengths = batch_of_rows()
    got = jax.jit(lambda x: losses.ctc(x, labels, logit_mask=mask))(logits)
    for row, expected in enumerate(ROWS):
        want = by_enumeration(logits[row, : lengths[row]], expected)
        assert float(got[row]) == pytest.approx(want, rel=1e-5), expected
    # Two equal labels do not fit two frames, nor three labels with a repeat three.
    assert np.isinf(got).tolist() == [False, False, True, False, False, True]


@pytest.mark.slow
def test_rows_without_an_alignment_have_no_gradient():
    logits, labels, mask, _ = batch_of_rows()

    def total(x, zero):
        values = losses.ctc(x, labels, logit_mask=mask, zero_infinity=zero)
        return jnp.sum(values), values

    for zero in (False, True):
        grads, values = jax.grad(total, has_aux=True)(logits, zero)
        assert np.isfinite(grads).all()
        assert (np.asarray(grads)[[2, 5]] == 0).all()
        assert (np.asarray(grads)[[0, 1, 3, 4]] != 0).any((1, 2)).all()
        # Nothing from frames of padding.
        assert (np.asarray(grads)[~mask] == 0).all()
        assert set(np.asarray(values)[[2, 5]]) == {0.0 if zero else np.inf}


@pytest.mark.slow
def test_padding_of_labels_may_stand_anywhere():
    logits, labels, mask, _ = batch_of_rows()
    expected = losses.ctc(logits, labels, logit_mask=mask)
    spread = np.full((len(ROWS), 9), -1, np.int32)
    spread[:, 1::2] = labels
    np.testing.assert_allclose(losses.ctc(logits, spread, logit_mask=mask), expected, rtol=1e-6)
    noisy = np.where(labels == 0, 2, labels)
    got = losses.ctc(logits, noisy, logit_mask=mask, label_mask=labels != 0)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.slow
def test_the_objective_counts_real_rows_and_frames():
    logits, labels, mask, _ = batch_of_rows()
    model = models.RNNTagger(models.RNN(hidden_dim=4, cell="gru"), 3)
    rates = {"cer": metrics.token_error_rate(ctc_greedy)}
    objective = objectives.ctc(model, metrics=rates)
    batch = {"audio": logits, "label": labels, "mask": mask.astype(np.float32)}
    params, state = objective.init(jax.random.key(0), batch)
    total, aux = objective.loss(params, state, batch, jax.random.key(1), train=True)
    found = model.apply({"params": params}, logits, mask=mask)
    values = losses.ctc(found, labels, logit_mask=mask, zero_infinity=True)
    assert float(total) == pytest.approx(float(values.sum()), rel=1e-5)
    assert float(aux.weight) == len(ROWS)
    empty = {name: np.concatenate([x, x[:2]]) for name, x in batch.items()}
    empty["mask"][-2:] = 0
    again, more = objective.loss(params, state, empty, jax.random.key(1), train=True)
    assert float(again) == pytest.approx(float(total), rel=1e-5)
    assert float(more.weight) == len(ROWS)
    assert metrics.report(more.metrics) == metrics.report(aux.metrics)


def table(a, b):
    """The distance by the whole table."""
    d = np.zeros((len(a) + 1, len(b) + 1), int)
    d[:, 0], d[0] = np.arange(len(a) + 1), np.arange(len(b) + 1)
    for i, j in itertools.product(range(1, len(a) + 1), range(1, len(b) + 1)):
        d[i, j] = min(d[i - 1, j] + 1, d[i, j - 1] + 1, d[i - 1, j - 1] + (a[i - 1] != b[j - 1]))
    return d[-1, -1]


def test_edit_distances_and_error_rates():
    rng = np.random.default_rng(0)
    found = rng.integers(0, 4, (40, 9)).astype(np.int32)
    meant = rng.integers(0, 4, (40, 7)).astype(np.int32)
    found[0], meant[1], found[2], meant[2] = 0, 0, 0, 0
    tokens = [([t for t in a if t], [t for t in b if t]) for a, b in zip(found, meant, strict=True)]
    got = jax.jit(metrics.edit_distance)(found, meant)
    np.testing.assert_array_equal(got, [table(a, b) for a, b in tokens])
    words = [tuple(split(row) for row in pair) for pair in tokens]
    mask = rng.integers(0, 2, 40)
    batch = {"label": meant, "mask": mask}
    rates = {
        "cer": metrics.token_error_rate(lambda x: x),
        "wer": metrics.word_error_rate(lambda x: x, separator=3),
    }
    values = metrics.report(jax.jit(lambda b: metrics.measure_all(rates, found, b))(batch))
    for name, pairs in (("cer", tokens), ("wer", words)):
        kept = [pair for pair, real in zip(pairs, mask, strict=True) if real]
        edits, count = sum(table(a, b) for a, b in kept), sum(len(b) for _, b in kept)
        assert values[name] == pytest.approx(edits / count)


def split(row):
    """Words between threes."""
    return [tuple(group) for real, group in itertools.groupby(row, lambda t: t != 3) if real]


def test_wrong_arguments_are_told():
    with pytest.raises(BatchError, match="ctc got"):
        losses.ctc(jnp.zeros((2, 3)), jnp.zeros((2, 3), int))
    with pytest.raises(BatchError, match="logit_mask has shape"):
        losses.ctc(jnp.zeros((2, 3, 4)), jnp.zeros((2, 3), int), logit_mask=jnp.ones((2, 2)))
    with pytest.raises(ConfigError, match="blank is 4"):
        losses.ctc(jnp.zeros((2, 3, 4)), jnp.zeros((2, 3), int), blank=4)
    with pytest.raises(BatchError, match="found float32"):
        metrics.edit_distance(jnp.zeros((2, 3)), jnp.zeros((2, 3), int))


@pytest.mark.usefixtures("untyped")
def test_a_function_is_no_module():
    with pytest.raises(ObjectiveError, match="function"):
        objectives.ctc(lambda x: x)
