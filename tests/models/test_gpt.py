"""GPT-2 against its formulas in NumPy, its published sizes, and the laws of a causal stack."""

from __future__ import annotations

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jaxdl.errors import BatchError, ConfigError, PathError
from jaxdl.models import (
    GPT,
    REMAT_POLICIES,
    gpt,
    gpt2_1_5b,
    gpt2_124m,
    gpt2_350m,
    gpt2_774m,
    segment_mask,
    stack_layers,
    unstack_layers,
)
from jaxdl.tree_paths import leaf_paths

V, D, N, LAYERS, LENGTH = 23, 16, 2, 2, 9
SIZES = {
    "vocab_size": V,
    "num_layers": LAYERS,
    "num_heads": N,
    "hidden_dim": D,
    "max_length": LENGTH,
}
TOKENS = np.random.default_rng(3).integers(0, V, (2, 8))


@functools.cache
def randomised():
    """Parameters far from their start, so that every bias and scale matters."""
    params = jax.jit(GPT(**SIZES).init)(jax.random.key(0), TOKENS)["params"]
    leaves, structure = jax.tree.flatten(params)
    rng = np.random.default_rng(1)
    moved = [np.asarray(x + 0.3 * rng.normal(size=x.shape), np.float32) for x in leaves]
    return jax.tree.unflatten(structure, moved)


def numpy_norm(x, p):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * p["scale"] + p["bias"]


def numpy_dense(x, p):
    return x @ p["kernel"] + p["bias"]


def numpy_attention(x, p):
    """One head and one query at a time."""
    q, k, v = (numpy_dense(x, p[name]) for name in ("query", "key", "value"))
    out, size = np.zeros_like(x), x.shape[-1] // N
    for b in range(x.shape[0]):
        for n in range(N):
            own = slice(n * size, (n + 1) * size)
            for t in range(x.shape[1]):
                scores = k[b, : t + 1, own] @ q[b, t, own] / np.sqrt(size)
                weights = np.exp(scores - scores.max())
                out[b, t, own] = weights @ v[b, : t + 1, own] / weights.sum()
    return numpy_dense(out, p["out"])


def numpy_gpt2(params, tokens):
    """Logits by the formulas of the paper and its released code, in float64."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    words = p["token_embedding"]["embedding"]
    x = words[tokens] + p["position_embedding"]["embedding"][: tokens.shape[1]]
    for layer in range(LAYERS):
        block = p[f"block_{layer}"]
        x = x + numpy_attention(numpy_norm(x, block["attention_norm"]), block["attention"])
        y = numpy_dense(numpy_norm(x, block["mlp_norm"]), block["mlp_in"])
        y = 0.5 * y * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))
        x = x + numpy_dense(y, block["mlp_out"])
    return numpy_norm(x, p["norm"]) @ words.T


def apply(params, tokens, *, options=None, **call):
    run = jax.jit(functools.partial(GPT(**{**SIZES, **(options or {})}).apply, **call))
    return run({"params": params}, tokens)


def close(got, expected, tolerance=1e-5):
    """Within a tolerance of the largest entry of each leaf.

    The key's bias moves all scores of a query alike, so its gradient is 0 but for rounding: a leaf
    far below all others is compared by their size.
    """
    floor = 1e-2 * max(np.max(np.abs(b)) for b in jax.tree.leaves(expected))

    def compare(a, b):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(np.max(np.abs(b)), floor))

    jax.tree.map(compare, got, expected)


@pytest.mark.parametrize("implementation", ["plain", "xla"])
def test_logits_are_those_of_the_formulas(implementation):
    logits = apply(randomised(), TOKENS, options={"implementation": implementation})
    assert logits.shape == (2, 8, V)
    assert logits.dtype == jnp.float32
    close(logits, numpy_gpt2(randomised(), TOKENS))


@pytest.mark.parametrize(
    ("make", "scan_layers", "expected"),
    [
        (gpt2_124m, False, 124_439_808),
        (gpt2_124m, True, 124_439_808),
        (gpt2_350m, True, 354_823_168),
        (gpt2_774m, True, 774_030_080),
        (gpt2_1_5b, True, 1_557_611_200),
    ],
)
def test_published_sizes(make, scan_layers, expected):
    model = make(scan_layers=scan_layers)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 4), int))
    assert sum(x.size for x in jax.tree.leaves(shapes)) == expected


def test_initial_sizes():
    model = GPT(vocab_size=500, num_layers=2, num_heads=2, hidden_dim=64, max_length=64)
    params = jax.jit(model.init)(jax.random.key(0), TOKENS)["params"]
    block = params["block_1"]
    for kernel in (block["attention"]["query"], block["mlp_in"]):
        assert abs(np.std(kernel["kernel"]) / 0.02 - 1) < 0.05
        assert not np.any(kernel["bias"])
    for kernel in (block["attention"]["out"], block["mlp_out"]):
        assert abs(np.std(kernel["kernel"]) / 0.01 - 1) < 0.05
    assert abs(np.std(params["token_embedding"]["embedding"]) / 0.02 - 1) < 0.05
    assert abs(np.std(params["position_embedding"]["embedding"]) / 0.01 - 1) < 0.05


def test_no_logit_reads_the_future():
    position = 4
    other = TOKENS.copy()
    other[:, position:] = (other[:, position:] + 1) % V
    before, after = (apply(randomised(), tokens)[:, :position] for tokens in (TOKENS, other))
    np.testing.assert_array_equal(before, after)

    def output(shift):
        """Logits by position, as a function of what is added to each position's embedding."""
        params = jax.tree.map(jnp.asarray, randomised())
        places = params["position_embedding"]["embedding"]
        moved = {"embedding": places.at[: TOKENS.shape[1]].add(shift)}
        given = {"params": {**params, "position_embedding": moved}}
        logits = GPT(**SIZES).apply(given, TOKENS)
        return jnp.sum(jnp.sin(logits), axis=(0, 2))

    jacobian = jax.jit(jax.jacrev(output))(jnp.zeros((TOKENS.shape[1], D)))
    reads = np.abs(jacobian).max(-1)
    assert np.all(reads[np.triu_indices(len(reads), 1)] == 0.0)
    assert np.all(reads[np.tril_indices(len(reads))] > 0.0)


def loss(params, **options):
    logits = GPT(**{**SIZES, **options}).apply({"params": params}, TOKENS)
    return jnp.sum(jnp.sin(logits) * jnp.arange(float(V))[None, None])


@pytest.mark.slow
def test_scanned_is_unrolled():
    stacked = stack_layers(randomised())
    close(apply(stacked, TOKENS, options={"scan_layers": True}), apply(randomised(), TOKENS))
    expected = jax.jit(jax.grad(loss))(randomised())
    got = jax.jit(jax.grad(functools.partial(loss, scan_layers=True)))(stacked)
    close(unstack_layers(got), expected)


def test_scanned_layers_start_apart():
    params = jax.jit(GPT(**SIZES, scan_layers=True).init)(jax.random.key(0), TOKENS)["params"]
    kernel = params["blocks"]["mlp_in"]["kernel"]
    assert kernel.shape == (LAYERS, D, 4 * D)
    assert not np.array_equal(kernel[0], kernel[1])
    jax.tree.map(np.testing.assert_array_equal, stack_layers(unstack_layers(params)), params)


def test_stacks_with_gaps_are_refused():
    with pytest.raises(PathError, match="layers block_0, block_2"):
        stack_layers({"block_0": {}, "block_2": {}})
    with pytest.raises(PathError, match="no 'blocks'"):
        unstack_layers({"block_0": {}})


@pytest.mark.parametrize("scan_layers", [False, True])
@pytest.mark.parametrize("remat", list(REMAT_POLICIES))
def test_remat_changes_no_gradient(remat, scan_layers):
    params = stack_layers(randomised()) if scan_layers else randomised()
    plain, kept = (
        jax.jit(jax.grad(functools.partial(loss, scan_layers=scan_layers, remat=name)))
        for name in (None, remat)
    )
    close(kept(params), plain(params))


def temporary_bytes(remat: str | None) -> int:
    model = GPT(64, 6, 4, 64, 256, scan_layers=True, remat=remat)
    tokens = jax.ShapeDtypeStruct((2, 256), jnp.int32)
    params = jax.eval_shape(model.init, jax.random.key(0), tokens)

    def value(params, tokens):
        return jnp.sum(model.apply(params, tokens) ** 2)

    compiled = jax.jit(jax.grad(value)).lower(params, tokens).compile()
    analysis = compiled.memory_analysis()
    assert analysis is not None
    return analysis.temp_size_in_bytes


@pytest.mark.slow
def test_remat_policies_keep_what_they_say():
    full, some, dots, everything = map(temporary_bytes, ("full", "dots_no_batch", "dots", None))
    assert full < some < dots < everything


def test_padding_before_and_after_changes_no_real_logit():
    params, noise = randomised(), np.full((2, 2), 7)
    expected = apply(params, TOKENS[:, :6])
    after = np.concatenate([TOKENS[:, :6], noise], 1)
    mask = jnp.arange(8)[None] < jnp.array([[6], [6]])
    close(apply(params, after, mask=mask)[:, :6], expected)
    close(apply(params, after)[:, :6], expected)
    other = after.copy()
    other[:, :2] = (other[:, :2] + 1) % V
    hidden = jnp.arange(8)[None] >= jnp.array([[2], [2]])
    first, second = (apply(params, tokens, mask=hidden) for tokens in (after, other))
    np.testing.assert_array_equal(first[:, 2:], second[:, 2:])


def test_packed_segments_do_not_see_each_other():
    mask = segment_mask(jnp.array([[1, 1, 1, 2, 2, 2, 2, 0]] * 2))
    other = TOKENS.copy()
    other[:, :3] = (other[:, :3] + 1) % V
    first, second = (apply(randomised(), tokens, mask=mask) for tokens in (TOKENS, other))
    np.testing.assert_array_equal(first[:, 3:7], second[:, 3:7])
    assert not np.array_equal(first[:, :3], second[:, :3])


def test_half_precision_computation_and_float32_logits():
    logits = apply(randomised(), TOKENS, options={"dtype": jnp.bfloat16})
    assert logits.dtype == jnp.float32
    close(logits, apply(randomised(), TOKENS), 0.05)


@pytest.mark.parametrize("scan_layers", [False, True])
def test_tensor_rules_divide_what_they_say(scan_layers):
    model = GPT(**SIZES, scan_layers=scan_layers)
    shapes = jax.eval_shape(model.init, jax.random.key(0), TOKENS)["params"]
    rules = gpt.SCANNED_TENSOR_RULES if scan_layers else gpt.TENSOR_RULES
    leading = (None,) if scan_layers else ()
    found = {}
    for path, leaf in zip(leaf_paths(shapes), jax.tree.leaves(shapes), strict=True):
        specs = [spec for pattern, spec in rules if re.search(pattern, path)]
        assert len(specs) <= 1
        assert not specs or len(specs[0]) == leaf.ndim
        found[path] = specs[0] if specs else None
    block = "blocks" if scan_layers else "block_1"
    assert found["token_embedding/embedding"] == P("tensor", None)
    assert found[f"{block}/attention/value/kernel"] == P(*leading, None, "tensor")
    assert found[f"{block}/attention/value/bias"] == P(*leading, "tensor")
    assert found[f"{block}/attention/out/kernel"] == P(*leading, "tensor", None)
    assert found[f"{block}/mlp_in/kernel"] == P(*leading, None, "tensor")
    assert found[f"{block}/mlp_out/kernel"] == P(*leading, "tensor", None)
    for whole in ("attention/out/bias", "mlp_out/bias", "mlp_norm/scale"):
        assert found[f"{block}/{whole}"] is None
    for pattern, _ in rules:
        assert any(re.search(pattern, path) for path in found)


@pytest.mark.parametrize("scan_layers", [False, True])
def test_a_model_cut_over_devices_is_the_same(devices, scan_layers):
    mesh = jax.sharding.Mesh(np.array(devices).reshape(4, 2), ("data", "tensor"))
    rules = gpt.SCANNED_TENSOR_RULES if scan_layers else gpt.TENSOR_RULES
    options = {"scan_layers": scan_layers, "vocab_size": 24}
    params = randomised()
    words = params["token_embedding"]["embedding"]
    params = {**params, "token_embedding": {"embedding": np.concatenate([words, words[:1]])}}
    params = stack_layers(params) if scan_layers else params
    specs = [
        next((spec for pattern, spec in rules if re.search(pattern, path)), P())
        for path in leaf_paths(params)
    ]
    shardings = [jax.sharding.NamedSharding(mesh, spec) for spec in specs]
    placed = jax.device_put(params, jax.tree.unflatten(jax.tree.structure(params), shardings))
    tokens = np.concatenate([TOKENS, TOKENS])
    rows = jax.device_put(tokens, jax.sharding.NamedSharding(mesh, P("data")))
    close(apply(placed, rows, options=options), apply(params, tokens, options=options))


def test_wrong_arguments_are_named():
    with pytest.raises(BatchError, match=r"GPT got an input of shape \[8\]") as caught:
        apply(randomised(), TOKENS[0])
    # Tokens are no images.
    assert caught.value.do == "reshape the batch field"
    with pytest.raises(BatchError, match=r"shape \[2, 0\](.|\n)*at least 1"):
        apply(randomised(), TOKENS[:, :0])
    with pytest.raises(BatchError, match=r"segments have shape \[8\]"):
        segment_mask(TOKENS[0])
    with pytest.raises(BatchError, match=r"shape \[2, 16\](.|\n)*at most 9"):
        apply(randomised(), np.concatenate([TOKENS, TOKENS], 1))
    with pytest.raises(BatchError, match="dtype float32"):
        apply(randomised(), TOKENS.astype(np.float32))
    with pytest.raises(ConfigError, match=r"remat is 'dot'(.|\n)*did you mean 'dots'"):
        apply(randomised(), TOKENS, options={"remat": "dot"})
    with pytest.raises(ConfigError, match="num_layers is 0"):
        apply(randomised(), TOKENS, options={"num_layers": 0})
    with pytest.raises(ConfigError, match="3 heads do not divide 16 features"):
        apply(randomised(), TOKENS, options={"num_heads": 3})
    with pytest.raises(ConfigError, match="implementation is 'flush'"):
        apply(randomised(), TOKENS, options={"implementation": "flush"})
    with pytest.raises(BatchError, match=r"mask has shape \[2, 5\]"):
        apply(randomised(), TOKENS, mask=jnp.ones((2, 5)))
    for name in ("segments", "positions"):
        with pytest.raises(BatchError, match=rf"{name} have shape \[2, 5\]"):
            apply(randomised(), TOKENS, **{name: np.ones((2, 5), int)})
        with pytest.raises(BatchError, match="dtype float32"):
            apply(randomised(), TOKENS, **{name: np.ones((2, 8), np.float32)})
