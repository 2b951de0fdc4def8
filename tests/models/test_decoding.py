"""GPT with its cache and on packed rows, against the forward pass of each text alone."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import data
from jaxdl.errors import BatchError, ConfigError
from jaxdl.models import GPT, stack_layers

V, LENGTH = 23, 9
SIZES = {"vocab_size": V, "num_layers": 2, "num_heads": 2, "hidden_dim": 16, "max_length": LENGTH}
TOKENS = np.random.default_rng(3).integers(0, V, (2, 8))


@functools.cache
def randomised():
    """Parameters far from their start, so that every bias and scale matters."""
    shapes = jax.eval_shape(GPT(**SIZES).init, jax.random.key(0), TOKENS)["params"]
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda s: (0.5 * rng.normal(size=s.shape)).astype(np.float32), shapes)


@functools.cache
def whole():
    return np.asarray(jax.jit(GPT(**SIZES).apply)({"params": randomised()}, TOKENS))


def close(got, expected, tolerance=1e-5):
    """Within a tolerance of the largest entry of each leaf.

    The key's bias moves all scores of a query alike, so its gradient is 0 but for rounding: a leaf
    far below all others is compared by their size.
    """
    floor = 1e-2 * max(np.max(np.abs(b)) for b in jax.tree.leaves(expected))

    def compare(a, b):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(np.max(np.abs(b)), floor))

    jax.tree.map(compare, got, expected)


DOCUMENTS = [[3, 4, 5], [6, 7], [8, 9, 1, 2]]
PACKED = data.pack(DOCUMENTS, 6)
PLACES = [(0, 0), (0, 3), (1, 0)]
"""The row of each document, and where it begins."""


def test_packed_documents_have_the_logits_and_gradients_they_have_alone():
    model, weights = GPT(**SIZES), np.random.default_rng(8).normal(size=(9, V))

    def packed(params):
        logits = model.apply({"params": params}, **PACKED)
        return [
            logits[row, start : start + len(document)]
            for document, (row, start) in zip(DOCUMENTS, PLACES, strict=True)
        ]

    def alone(params):
        # Padding after the text changes nothing, and is one shape for all.
        rows = np.stack([np.pad(document, (0, 4 - len(document))) for document in DOCUMENTS])
        logits = model.apply({"params": params}, rows)
        return [row[: len(document)] for row, document in zip(logits, DOCUMENTS, strict=True)]

    def with_gradient(logits):
        def total(params):
            every = jnp.concatenate(logits(params))
            return jnp.sum(jnp.sin(every) * jnp.float32(weights)), every

        return jax.jit(jax.value_and_grad(total, has_aux=True))(randomised())

    close(with_gradient(packed), with_gradient(alone))


def empty(model, rows, length):
    made = functools.partial(model.apply, decode=True, mutable=["cache"])
    params = stack_layers(randomised()) if model.scan_layers else randomised()
    _, shapes = jax.eval_shape(made, {"params": params}, np.zeros((rows, length), int))
    return {
        "params": params,
        "cache": jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes["cache"]),
    }


@functools.cache
def reader(scan_layers):
    model = GPT(**SIZES, scan_layers=scan_layers)
    return model, jax.jit(functools.partial(model.apply, decode=True, mutable=["cache"]))


@pytest.mark.parametrize(
    ("scan_layers", "pieces"), [(False, (3, 1, 1, 3)), (True, (3, 1, 1, 3)), (False, (8,))]
)
def test_cached_logits_are_those_of_the_whole(scan_layers, pieces):
    model, read = reader(scan_layers)
    variables, found, at = empty(model, 2, 8), [], 0
    for size in pieces:
        logits, kept = read(variables, TOKENS[:, at : at + size])
        variables, at = {**variables, **kept}, at + size
        found.append(logits)
    close(jnp.concatenate(found, axis=1), whole())
    assert variables["cache"]["index"] == 8
    # One token more than the cache has room for, though not than the model.
    past, _ = read(variables, TOKENS[:, :1])
    assert np.isnan(past).all()


@pytest.mark.parametrize("decode", [False, True])
def test_positions_count_from_the_beginning(decode):
    model = GPT(**SIZES)
    call = {"decode": True, "mutable": ["cache"]} if decode else {}
    variables = empty(model, 2, 8) if decode else {"params": randomised()}
    at = np.repeat(np.arange(8)[None], 2, axis=0)
    run = jax.jit(functools.partial(model.apply, **call))
    same, other = (run(variables, TOKENS, positions=at + by) for by in (0, 1))
    if decode:
        same, other = same[0], other[0]
    plain = whole()
    close(same, plain)
    assert not np.allclose(other, plain, atol=1e-2)
    # The table has 9 places.
    past = run(variables, TOKENS, positions=at + np.array([[2], [0]]))
    past = past[0] if decode else past
    np.testing.assert_array_equal(np.isnan(past).any((1, 2)), [True, False])


def test_wrong_calls_are_named():
    model, read = reader(False)
    with pytest.raises(BatchError, match="room for 3 tokens in 2 rows, and 8 tokens"):
        read(empty(model, 2, 3), TOKENS)
    given = {"params": randomised()}
    for variables in (given, empty(model, 2, 8)):
        with pytest.raises(ConfigError, match="'cache' may not be written") as caught:
            model.apply(variables, TOKENS, decode=True)
        assert 'mutable=["cache"]' in caught.value.do
    with pytest.raises(ConfigError, match="segments were given together with decode"):
        read(empty(model, 2, 8), TOKENS, segments=TOKENS)
