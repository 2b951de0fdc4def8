"""The Transformer: published sizes, formulas, causality, padding, its cache, and its rules."""

from __future__ import annotations

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jaxdl.errors import BatchError, ConfigError
from jaxdl.models.stack import stack_layers
from jaxdl.models.transformer import (
    SCANNED_TENSOR_RULES,
    TENSOR_RULES,
    Transformer,
    transformer_base,
    transformer_big,
)
from jaxdl.models.transformer_stacks import sinusoids
from jaxdl.tree_paths import leaf_paths

V, D, N, LAYERS = 13, 8, 2, 2
RNG = np.random.default_rng(0)
SOURCE, TARGET = RNG.integers(0, V, (2, 5)), RNG.integers(0, V, (2, 6))
SOURCE_MASK = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])


def make(**options):
    return Transformer(V, LAYERS, N, D, **{"dropout_rate": 0.0, "attention_bias": True, **options})


@functools.cache
def params():
    start = jax.jit(make().init)(jax.random.key(0), SOURCE, target=TARGET)["params"]
    leaves, structure = jax.tree.flatten(start)
    rng = np.random.default_rng(1)
    moved = [np.asarray(x + 0.3 * rng.normal(size=x.shape), np.float32) for x in leaves]
    return jax.tree.unflatten(structure, moved)


@functools.cache
def compiled():
    return jax.jit(make().apply)


def run(source, target, **call):
    return compiled()({"params": params()}, source, target=target, **call)


def close(got, expected, share=1e-5):
    np.testing.assert_allclose(got, expected, rtol=0, atol=share * np.abs(expected).max())


@pytest.mark.parametrize("scan_layers", [False, True])
@pytest.mark.parametrize(
    ("size", "expected"), [(transformer_base, 63_045_632), (transformer_big, 214_171_648)]
)
def test_published_sizes(size, expected, scan_layers):
    model = size(scan_layers=scan_layers)
    tokens = jnp.zeros((1, 4), int)
    shapes = jax.eval_shape(lambda key: model.init(key, tokens, target=tokens), jax.random.key(0))
    # Three parts of the paper's model, counted by hand.
    d, h, layers = model.hidden_dim, 4 * model.hidden_dim, model.num_layers
    mlp, norm = 2 * d * h + h + d, 2 * d
    encoder, decoder = 4 * d * d + mlp + 2 * norm, 8 * d * d + mlp + 3 * norm
    assert expected == 37_000 * d + layers * (encoder + decoder)
    assert sum(x.size for x in jax.tree.leaves(shapes)) == expected


def test_positions_are_those_of_the_paper():
    table = sinusoids(50, 6)
    for t in (0, 1, 7, 49):
        for i in range(3):
            angle = t / 10_000 ** (2 * i / 6)
            np.testing.assert_allclose(table[t, 2 * i], np.sin(angle), atol=1e-6)
            np.testing.assert_allclose(table[t, 2 * i + 1], np.cos(angle), atol=1e-6)
    assert sinusoids(3, 5).shape == (3, 5)


def test_ties_decide_what_parameters_there_are():
    def found(**options):
        model = Transformer(V, 1, N, D, **options)
        start = jax.eval_shape(
            lambda key: model.init(key, SOURCE, target=TARGET), jax.random.key(0)
        )["params"]
        return {k: v for k, v in start.items() if k not in ("encoder", "decoder")}

    assert set(found()) == {"token_embedding"}
    target = found(tie="target", source_vocab_size=20)
    assert set(target) == {"token_embedding", "source_embedding"}
    assert target["source_embedding"]["embedding"].shape == (20, D)
    own = found(tie="none")
    assert own["head"]["kernel"].shape == (D, V)
    assert set(own) == {"token_embedding", "source_embedding", "head"}


@pytest.mark.slow
def test_no_logit_reads_the_future_and_each_reads_the_source():
    other = TARGET.copy()
    other[:, 3:] = (other[:, 3:] + 1) % V
    before, after = run(SOURCE, TARGET), run(SOURCE, other)
    np.testing.assert_array_equal(before[:, :3], after[:, :3])
    assert np.all(np.abs(before[:, 3:] - after[:, 3:]).max(-1) > 0)
    changed = SOURCE.copy()
    changed[:, 4] = (changed[:, 4] + 1) % V
    assert np.all(np.abs(before - run(changed, TARGET)).max(-1) > 0)


@pytest.mark.slow
def test_padding_changes_neither_logits_nor_gradients():
    def loss(p, source, target, source_mask, target_mask):
        logits = make().apply(
            {"params": p}, source, target=target, source_mask=source_mask, target_mask=target_mask
        )
        kept = logits[:, :4]
        return jnp.sum(jnp.sin(kept) * jnp.arange(V)[None, None]), kept

    measured = jax.jit(jax.grad(loss, has_aux=True))
    source, target = SOURCE[:, :3], TARGET[:, :4]
    grads, logits = measured(params(), source, target, np.ones((2, 3)), np.ones((2, 4)))
    noise = np.full((2, 2), 7)
    longer = np.concatenate([source, noise], 1), np.concatenate([target, noise], 1)
    masks = np.arange(5)[None] < [[3], [3]], np.arange(6)[None] < [[4], [4]]
    padded_grads, padded = measured(params(), *longer, *masks)
    close(padded, logits)
    scale = max(np.abs(x).max() for x in jax.tree.leaves(grads))
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(padded_grads), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * scale)
    # A row that is padding throughout is harmless.
    nothing, _ = measured(params(), *longer, np.zeros((2, 5)), np.zeros((2, 6)))
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(nothing))


@pytest.mark.parametrize("pre_norm", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_cached_logits_are_those_of_the_whole(pre_norm):
    model = make(pre_norm=pre_norm, tie="none", source_vocab_size=V)
    start = jax.jit(model.init)(jax.random.key(2), SOURCE, target=TARGET)["params"]
    variables = {"params": start}
    expected = jax.jit(model.apply)(variables, SOURCE, target=TARGET, source_mask=SOURCE_MASK)
    begin = jax.jit(
        lambda s, m: model.apply(variables, s, 6, source_mask=m, method="begin", mutable=["cache"])[
            1
        ]
    )
    extend = jax.jit(
        lambda cache, t: model.apply({**variables, **cache}, t, method="extend", mutable=["cache"])
    )
    cache, found = begin(SOURCE, SOURCE_MASK), []
    for first, last in ((0, 2), (2, 3), (3, 4), (4, 6)):
        logits, cache = extend(cache, TARGET[:, first:last])
        found.append(logits)
    close(np.concatenate(found, 1), expected)
    assert int(cache["cache"]["decoder"]["index"]) == 6
    assert np.all(np.isnan(extend(cache, TARGET[:, :2])[0]))
    for wrong in (TARGET[:1], np.concatenate([TARGET, TARGET], 1)):
        with pytest.raises(BatchError, match="for a cache of 2 rows x 6 tokens"):
            extend(cache, wrong)


@pytest.mark.slow
@pytest.mark.parametrize("remat", [None, "full"])
def test_scanned_is_unrolled(remat):
    stacked = {
        name: stack_layers(part) if name in ("encoder", "decoder") else part
        for name, part in params().items()
    }

    def loss(p, **options):
        logits = make(**options).apply(
            {"params": p}, SOURCE, target=TARGET, source_mask=SOURCE_MASK
        )
        return jnp.sum(jnp.sin(logits) * jnp.arange(V)[None, None])

    value, expected = jax.jit(jax.value_and_grad(loss))(params())
    scanned = functools.partial(loss, scan_layers=True, remat=remat)
    got, grads = jax.jit(jax.value_and_grad(scanned))(stacked)
    np.testing.assert_allclose(got, value, rtol=1e-5)
    expected = {
        name: stack_layers(part) if name in ("encoder", "decoder") else part
        for name, part in expected.items()
    }
    scale = max(np.abs(x).max() for x in jax.tree.leaves(expected))
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("scan_layers", [False, True])
def test_tensor_rules_divide_what_they_say(scan_layers):
    model = make(scan_layers=scan_layers, tie="none")
    shapes = jax.eval_shape(lambda key: model.init(key, SOURCE, target=TARGET), jax.random.key(0))
    rules = SCANNED_TENSOR_RULES if scan_layers else TENSOR_RULES
    leading, block = ((None,), "blocks") if scan_layers else ((), "block_1")
    found = {}
    for path, leaf in zip(
        leaf_paths(shapes["params"]), jax.tree.leaves(shapes["params"]), strict=True
    ):
        specs = [spec for pattern, spec in rules if re.search(pattern, path)]
        assert len(specs) <= 1
        assert not specs or len(specs[0]) == leaf.ndim
        found[path] = specs[0] if specs else None
    assert found["source_embedding/embedding"] == P("tensor", None)
    assert found["head/kernel"] == P(None, "tensor")
    assert found[f"decoder/{block}/cross_attention/key/kernel"] == P(*leading, None, "tensor")
    assert found[f"encoder/{block}/attention/out/kernel"] == P(*leading, "tensor", None)
    assert found[f"decoder/{block}/mlp_out/kernel"] == P(*leading, "tensor", None)
    assert found[f"decoder/{block}/attention/out/bias"] is None
    for pattern, _ in rules:
        assert any(re.search(pattern, path) for path in found)


@pytest.mark.slow
def test_dropout_is_on_in_training_only():
    model = make(dropout_rate=0.5)
    given = {"params": params()}
    close(jax.jit(model.apply)(given, SOURCE, target=TARGET), run(SOURCE, TARGET))
    call = functools.partial(model.apply, given, SOURCE, target=TARGET, train=True)
    drawn = jax.jit(lambda key: call(rngs={"dropout": key}))
    a, b = drawn(jax.random.key(0)), drawn(jax.random.key(1))
    assert np.abs(a - b).max() > 0.1


def test_wrong_arguments_are_named():
    with pytest.raises(BatchError, match=r"shape \[5\](.|\n)*source tokens"):
        run(SOURCE[0], TARGET)
    with pytest.raises(BatchError, match="target tokens of dtype float32"):
        run(SOURCE, TARGET.astype(np.float32))
    with pytest.raises(BatchError, match=r"source_mask has shape \[2, 6\](.|\n)*\[2, 5\]"):
        run(SOURCE, TARGET, source_mask=np.ones((2, 6)))
    with pytest.raises(BatchError, match="target_mask has shape"):
        run(SOURCE, TARGET, target_mask=np.ones((2, 5)))
    with pytest.raises(BatchError, match="2 rows(.|\n)*3 rows"):
        run(SOURCE, np.concatenate([TARGET, TARGET[:1]]))
    with pytest.raises(ConfigError, match=r"tie is 'targets'(.|\n)*did you mean 'target'"):
        make(tie="targets").init(jax.random.key(0), SOURCE, target=TARGET)
    with pytest.raises(ConfigError, match="20 source words and 13 target words"):
        make(source_vocab_size=20).init(jax.random.key(0), SOURCE, target=TARGET)
    with pytest.raises(ConfigError, match="3 heads do not divide 8 features"):
        Transformer(V, 1, 3, D).init(jax.random.key(0), SOURCE, target=TARGET)
    with pytest.raises(ConfigError, match="no cache to extend"):
        make().apply({"params": params()}, TARGET, method="extend", mutable=["cache"])
    with pytest.raises(ConfigError, match="cache's length is 0"):
        make().apply({"params": params()}, SOURCE, 0, method="begin", mutable=["cache"])
