"""Masked language modelling: what is chosen, how it is hidden, what is asked, how it adds up."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdl
from jaxdl import gradients, losses, metrics
from jaxdl.errors import BatchError, ConfigError, ObjectiveError
from jaxdl.models import BERT, BERTPretraining
from jaxdl.objectives import masked_lm
from jaxdl.objectives.masking import Masking, content_keys, hide

V, HIDES, PAD, SEP = 29, 28, 0, 1
RULE = {"vocab_size": V, "mask_token": HIDES, "special": (PAD, SEP)}
RNG = np.random.default_rng(2)
LENGTHS = np.array([20, 13, 7, 1])
MASK = np.arange(20)[None] < LENGTHS[:, None]
TOKENS = np.where(MASK, RNG.integers(2, V - 1, (4, 20)), PAD).astype(np.int32)
TOKENS[:, 0] = SEP
BATCH = {"tokens": TOKENS, "mask": MASK}


class Table(nn.Module):
    """Logits of each token from what is read there alone; takes neither train nor mask."""

    @nn.compact
    def __call__(self, tokens):
        return nn.Embed(V, V)(tokens)


class Typed(nn.Module):
    """Logits from the token and its type, of all places or of some."""

    @nn.compact
    def __call__(self, tokens, *, token_types=None, positions=None):
        types = jnp.zeros_like(tokens) if token_types is None else token_types
        logits = nn.Embed(V, V)(tokens) + nn.Embed(2, V)(types)
        return jnp.take_along_axis(logits, positions[:, :, None], axis=1)


class Everywhere(nn.Module):
    """The same without a choice of places."""

    @nn.compact
    def __call__(self, tokens, *, token_types=None):
        places = jnp.broadcast_to(jnp.arange(tokens.shape[1])[None], tokens.shape)
        return Typed()(tokens, token_types=token_types, positions=places)


class Pair(nn.Module):
    """Logits of tokens, and sentence logits from the first."""

    @nn.compact
    def __call__(self, tokens):
        return nn.Embed(V, V)(tokens), nn.Embed(V, 2, name="follows")(tokens[:, 0])


@functools.cache
def compiled(objective, train):
    return jax.jit(functools.partial(objective.loss, train=train))


def loss_of(objective, params, batch, *, train=True, key=1):
    return compiled(objective, train)(params, {}, batch, jax.random.key(key))


@functools.cache
def table():
    objective = masked_lm(Table(), **RULE)
    return objective, jax.jit(objective.init)(jax.random.key(0), BATCH)[0]


def hidden_of(tokens, real, *, rule=RULE, rate=0.15, seed=0):
    keys = jax.random.split(jax.random.key(seed), len(tokens))
    masking = Masking(rule["vocab_size"], rule["mask_token"], rule["special"], rate)
    return jax.tree.map(np.asarray, jax.jit(lambda *x: hide(*x, masking))(keys, tokens, real))


def test_the_rule_over_many_tokens():
    """15 % chosen; of these 80 % hidden, 10 % random, 10 % kept; within four deviations."""
    size, vocabulary = (512, 128), 1000
    tokens = np.random.default_rng(0).integers(0, vocabulary, size).astype(np.int32)
    tokens[:, 0] = 3
    rule = {"vocab_size": vocabulary, "mask_token": 5, "special": (3, 4)}
    found = hidden_of(tokens, np.ones(size, np.int32), rule=rule)
    free = ~np.isin(tokens, [3, 4, 5])
    np.testing.assert_array_equal(found.weights.sum(1), np.round(0.15 * free.sum(1)))
    chosen = np.zeros(size, bool)
    rows = np.arange(size[0])[:, None]
    chosen[rows, found.positions] = found.weights == 1
    assert chosen.sum() == found.weights.sum()
    assert not np.any(chosen & ~free)
    np.testing.assert_array_equal(found.tokens[~chosen], tokens[~chosen])
    np.testing.assert_array_equal(found.labels, tokens[rows, found.positions])
    read, asked = found.tokens[chosen], tokens[chosen]
    count = len(read)
    random = (read != 5) & (read != asked)
    # A random token is the mask's or the old one's by chance, each once in 1,000.
    for share, expected in (
        ((read == 5).mean(), 0.8 + 0.1 / vocabulary),
        (random.mean(), 0.1 * (1 - 2 / vocabulary)),
        ((read == asked).mean(), 0.1 + 0.1 / vocabulary),
    ):
        assert abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / count)
    # Replacements and places are spread evenly.
    assert abs(read[random].mean() / (vocabulary / 2) - 1) < 4 / np.sqrt(3 * random.sum())
    by_place = chosen[:, 1:].mean(0)
    assert np.all(np.abs(by_place - 0.15) < 5 * np.sqrt(0.15 * 0.85 / size[0]))


@pytest.mark.parametrize(("rate", "expected"), [(0.15, [3, 2, 1, 0]), (1.0, [19, 12, 6, 0])])
def test_a_share_of_what_is_real_and_not_special(rate, expected):
    found = hidden_of(TOKENS, MASK.astype(np.int32), rate=rate)
    np.testing.assert_array_equal(found.weights.sum(1), expected)
    places = found.positions[found.weights == 1]
    rows = np.nonzero(found.weights)[0]
    assert np.all(MASK[rows, places])
    assert np.all(places > 0)
    assert len(set(zip(rows, places, strict=True))) == sum(expected)


@pytest.mark.slow
def test_the_loss_is_of_the_chosen_tokens_alone():
    objective, params = table()
    total, aux = loss_of(objective, params, BATCH)
    assert float(aux.weight) == 3 + 2 + 1
    logits, labels, weights = aux.outputs
    expected = losses.softmax_cross_entropy(logits, labels)
    np.testing.assert_allclose(total, jnp.sum(expected * weights), rtol=1e-6)
    # The table's row of the mask token is what the hidden ones are predicted from.
    rows = np.asarray(params["Embed_0"]["embedding"])
    hidden = [np.allclose(row, rows[HIDES]) for row in np.asarray(logits)[np.asarray(weights) == 1]]
    assert any(hidden)


def test_rows_without_a_choice_add_nothing():
    objective, params = table()
    total, aux = loss_of(objective, params, {"tokens": np.full((2, 5), SEP, np.int32)})
    assert float(total) == float(aux.weight) == 0.0


def test_training_draws_anew_and_from_the_examples_own_key():
    objective, params = table()
    keys = jax.random.split(jax.random.key(5), 4)
    whole = loss_of(objective, params, {**BATCH, "example_key": keys})[1].outputs
    other = loss_of(objective, params, {**BATCH, "example_key": keys[::-1]})[1].outputs
    assert not np.array_equal(whole[1], other[1])
    alone = {"tokens": TOKENS[1:2], "mask": MASK[1:2], "example_key": keys[1:2]}
    for got, expected in zip(
        loss_of(objective, params, alone, key=9)[1].outputs, whole, strict=True
    ):
        np.testing.assert_array_equal(got, expected[1:2])
    without = [loss_of(objective, params, BATCH, key=key)[1].outputs[1] for key in (1, 2)]
    assert not np.array_equal(*without)


@pytest.mark.slow
def test_evaluation_asks_the_same_of_a_row_wherever_it_is_read():
    objective, params = table()

    def read(batch, key=1):
        logits, labels, weights = loss_of(objective, params, batch, train=False, key=key)[1].outputs
        return [
            (np.asarray(row[w == 1]), np.asarray(label[w == 1]))
            for row, label, w in zip(logits, labels, np.asarray(weights), strict=True)
        ]

    expected = read(BATCH)
    order = [2, 0, 3, 1]
    moved = {"tokens": TOKENS[order], "mask": MASK[order]}
    longer = {
        "tokens": np.pad(TOKENS, ((0, 0), (0, 30)), constant_values=7),
        "mask": np.pad(MASK, ((0, 0), (0, 30))),
    }
    few = {"tokens": TOKENS[:2], "mask": MASK[:2]}
    for got, rows in ((read(moved, 9), order), (read(longer), range(4)), (read(few), range(2))):
        for (logits, labels), row in zip(got, rows, strict=True):
            np.testing.assert_array_equal(labels, expected[row][1])
            np.testing.assert_array_equal(logits, expected[row][0])
    # Another seed, or one token more or another, asks for something else.
    keys = [
        content_keys(jnp.asarray(tokens), jnp.asarray(MASK), seed)
        for tokens, seed in ((TOKENS, 0), (TOKENS, 1), (np.where(TOKENS == 7, 8, TOKENS), 0))
    ]
    data = [np.asarray(jax.random.key_data(each)) for each in keys]
    assert np.all(np.any(data[0] != data[1], axis=1))
    touched = np.any(TOKENS == 7, axis=1)
    assert np.any(touched)
    np.testing.assert_array_equal(np.any(data[0] != data[2], axis=1), touched)
    swapped = content_keys(jnp.asarray(TOKENS[:, ::-1]), jnp.ones_like(MASK), 0)
    assert len({tuple(row) for row in np.asarray(jax.random.key_data(swapped))}) == 4


@pytest.mark.slow
def test_places_that_the_model_computes_alone_give_the_same():
    types = (np.arange(20)[None] > LENGTHS[:, None] // 2).astype(np.int32)
    batch = {**BATCH, "token_types": types}
    first, second = masked_lm(Typed(), **RULE), masked_lm(Everywhere(), **RULE)
    params = jax.jit(second.init)(jax.random.key(0), batch)[0]
    total, aux = loss_of(first, params["Typed_0"], batch)
    other, _ = loss_of(second, params, batch)
    assert aux.outputs[0].shape == (4, 3, V)
    np.testing.assert_allclose(total, other, rtol=1e-6)
    assert not np.allclose(loss_of(first, params["Typed_0"], BATCH)[0], total, rtol=1e-5)


def test_metrics_count_the_chosen_tokens():
    objective = masked_lm(Table(), **RULE, metrics={"accuracy": metrics.accuracy()})
    _, params = table()
    _, aux = loss_of(objective, params, BATCH, train=False)
    logits, labels, weights = aux.outputs
    right = (np.argmax(logits, -1) == labels) & (weights == 1)
    sums = aux.metrics["accuracy"].sums
    assert sums.weight.dtype == sums.total.dtype == jnp.int32
    assert int(sums.weight) == 6
    assert int(sums.total) == right.sum()


def test_weights_of_tokens_are_kept():
    objective, params = table()
    total, aux = loss_of(objective, params, BATCH)
    half = {**BATCH, "mask": MASK * np.float32(0.5)}
    other, other_aux = loss_of(objective, params, half)
    np.testing.assert_allclose(other, 0.5 * total, rtol=1e-6)
    assert float(other_aux.weight) == 0.5 * float(aux.weight)


def test_next_sentence_is_added_for_each_chosen_token():
    objective = masked_lm(Pair(), **RULE, next_sentence="follows")
    batch = {**BATCH, "follows": np.array([0, 1, 1, 0])}
    params = jax.jit(objective.init)(jax.random.key(0), batch)[0]
    total, aux = loss_of(objective, params, batch)
    read = metrics.report(aux.metrics)
    words, labels, weights = aux.outputs
    masked = np.sum(losses.softmax_cross_entropy(words, labels) * weights)
    # The first token is special, so never hidden.
    follows = np.tile(params["follows"]["embedding"][SEP], (4, 1))
    values = np.asarray(losses.softmax_cross_entropy(follows, batch["follows"]))
    added = (np.array([3, 2, 1, 0]) * values).sum()
    np.testing.assert_allclose(total, masked + added, rtol=1e-6)
    np.testing.assert_allclose(read["masked_loss"], masked / 6, rtol=1e-6)
    np.testing.assert_allclose(read["next_sentence_loss"], added / 6, rtol=1e-6)
    # The last row has nothing to choose, so it counts nowhere.
    right = np.argmax(follows, -1) == batch["follows"]
    np.testing.assert_allclose(read["next_sentence_accuracy"], right[:3].mean(), rtol=1e-6)


@pytest.mark.slow
def test_microbatches_and_padding_change_no_update():
    """With dropout on: hiding and dropping are each example's own."""
    model = BERTPretraining(BERT(V, 1, 2, 8, dropout_rate=0.3))
    objective = masked_lm(model, **RULE, next_sentence="follows")
    batch = {"tokens": TOKENS, "mask": MASK.astype(np.float32), "follows": np.array([0, 1, 1, 0])}
    padded = {name: np.concatenate([x, x]) for name, x in batch.items()}
    padded["mask"][4:] = 0
    state, results = None, []
    for gradient, given in ((gradients.mean(), batch), (gradients.accumulate(4), padded)):
        step = jaxdl.make_train_step(objective, optax.sgd(1.0), gradient=gradient)
        state = state or jax.jit(step.init)(jax.random.key(0), batch)
        new, sums = jax.jit(step.update)(state, given)
        assert float(sums["loss"].weight) == 6
        results.append((new.params, sums["loss"].total))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=2e-5), results[1], results[0]
    )


@pytest.mark.slow
def test_hiding_moves_nothing_between_devices(devices):
    """The program over 8 devices adds gradients and sums, and nothing else."""
    objective = masked_lm(Table(), **RULE)
    batch = {
        "tokens": jax.ShapeDtypeStruct((16, 32), np.int32),
        "mask": jax.ShapeDtypeStruct((16, 32), np.int32),
    }
    step = jaxdl.jit(jaxdl.make_train_step(objective, optax.sgd(0.1)))
    program = step.compile(step.abstract_state(batch), batch)
    found = jaxdl.tpu.read_collectives(program.as_text())
    assert found
    assert {each.kind for each in found} == {"all-reduce"}


@pytest.mark.usefixtures("untyped")
def test_wrong_arguments_are_named():
    with pytest.raises(ObjectiveError, match="masked_lm got a function"):
        masked_lm(lambda x: x, **RULE)
    with pytest.raises(ConfigError, match=r"rate=0\.0"):
        masked_lm(Table(), **RULE, rate=0.0)
    with pytest.raises(ConfigError, match="token 29 in a vocabulary of 29"):
        masked_lm(Table(), vocab_size=V, mask_token=V)
    with pytest.raises(ConfigError, match="token -1 in"):
        masked_lm(Table(), vocab_size=V, mask_token=3, special=[-1])
    objective, params = table()
    for wrong in (TOKENS[0], TOKENS.astype(np.float32)):
        with pytest.raises(BatchError, match=r"'tokens' has shape(.|\n)*integers \[B, T\]"):
            objective.init(jax.random.key(0), {"tokens": wrong})
    with pytest.raises(BatchError, match="no field 'tokens'"):
        objective.init(jax.random.key(0), {"token": TOKENS})
    with pytest.raises(BatchError, match=r"mask has shape \[4, 19\]"):
        loss_of(objective, params, {"tokens": TOKENS, "mask": MASK[:, 1:]})
    pair = masked_lm(Pair(), **RULE)
    with pytest.raises(ObjectiveError, match=r"next_sentence is None(.|\n)*BERTMaskedLM"):
        jax.eval_shape(
            lambda: pair.loss(pair.init(jax.random.key(0), BATCH)[0], {}, BATCH, None, train=False)
        )
