"""The chunked loss is the plain one, for a fraction of its memory."""

from __future__ import annotations

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads

import jaxdl
from jaxdl.errors import BatchError, ConfigError
from jaxdl.losses import chunked_cross_entropy, softmax_cross_entropy
from jaxdl.models import GPT
from jaxdl.objectives import language_model
from jaxdl.tpu import read_collectives

RNG = np.random.default_rng(7)
HIDDEN = RNG.normal(size=(3, 7, 8)).astype(np.float32)
EMBEDDING = RNG.normal(size=(19, 8)).astype(np.float32)
TARGETS = RNG.integers(0, 19, (3, 7)).astype(np.int32)
WEIGHTS = RNG.uniform(size=(3, 7)).astype(np.float32)


def plain(hidden, embedding, targets, **options):
    logits = jnp.einsum("btd,vd->btv", hidden, embedding)
    return softmax_cross_entropy(logits, targets, **options)


def loss_and_grads(fn, hidden=HIDDEN, embedding=EMBEDDING):
    def total(hidden, embedding):
        values = fn(hidden, embedding, TARGETS)
        return jnp.sum(values * WEIGHTS), values

    return jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))(hidden, embedding)


def close(got, expected, tolerance=1e-5):
    def compare(a, b):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.max(np.abs(b)))

    jax.tree.map(compare, got, expected)


@pytest.mark.parametrize("chunk_size", [1, 3, 7, 100])
def test_loss_and_gradients_are_the_plain_ones(chunk_size):
    chunked = functools.partial(chunked_cross_entropy, chunk_size=chunk_size)
    close(loss_and_grads(chunked), loss_and_grads(plain))


def test_options_are_those_of_the_plain_one():
    options = {"label_smoothing": 0.1, "z_loss": 1e-2}
    chunked = functools.partial(chunked_cross_entropy, chunk_size=3, **options)
    close(loss_and_grads(chunked), loss_and_grads(functools.partial(plain, **options)))


def test_values_are_those_of_numpy():
    logits = HIDDEN.astype(np.float64) @ EMBEDDING.astype(np.float64).T
    chosen = np.take_along_axis(logits, TARGETS[..., None], -1)[..., 0]
    expected = np.log(np.exp(logits).sum(-1)) - chosen
    values = chunked_cross_entropy(HIDDEN, EMBEDDING, TARGETS, chunk_size=2)
    assert values.dtype == jnp.float32
    close(values, expected)


def test_gradients_are_finite_differences():
    def value(hidden, embedding):
        return chunked_cross_entropy(hidden, embedding, TARGETS[:1, :3], chunk_size=2)

    check_grads(value, (HIDDEN[:1, :3], EMBEDDING), order=1, modes=["rev"], atol=2e-2, rtol=2e-2)


def test_tokens_do_not_know_of_their_chunk():
    together = chunked_cross_entropy(HIDDEN, EMBEDDING, TARGETS, chunk_size=4)
    order = RNG.permutation(7)
    apart = chunked_cross_entropy(HIDDEN[:, order], EMBEDDING, TARGETS[:, order], chunk_size=4)
    np.testing.assert_allclose(apart, together[:, order], rtol=1e-6)


def test_target_outside_the_vocabulary_is_nan_alone():
    targets = TARGETS.copy()
    targets[1, 2], targets[2, 3] = 19, -1
    values = np.asarray(chunked_cross_entropy(HIDDEN, EMBEDDING, targets, chunk_size=4))
    assert np.argwhere(np.isnan(values)).tolist() == [[1, 2], [2, 3]]


def test_half_precision_hidden_states_are_summed_in_float32():
    half = jnp.asarray(HIDDEN, jnp.bfloat16)
    chunked = functools.partial(chunked_cross_entropy, chunk_size=3)
    (_, values), (to_hidden, to_embedding) = loss_and_grads(chunked, half)
    assert values.dtype == to_embedding.dtype == jnp.float32
    assert to_hidden.dtype == jnp.bfloat16
    close(values, loss_and_grads(chunked)[0][1], 0.03)
    close(to_embedding, loss_and_grads(chunked)[1][1], 0.03)


def temporary_bytes(fn) -> int:
    hidden = jax.ShapeDtypeStruct((4, 1024, 256), jnp.float32)
    embedding = jax.ShapeDtypeStruct((50_304, 256), jnp.float32)
    targets = jax.ShapeDtypeStruct((4, 1024), jnp.int32)

    def total(hidden, embedding, targets):
        return jnp.sum(fn(hidden, embedding, targets))

    step = jax.jit(jax.value_and_grad(total, (0, 1)))
    analysis = step.lower(hidden, embedding, targets).compile().memory_analysis()
    assert analysis is not None
    return analysis.temp_size_in_bytes


def test_logits_of_a_large_vocabulary_are_never_held():
    whole = temporary_bytes(plain)
    chunked = temporary_bytes(chunked_cross_entropy)
    assert whole >= 4 * 1024 * 50_304 * 4
    assert chunked * 16 <= whole, f"{whole / 2**20:.0f} MiB against {chunked / 2**20:.0f} MiB"


def products_with_the_vocabulary(rows: int, length: int, **options) -> list[str]:
    hidden = jax.ShapeDtypeStruct((rows, length, 8), jnp.float32)
    targets = jax.ShapeDtypeStruct((rows, length), jnp.int32)
    run = jax.jit(functools.partial(chunked_cross_entropy, **options))
    return re.findall(
        r"dot_general.*-> tensor<(\S+)xf32>", run.lower(hidden, EMBEDDING, targets).as_text()
    )


@pytest.mark.parametrize(
    ("rows", "length", "size"),
    [(4, 1024, 16), (8, 2048, 32), (1, 128, 8), (2, 1021, 16), (3, 1, 1), (3, 7, 7), (1024, 65, 8)],
)
def test_a_chunk_is_a_64th_of_the_row_and_8_tokens_at_least(rows, length, size):
    assert products_with_the_vocabulary(rows, length) == [f"1x1x{rows}x{size}x19"]


@pytest.mark.parametrize("length", [1, 7])
@pytest.mark.parametrize(("batch_shards", "time_shards"), [(1, 1), (3, 1), (1, 3), (3, 3), (1, 2)])
def test_any_length_by_default_and_over_devices(length, batch_shards, time_shards):
    hidden, targets = HIDDEN[:, :length], TARGETS[:, :length]

    def grads(fn, **options):
        def total(hidden, embedding):
            values = fn(hidden, embedding, targets, **options)
            return jnp.sum(values * WEIGHTS[:, :length]), values

        return jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))(hidden, EMBEDDING)

    size = {} if length == 1 else {"chunk_size": 3}
    shards = {"batch_shards": batch_shards, "time_shards": time_shards}
    close(grads(chunked_cross_entropy, **shards, **size), grads(plain))


def test_the_gradient_of_the_embedding_is_added_over_devices_once(devices):
    model = GPT(vocab_size=37, num_layers=1, num_heads=2, hidden_dim=8, max_length=32)
    objective = language_model(model, chunk_size="auto")
    step = jaxdl.jit(jaxdl.make_train_step(objective, optax.sgd(0.1)))
    batch = {"tokens": RNG.integers(0, 37, (16, 33)).astype(np.int32)}
    state = step.abstract_state(batch)
    found = read_collectives(step.compile(state, step.put(batch)).as_text())
    assert any("37,8" in shape for each in found for shape in each.shapes)
    assert {each.times for each in found} == {1}
    # The loss alone, told nothing of the devices, adds the gradient once a chunk.
    mesh = jax.sharding.Mesh(devices, ("data",))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    args = [
        jax.ShapeDtypeStruct((16, 32, 8), jnp.float32, sharding=rows),
        jax.ShapeDtypeStruct((19, 8), jnp.float32, sharding=whole),
        jax.ShapeDtypeStruct((16, 32), jnp.int32, sharding=rows),
    ]
    for shards, times in ((8, 1), (1, 4)):

        def total(hidden, embedding, targets, shards=shards):
            return jnp.sum(chunked_cross_entropy(hidden, embedding, targets, batch_shards=shards))

        grad = jax.jit(jax.grad(total, 1), out_shardings=whole)
        found = read_collectives(grad.lower(*args).compile().as_text())
        assert [(each.kind, each.times) for each in found] == [("all-reduce", times)]


def test_wrong_arguments_are_named():
    with pytest.raises(BatchError, match="3 rows do not divide into batch_shards=2"):
        chunked_cross_entropy(HIDDEN, EMBEDDING, TARGETS, batch_shards=2)
    for name in ("batch_shards", "time_shards"):
        with pytest.raises(ConfigError, match=f"{name} is 0"):
            chunked_cross_entropy(HIDDEN, EMBEDDING, TARGETS, **{name: 0})
    with pytest.raises(ConfigError, match="chunk_size is 0"):
        chunked_cross_entropy(HIDDEN, EMBEDDING, TARGETS, chunk_size=0)
    with pytest.raises(ConfigError, match="label_smoothing is 1"):
        chunked_cross_entropy(HIDDEN, EMBEDDING, TARGETS, label_smoothing=1.0)
    for wrong in [
        (HIDDEN, EMBEDDING.T, TARGETS),
        (HIDDEN[0], EMBEDDING, TARGETS),
        (HIDDEN, EMBEDDING, TARGETS[:, 1:]),
        (HIDDEN, EMBEDDING, TARGETS.astype(np.float32)),
    ]:
        with pytest.raises(BatchError, match=r"chunked_cross_entropy got(.|\n)*\[B, T, D\]"):
            chunked_cross_entropy(*wrong)
