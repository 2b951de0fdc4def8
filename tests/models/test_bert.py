"""BERT against its formulas in NumPy, its published sizes, and the laws of padding."""

from __future__ import annotations

import functools
import math
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jaxdl.errors import BatchError, ConfigError
from jaxdl.models import (
    BERT,
    BERTClassifier,
    BERTMaskedLM,
    BERTPretraining,
    BERTTagger,
    bert,
    bert_base,
    bert_large,
    bert_tiny,
    segment_mask,
    stack_layers,
    unstack_layers,
)
from jaxdl.tree_paths import leaf_paths

V, D, N, LAYERS, LENGTH = 23, 16, 2, 2, 10
SIZES = {
    "vocab_size": V,
    "num_layers": LAYERS,
    "num_heads": N,
    "hidden_dim": D,
    "max_length": LENGTH,
}
RNG = np.random.default_rng(3)
TOKENS = RNG.integers(0, V, (3, 8))
TYPES = np.sort(RNG.integers(0, 2, (3, 8)), axis=1)
MASK = np.arange(8)[None] < np.array([[8], [5], [1]])


def encoder(**options):
    return BERT(**{**SIZES, **options})


@functools.cache
def randomised():
    """Parameters of both pretraining heads, far from their start."""
    params = jax.jit(BERTPretraining(encoder()).init)(jax.random.key(0), TOKENS)["params"]
    leaves, structure = jax.tree.flatten(params)
    rng = np.random.default_rng(1)
    moved = [np.asarray(x + 0.3 * rng.normal(size=x.shape), np.float32) for x in leaves]
    return jax.tree.unflatten(structure, moved)


def numpy_norm(x, p):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12) * p["scale"] + p["bias"]


def numpy_dense(x, p):
    return x @ p["kernel"] + p["bias"]


def numpy_gelu(x):
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def numpy_attention(x, p, real):
    """One head and one query at a time, over the keys that are real."""
    q, k, v = (numpy_dense(x, p[name]) for name in ("query", "key", "value"))
    out, size = np.zeros_like(x), x.shape[-1] // N
    for b in range(x.shape[0]):
        for n in range(N):
            own = slice(n * size, (n + 1) * size)
            keys, values = k[b, real[b], own], v[b, real[b], own]
            for t in range(x.shape[1]):
                scores = keys @ q[b, t, own] / np.sqrt(size)
                weights = np.exp(scores - scores.max())
                out[b, t, own] = weights @ values / weights.sum()
    return numpy_dense(out, p["out"])


def numpy_bert(params, tokens, types, real):
    """``(hidden, pooled, word logits, sentence logits)`` by the paper and its code, in float64."""
    tree = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    p, head = tree["bert"], tree["head"]
    words = p["token_embedding"]["embedding"]
    x = words[tokens] + p["type_embedding"]["embedding"][types]
    x = x + p["position_embedding"]["embedding"][: tokens.shape[1]]
    x = numpy_norm(x, p["embedding_norm"])
    for layer in range(LAYERS):
        block = p[f"block_{layer}"]
        x = numpy_norm(x + numpy_attention(x, block["attention"], real), block["attention_norm"])
        y = numpy_dense(numpy_gelu(numpy_dense(x, block["mlp_in"])), block["mlp_out"])
        x = numpy_norm(x + y, block["mlp_norm"])
    pooled = np.tanh(numpy_dense(x[:, 0], p["pooler"]))
    y = numpy_norm(numpy_gelu(numpy_dense(x, head["transform"])), head["norm"])
    return x, pooled, y @ words.T + head["bias"], numpy_dense(pooled, tree["next_sentence"])


def apply(model, params, tokens=TOKENS, **call):
    return jax.jit(functools.partial(model.apply, **call))({"params": params}, tokens)


def close(got, expected, tolerance=2e-5):
    """Within a tolerance of the largest entry; see ``test_gpt`` on the key's bias."""
    floor = 1e-2 * max(np.max(np.abs(b)) for b in jax.tree.leaves(expected))

    def compare(a, b):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(np.max(np.abs(b)), floor))

    jax.tree.map(compare, got, expected)


@pytest.mark.parametrize("implementation", [None, pytest.param("plain", marks=pytest.mark.slow)])
def test_outputs_are_those_of_the_formulas(implementation):
    model = BERTPretraining(encoder(implementation=implementation))

    @jax.jit
    def run(params):
        call = {"token_types": TYPES, "mask": MASK}
        own = model.bert.apply({"params": params["bert"]}, TOKENS, **call)
        return *own, *model.apply({"params": params}, TOKENS, **call)

    got, expected = run(randomised()), numpy_bert(randomised(), TOKENS, TYPES, MASK)
    assert got[2].dtype == got[3].dtype == jnp.float32
    for index in (0, 2):
        close(got[index][MASK], expected[index][MASK])
    close((got[1], got[3]), (expected[1], expected[3]))


@pytest.mark.parametrize(
    ("make", "expected"),
    [(bert_tiny, 4_385_920), (bert_base, 109_482_240), (bert_large, 335_141_888)],
)
def test_published_sizes(make, expected):
    def count(model):
        shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 4), int))
        return sum(x.size for x in jax.tree.leaves(shapes))

    model = make(scan_layers=True)
    width, pooler = model.hidden_dim, model.hidden_dim**2 + model.hidden_dim
    assert count(model) == expected
    assert count(make(scan_layers=True, pooler=False)) == expected - pooler
    assert count(BERTClassifier(model, 3)) == expected + 3 * (width + 1)
    # The head's words are the embedding's.
    assert count(BERTMaskedLM(model)) == expected + width**2 + 3 * width + 30_522


@pytest.mark.slow
def test_initial_sizes():
    model = BERTPretraining(BERT(500, 1, 2, 64, max_length=64))
    params = jax.jit(model.init)(jax.random.key(0), TOKENS)["params"]
    # The deviation of a normal of 0.02 that is cut at two deviations.
    for path, leaf in zip(leaf_paths(params), jax.tree.leaves(params), strict=True):
        if path.endswith(("kernel", "embedding")):
            assert np.abs(leaf).max() <= 0.04
            if leaf.size > 1000:
                assert abs(np.std(leaf) / (0.02 * 0.8796) - 1) < 0.06, path
        else:
            assert np.all(np.asarray(leaf) == float(path.endswith("scale"))), path


def real_outputs(params, tokens, mask, **options):
    """A number of the outputs of real tokens of both heads."""
    bare = BERTPretraining(encoder(**options))
    words, follows = bare.apply({"params": params}, tokens, token_types=TYPES, mask=mask)
    real = jnp.asarray(mask)[:, :, None]
    first = jnp.sum(jnp.where(real, jnp.sin(words), 0.0), axis=(1, 2))
    return first + jnp.sum(jnp.cos(follows), axis=1)


@functools.cache
def value_and_gradient():
    def total(params, tokens, mask):
        return jnp.sum(real_outputs(params, tokens, mask))

    return jax.jit(jax.value_and_grad(total))


@pytest.mark.slow
def test_padding_changes_no_real_output_and_no_gradient():
    other = np.where(MASK, TOKENS, (TOKENS + 1) % V)
    assert np.any(other != TOKENS)
    first, second = (value_and_gradient()(randomised(), tokens, MASK) for tokens in (TOKENS, other))
    np.testing.assert_array_equal(first[0], second[0])
    # The lookup of a padded token adds zeros to the gradient of another word.
    jax.tree.map(np.testing.assert_array_equal, first[1], second[1])
    model = BERTPretraining(encoder())
    cut = apply(model, randomised(), TOKENS[1:2, :5], token_types=TYPES[1:2, :5])
    whole = apply(model, randomised(), token_types=TYPES, mask=MASK)
    close((whole[0][1:2, :5], whole[1][1:2]), cut)


def test_a_row_of_padding_stays_finite():
    found = value_and_gradient()(randomised(), TOKENS, np.zeros_like(MASK))
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(found))


def test_a_mask_of_rows_changes_nothing():
    model = BERTPretraining(encoder())
    rows = apply(model, randomised(), mask=np.array([1, 0, 1]))
    jax.tree.map(np.testing.assert_array_equal, rows, apply(model, randomised()))


def test_packed_segments_do_not_see_each_other():
    mask = segment_mask(jnp.array([[1, 1, 1, 2, 2, 2, 2, 0]] * 3))
    other = TOKENS.copy()
    other[:, :3] = (other[:, :3] + 1) % V
    model = BERTMaskedLM(encoder())
    params = {name: value for name, value in randomised().items() if name != "next_sentence"}
    first, second = (apply(model, params, tokens, mask=mask) for tokens in (TOKENS, other))
    np.testing.assert_array_equal(first[:, 3:7], second[:, 3:7])
    assert not np.array_equal(first[:, :3], second[:, :3])


def test_logits_at_some_places_are_those_of_all():
    params = {name: value for name, value in randomised().items() if name != "next_sentence"}
    positions = np.array([[3, 0], [7, 7], [1, 2]])
    model = BERTMaskedLM(encoder())
    some = apply(model, params, positions=positions)
    whole = np.asarray(apply(model, params))
    close(some, np.take_along_axis(whole, positions[:, :, None], axis=1))


def test_tagger_and_classifier():
    params, types = randomised(), {"token_types": TYPES, "mask": MASK}
    hidden, pooled, _, _ = numpy_bert(params, TOKENS, TYPES, MASK)
    kernel = np.random.default_rng(2).normal(size=(D, 3)).astype(np.float32)
    dense = {"kernel": kernel, "bias": np.array([1.0, 2.0, 3.0], np.float32)}
    given = {"bert": params["bert"], "classifier": dense}
    tags = apply(BERTTagger(encoder(), 3), given, **types)
    close(np.asarray(tags)[MASK], (hidden @ kernel + dense["bias"])[MASK])
    close(apply(BERTClassifier(encoder(), 3), given, **types), pooled @ kernel + dense["bias"])


def test_dropout_is_where_the_original_has_it():
    found = []

    def record(next_fn, args, kwargs, context):
        layer = context.module
        if isinstance(layer, nn.Dropout) and context.method_name == "__call__":
            off = nn.merge_param("off", layer.deterministic, kwargs.get("deterministic"))
            found.append(("/".join(layer.path), layer.rate, args[0].shape, off))
        return next_fn(*args, **kwargs)

    bare = encoder(num_layers=1, dropout_rate=0.2, attention_dropout_rate=0.3)
    model = BERTClassifier(bare, 3, dropout_rate=0.4)

    def run(*, train):
        found.clear()
        with nn.intercept_methods(record):
            keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
            jax.eval_shape(functools.partial(model.init_with_output, train=train), keys, TOKENS)
        return list(found)

    on = [
        ("bert/Dropout_0", 0.2, (3, 8, D), False),
        ("bert/block_0/attention/Dropout_0", 0.3, (3, N, 8, 8), False),
        ("bert/block_0/Dropout_0", 0.2, (3, 8, D), False),
        ("bert/block_0/Dropout_0", 0.2, (3, 8, D), False),
        ("Dropout_0", 0.4, (3, D), False),
    ]
    assert run(train=True) == on
    assert all(off for _, _, _, off in run(train=False))


def loss(params, **options):
    return jnp.sum(real_outputs(params, TOKENS, MASK, **options))


@pytest.mark.slow
@pytest.mark.parametrize("remat", [None, "full", "dots", "dots_no_batch"])
def test_scanned_and_rematerialised_layers_are_the_same(remat):
    stacked = {**randomised(), "bert": stack_layers(randomised()["bert"])}
    run = jax.jit(jax.value_and_grad(functools.partial(loss, scan_layers=True, remat=remat)))
    value, grads = run(stacked)
    grads = {**grads, "bert": unstack_layers(grads["bert"])}
    close((value, grads), jax.jit(jax.value_and_grad(loss))(randomised()))


def test_half_precision_computation_and_float32_logits():
    model = BERTPretraining(encoder(dtype=jnp.bfloat16))
    got = apply(model, randomised(), token_types=TYPES, mask=MASK)
    assert all(x.dtype == jnp.float32 for x in got)
    expected = numpy_bert(randomised(), TOKENS, TYPES, MASK)
    close(got[0][MASK], expected[2][MASK], 0.05)


@pytest.mark.parametrize("scan_layers", [False, True])
@pytest.mark.parametrize("head", [False, True])
def test_tensor_rules_divide_what_they_say(scan_layers, head):
    model = encoder(scan_layers=scan_layers)
    model = BERTPretraining(model) if head else model
    shapes = jax.eval_shape(model.init, jax.random.key(0), TOKENS)["params"]
    rules = bert.SCANNED_TENSOR_RULES if scan_layers else bert.TENSOR_RULES
    found = {}
    for path, leaf in zip(leaf_paths(shapes), jax.tree.leaves(shapes), strict=True):
        specs = [spec for pattern, spec in rules if re.search(pattern, path)]
        assert len(specs) <= 1
        assert not specs or len(specs[0]) == leaf.ndim
        found[path] = specs[0] if specs else None
    leading, at = ((None,) if scan_layers else ()), "bert/" if head else ""
    block = f"{at}blocks" if scan_layers else f"{at}block_1"
    assert found[f"{at}token_embedding/embedding"] == P("tensor", None)
    assert found[f"{block}/attention/value/kernel"] == P(*leading, None, "tensor")
    assert found[f"{block}/attention/out/kernel"] == P(*leading, "tensor", None)
    assert found[f"{block}/mlp_in/bias"] == P(*leading, "tensor")
    assert found[f"{block}/mlp_out/kernel"] == P(*leading, "tensor", None)
    assert found[f"{block}/mlp_norm/scale"] is None
    assert found[f"{at}type_embedding/embedding"] is None
    for pattern, _ in rules:
        assert any(re.search(pattern, path) for path in found)


@pytest.mark.slow
@pytest.mark.parametrize("scan_layers", [False, True])
def test_a_model_cut_over_devices_is_the_same(devices, scan_layers):
    mesh = jax.sharding.Mesh(np.array(devices).reshape(4, 2), ("data", "tensor"))
    rules = bert.SCANNED_TENSOR_RULES if scan_layers else bert.TENSOR_RULES
    model = BERTPretraining(encoder(vocab_size=24, scan_layers=scan_layers))
    tokens = np.concatenate([TOKENS, TOKENS])[:4]
    params = jax.jit(model.init)(jax.random.key(0), tokens)["params"]
    specs = [
        next((spec for pattern, spec in rules if re.search(pattern, path)), P())
        for path in leaf_paths(params)
    ]
    shardings = [jax.sharding.NamedSharding(mesh, spec) for spec in specs]
    placed = jax.device_put(params, jax.tree.unflatten(jax.tree.structure(params), shardings))
    rows = jax.device_put(tokens, jax.sharding.NamedSharding(mesh, P("data")))
    close(apply(model, placed, rows), apply(model, params, tokens))


def test_wrong_arguments_are_named():
    def refuse(error, match, model, tokens=TOKENS, **call):
        with pytest.raises(error, match=match):
            jax.eval_shape(functools.partial(model.init, **call), jax.random.key(0), tokens)

    model = encoder()
    refuse(BatchError, r"BERT got an input of shape \[8\]", model, TOKENS[0])
    twice = np.concatenate([TOKENS, TOKENS], 1)
    refuse(BatchError, r"shape \[3, 16\](.|\n)*at most 10", model, twice)
    refuse(BatchError, "dtype float32", model, TOKENS.astype(np.float32))
    types = TYPES[:, 1:]
    refuse(BatchError, r"token types of shape \[3, 7\]", model, token_types=types)
    refuse(BatchError, r"mask has shape \[3, 7\]", model, mask=MASK[:, 1:])
    refuse(ConfigError, "pooler=False", BERTClassifier(encoder(pooler=False), 3))
    refuse(ConfigError, "num_classes is 0", BERTTagger(encoder(), 0))
    refuse(ConfigError, "3 heads do not divide 16 features", encoder(num_heads=3))
