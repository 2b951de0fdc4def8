"""Next-token prediction: what is read, what is asked, what counts, and how it adds up."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdl
from jaxdl import data, gradients, losses, metrics
from jaxdl.errors import BatchError, ObjectiveError
from jaxdl.models import GPT
from jaxdl.objectives import language_model, supervised
from jaxdl.protocols import Mean

V = 19
TOKENS = np.random.default_rng(2).integers(0, V, (4, 7)).astype(np.int32)
MASK = np.arange(7)[None] < np.array([[7], [3], [5], [1]])

DOCUMENTS = [TOKENS[0], TOKENS[1, :3], TOKENS[2, :1], TOKENS[3, :2], TOKENS[1, 1:6]]


def gpt(**options):
    sizes = {"vocab_size": V, "num_layers": 2, "num_heads": 2, "hidden_dim": 8, "max_length": 6}
    return GPT(**{**sizes, **options})


class Bigram(nn.Module):
    """Logits from the last token alone; takes neither train nor mask."""

    @nn.compact
    def __call__(self, tokens):
        return nn.Embed(V, V)(tokens)


@functools.cache
def start(scan_layers=False):
    """One start for all: whatever the objective, the model's parameters are the same."""
    init = jax.jit(language_model(gpt(scan_layers=scan_layers)).init)
    params, state = init(jax.random.key(0), {"tokens": TOKENS})
    assert state == {}
    return params


def first(objective, batch):
    return jax.jit(objective.init)(jax.random.key(0), batch)[0]


def loss_of(objective, params, batch, *, train=True):
    run = jax.jit(functools.partial(objective.loss, train=train))
    return run(params, {}, batch, jax.random.key(1))


def close(got, expected, tolerance=1e-5):
    floor = 1e-2 * max(np.max(np.abs(b)) for b in jax.tree.leaves(expected))

    def compare(a, b):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(np.max(np.abs(b)), floor))

    jax.tree.map(compare, got, expected)


@pytest.mark.parametrize("chunk_size", [None, 2])
def test_each_token_is_predicted_from_those_before(chunk_size):
    model = gpt()
    objective = language_model(model, chunk_size=chunk_size)
    params = start()
    total, aux = loss_of(objective, params, {"tokens": TOKENS})
    logits = np.asarray(model.apply({"params": params}, TOKENS[:, :-1]), np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = -np.take_along_axis(log_p, TOKENS[:, 1:, None], -1).sum()
    np.testing.assert_allclose(total, expected, rtol=1e-5)
    assert float(aux.weight) == 4 * 6
    assert (aux.outputs is None) == (chunk_size is not None)


def test_any_causal_module_will_do():
    objective = language_model(Bigram(), inputs="text")
    params = first(objective, {"text": TOKENS})
    total, aux = loss_of(objective, params, {"text": TOKENS})
    table = params["Embed_0"]["embedding"]
    expected = losses.softmax_cross_entropy(table[TOKENS[:, :-1]], TOKENS[:, 1:])
    np.testing.assert_allclose(total, jnp.sum(expected), rtol=1e-6)
    assert aux.outputs.shape == (4, 6, V)


@pytest.mark.parametrize("chunk_size", [None, 4])
def test_padding_counts_nowhere(chunk_size):
    objective = language_model(gpt(), chunk_size=chunk_size)
    params = start()
    batch = {"tokens": TOKENS, "mask": MASK}
    other = {"tokens": np.where(MASK, TOKENS, (TOKENS + 1) % V), "mask": MASK}

    def total(params, batch):
        value, aux = loss_of(objective, params, batch)
        return value, aux.weight

    run = jax.jit(jax.value_and_grad(total, has_aux=True))
    (value, weight), grads = run(params, batch)
    assert float(weight) == 6 + 2 + 4 + 0
    (other_value, _), other_grads = run(params, other)
    np.testing.assert_allclose(value, other_value, rtol=1e-6)
    close(grads, other_grads)
    apart = [
        loss_of(objective, params, {"tokens": TOKENS[i : i + 1, :n]})[0]
        for i, n in ((0, 7), (1, 3), (2, 5))
    ]
    np.testing.assert_allclose(value, sum(apart), rtol=1e-5)


def test_the_first_token_after_padding_is_not_asked_for():
    objective = language_model(Bigram())
    params = first(objective, {"tokens": TOKENS})
    mask = np.tile([0, 0, 1, 1, 1, 1, 1], (4, 1))
    total, aux = loss_of(objective, params, {"tokens": TOKENS, "mask": mask})
    short, short_aux = loss_of(objective, params, {"tokens": TOKENS[:, 2:]})
    np.testing.assert_allclose(total, short, rtol=1e-6)
    assert float(aux.weight) == float(short_aux.weight) == 4 * 4


def apart():
    """The documents, each in a row of its own: nothing sees the padding after them."""
    rows = [np.pad(each, (0, 7 - len(each))) for each in DOCUMENTS]
    return {"tokens": np.stack(rows), "mask": np.stack([np.arange(7) < len(d) for d in DOCUMENTS])}


@pytest.mark.parametrize("chunk_size", [pytest.param(None, marks=pytest.mark.slow), 2])
def test_packed_documents_count_as_if_alone(chunk_size):
    """In value, weight and gradient; a document of one token counts nothing."""
    objective = language_model(gpt(), chunk_size=chunk_size)
    packed = data.pack(DOCUMENTS, 7)
    assert packed["segments"].max() == 3
    assert packed["segments"].min() == 0

    def measured(batch):
        def pair(params):
            value, aux = objective.loss(params, {}, batch, jax.random.key(1), train=True)
            return value, aux.weight

        return jax.jit(jax.value_and_grad(pair, has_aux=True))(start())

    (value, weight), grads = measured(packed)
    (expected, expected_weight), expected_grads = measured(apart())
    assert float(weight) == float(expected_weight) == sum(len(each) - 1 for each in DOCUMENTS)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    close(grads, expected_grads)


def test_a_model_that_takes_no_segments_is_asked_the_same():
    measured = {"perplexity": metrics.perplexity(losses.softmax_cross_entropy)}
    objective = language_model(Bigram(), metrics=measured)
    params = first(objective, {"tokens": TOKENS})
    packed = data.pack(DOCUMENTS, 7)
    total, aux = loss_of(objective, params, packed)
    expected, expected_aux = loss_of(objective, params, apart())
    np.testing.assert_allclose(total, expected, rtol=1e-6)
    assert float(aux.weight) == float(expected_aux.weight) == 13
    read = metrics.report(aux.metrics)
    np.testing.assert_allclose(read["perplexity"], np.exp(total / aux.weight), rtol=1e-5)
    # Rows that fill a batch up count nowhere, packed or not.
    half = {**packed, "mask": np.arange(len(packed["tokens"])) < 1}
    row = {name: values[:1] for name, values in packed.items()}
    np.testing.assert_allclose(
        loss_of(objective, params, half)[0], loss_of(objective, params, row)[0], rtol=1e-6
    )


class Received(nn.Module):
    """Logits that are what it was given: its segments and positions."""

    @nn.compact
    def __call__(self, tokens, *, segments, positions):
        nn.Embed(V, V)(tokens)
        return jnp.stack([segments, positions], -1).astype(jnp.float32)


def test_the_model_reads_the_segments_and_positions_of_what_it_reads():
    objective = language_model(Received())
    packed = {**data.pack(DOCUMENTS, 7), "tokens": TOKENS[:3] % 2}
    params = first(objective, packed)
    _, aux = loss_of(objective, params, packed)
    expected = np.stack([packed["segments"], packed["positions"]], -1)[:, :-1]
    np.testing.assert_array_equal(aux.outputs, expected)


def test_rows_of_padding_count_nowhere():
    objective = language_model(gpt())
    params = start()
    total, aux = loss_of(objective, params, {"tokens": TOKENS, "mask": np.array([1, 0, 1, 0])})
    short, _ = loss_of(objective, params, {"tokens": TOKENS[::2]})
    np.testing.assert_allclose(total, short, rtol=1e-6)
    assert float(aux.weight) == 2 * 6


@pytest.mark.parametrize("chunk_size", [None, 4])
def test_perplexity(chunk_size):
    fn = losses.softmax_cross_entropy if chunk_size is None else lambda values, _: values
    objective = language_model(
        gpt(), chunk_size=chunk_size, metrics={"perplexity": metrics.perplexity(fn)}
    )
    batch = {"tokens": TOKENS, "mask": MASK}
    params = start()
    total, aux = loss_of(objective, params, batch, train=False)
    read = metrics.report({**aux.metrics})
    np.testing.assert_allclose(read["perplexity"], np.exp(total / aux.weight), rtol=1e-5)


def test_metrics_see_the_targets():
    objective = language_model(gpt(), metrics={"accuracy": metrics.accuracy()})
    batch = {"tokens": TOKENS, "mask": MASK}
    params = start()
    _, aux = loss_of(objective, params, batch, train=False)
    right = (np.argmax(aux.outputs, -1) == TOKENS[:, 1:]) & MASK[:, 1:]
    read = metrics.report(aux.metrics)
    np.testing.assert_allclose(read["accuracy"], right.sum() / 12, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scan_layers", "remat", "chunk_size"),
    [(False, None, None), (True, "full", 3)],
)
def test_microbatches_and_padding_change_no_update(scan_layers, remat, chunk_size):
    """Dropout is on: each example has its own, whatever microbatch or padding it meets."""
    model = gpt(dropout_rate=0.3, scan_layers=scan_layers, remat=remat)
    objective = language_model(model, chunk_size=chunk_size)
    batch = {"tokens": TOKENS, "mask": MASK.astype(np.float32)}
    padded = {name: np.concatenate([x, x]) for name, x in batch.items()}
    padded["mask"][4:] = 0
    state, results = None, []
    for gradient, given in (
        (gradients.mean(), batch),
        (gradients.accumulate(4), padded),
    ):
        step = jaxdl.make_train_step(objective, optax.sgd(1.0), gradient=gradient)
        state = state or jax.jit(step.init)(jax.random.key(0), batch)
        new, sums = jax.jit(step.update)(state, given)
        assert isinstance(sums["loss"], Mean)
        assert float(sums["loss"].weight) == 12
        results.append((new.params, sums["loss"].total))
    close(results[1], results[0])


@pytest.mark.slow
@pytest.mark.parametrize("scan_layers", [False, True])
def test_layers_draw_their_own_dropout(scan_layers):
    """Under ``supervised`` too, whose model is called without a shift."""
    model = gpt(dropout_rate=0.5, scan_layers=scan_layers)
    objective = supervised(model, losses.softmax_cross_entropy, inputs="tokens", targets="tokens")
    batch = {"tokens": TOKENS[:, :6], "example_key": jax.random.split(jax.random.key(3), 4)}
    params = start(scan_layers)
    on, off = (loss_of(objective, params, batch, train=train)[0] for train in (True, False))
    assert not np.allclose(on, off, rtol=1e-3)
    alone = jax.tree.map(lambda x: x[1:2], batch)
    together = loss_of(objective, params, batch)[1].outputs
    np.testing.assert_allclose(
        loss_of(objective, params, alone)[1].outputs, together[1:2], atol=1e-6
    )
    zeroed = jax.tree.map(jnp.zeros_like, params)
    names = ["blocks"] if scan_layers else ["block_0", "block_1"]
    for name in names:
        bias = zeroed[name]["mlp_out"]["bias"]
        zeroed[name]["mlp_out"]["bias"] = jnp.ones_like(bias)
    zeroed["norm"] = params["norm"]
    zeroed["token_embedding"] = {"embedding": jnp.eye(V, 8)}
    logits = loss_of(objective, zeroed, {**batch, "tokens": TOKENS[:, :6] * 0 + V - 1})[1].outputs
    # Each layer adds 0 or 2 to each feature; layers that drew alike would only give 0 and 4.
    assert len(np.unique(np.round(logits[0, 0, :8], 4))) <= 3
    assert any(len(np.unique(np.round(row, 4))) == 3 for row in logits[..., :8].reshape(-1, 8))


def test_label_smoothing_and_z_loss_reach_both_losses():
    options = {"label_smoothing": 0.1, "z_loss": 0.01}
    batch = {"tokens": TOKENS}
    whole, chunked, bare = (
        language_model(gpt(), **given) for given in (options, {**options, "chunk_size": 4}, {})
    )
    params = start()
    totals = [float(loss_of(each, params, batch)[0]) for each in (whole, chunked, bare)]
    np.testing.assert_allclose(totals[0], totals[1], rtol=1e-6)
    assert totals[0] != totals[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    "chosen", [jaxdl.sequence(4), jaxdl.fsdp(min_size=64)], ids=["sequence", "fsdp"]
)
def test_chunks_move_no_more_between_devices(devices, chosen):
    """Neither hidden states to make a chunk, nor the embedding's gradient after each one."""
    model = GPT(vocab_size=64, num_layers=1, num_heads=2, hidden_dim=8, max_length=64)
    batch = {"tokens": jax.ShapeDtypeStruct((8, 65), np.int32)}

    def sent(chunk_size):
        objective = language_model(model, chunk_size=chunk_size)
        step = jaxdl.jit(jaxdl.make_train_step(objective, optax.sgd(0.1)), layout=chosen)
        program = step.compile(step.abstract_state(batch), batch)
        return jaxdl.tpu.summarize(jaxdl.tpu.read_collectives(program.as_text()))

    assert sent(8) == sent(None)


@pytest.mark.usefixtures("untyped")
def test_wrong_arguments_are_named():
    with pytest.raises(ObjectiveError, match="language_model got a function"):
        language_model(lambda x: x)
    with pytest.raises(ObjectiveError, match="Bigram has no method 'hidden'"):
        language_model(Bigram(), chunk_size=4)
    objective = language_model(Bigram())
    for wrong in (TOKENS[:, :1], TOKENS[0], TOKENS.astype(np.float32)):
        with pytest.raises(BatchError, match=r"'tokens' has shape(.|\n)*\[B, T \+ 1\]"):
            objective.init(jax.random.key(0), {"tokens": wrong})
    with pytest.raises(BatchError, match="no field 'tokens'"):
        objective.init(jax.random.key(0), {"token": TOKENS})
    with pytest.raises(BatchError, match=r"mask has shape \[4, 6\]"):
        objective.init(jax.random.key(0), {"tokens": TOKENS, "mask": MASK[:, 1:]})
    for name in ("segments", "positions"):
        for wrong in (TOKENS[:, 1:], TOKENS.astype(np.float32)):
            with pytest.raises(BatchError, match=rf"'{name}' has shape(.|\n)*integers \[4, 7\]"):
                objective.init(jax.random.key(0), {"tokens": TOKENS, name: wrong})
