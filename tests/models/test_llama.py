"""Llama against its formulas in NumPy, its published sizes, and the laws of rotary positions."""

from __future__ import annotations

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads

from jaxdl import objectives
from jaxdl.errors import BatchError, ConfigError
from jaxdl.models import Llama, llama, llama2_7b, llama3_2_1b, llama3_8b, stack_layers
from jaxdl.models.rotary import Rotary, RotaryScaling
from jaxdl.tree_paths import leaf_paths

V, D, N, K, LAYERS, LENGTH, THETA, EPSILON = 24, 16, 4, 2, 2, 12, 100.0, 1e-3
SCALING = RotaryScaling(factor=4.0, low=1.0, high=2.0, original_length=24)
SIZES = {
    "vocab_size": V,
    "num_layers": LAYERS,
    "num_heads": N,
    "num_kv_heads": K,
    "hidden_dim": D,
    "mlp_dim": 20,
    "max_length": LENGTH,
    "rope_theta": THETA,
    "norm_epsilon": EPSILON,
}
TOKENS = np.random.default_rng(3).integers(0, V, (2, 8))


@functools.cache
def randomised():
    """Parameters far from their start, so that every scale matters."""
    shapes = jax.eval_shape(Llama(**SIZES).init, jax.random.key(0), TOKENS)["params"]
    rng = np.random.default_rng(1)

    def drawn(path, leaf):
        values = 0.3 * rng.normal(size=leaf.shape) + (path[-1].key == "scale")
        return values.astype(np.float32)

    return jax.tree_util.tree_map_with_path(drawn, shapes)


def numpy_frequencies(size, scaling):
    """By wavelengths, one at a time."""
    found = []
    for pair in range(size // 2):
        frequency = 1 / THETA ** (2 * pair / size)
        wavelength = 2 * np.pi / frequency
        if scaling is None or wavelength < scaling.original_length / scaling.high:
            found.append(frequency)
        elif wavelength > scaling.original_length / scaling.low:
            found.append(frequency / scaling.factor)
        else:
            share = scaling.original_length / wavelength - scaling.low
            share = share / (scaling.high - scaling.low)
            found.append((1 - share) * frequency / scaling.factor + share * frequency)
    return np.array(found)


def numpy_turned(x, scaling):
    """Pairs as complex numbers, ``x [B, T, N, H]``."""
    half = x.shape[-1] // 2
    angles = np.arange(x.shape[1])[:, None] * numpy_frequencies(x.shape[-1], scaling)
    turned = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angles)[:, None]
    return np.concatenate([turned.real, turned.imag], -1)


def numpy_norm(x, p):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + EPSILON) * p["scale"]


def numpy_attention(x, p, scaling):
    """One head and one query at a time; ``N / K`` heads in a row share a key."""
    size = D // N
    q, k, v = (x @ p[name]["kernel"] for name in ("query", "key", "value"))
    q = numpy_turned(q.reshape(*x.shape[:2], N, size), scaling)
    k = numpy_turned(k.reshape(*x.shape[:2], K, size), scaling)
    v = v.reshape(*x.shape[:2], K, size)
    out = np.zeros_like(q)
    for b in range(x.shape[0]):
        for n in range(N):
            for t in range(x.shape[1]):
                own = n // (N // K)
                scores = k[b, : t + 1, own] @ q[b, t, n] / np.sqrt(size)
                weights = np.exp(scores - scores.max())
                out[b, t, n] = weights @ v[b, : t + 1, own] / weights.sum()
    return out.reshape(x.shape) @ p["out"]["kernel"]


def numpy_llama(params, tokens, scaling):
    """Logits by the formulas of the papers, in float64."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    x = p["token_embedding"]["embedding"][tokens]
    for layer in range(LAYERS):
        block = p[f"block_{layer}"]
        y = numpy_norm(x, block["attention_norm"])
        x = x + numpy_attention(y, block["attention"], scaling)
        y = numpy_norm(x, block["mlp_norm"])
        gate = y @ block["mlp_gate"]["kernel"]
        gate = gate / (1 + np.exp(-gate))
        x = x + (gate * (y @ block["mlp_in"]["kernel"])) @ block["mlp_out"]["kernel"]
    head = p.get("head", p["token_embedding"])["embedding"]
    return numpy_norm(x, p["norm"]) @ head.T


def apply(params, tokens, *, options=None, **call):
    run = jax.jit(functools.partial(Llama(**{**SIZES, **(options or {})}).apply, **call))
    return run({"params": params}, tokens)


def close(got, expected, tolerance=1e-5):
    """Within a tolerance of the largest entry of each leaf."""

    def compare(a, b):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.max(np.abs(b)))

    jax.tree.map(compare, got, expected)


@pytest.mark.parametrize("scaling", [None, SCALING], ids=["plain", "scaled"])
def test_logits_are_those_of_the_formulas(scaling):
    logits = apply(randomised(), TOKENS, options={"scaling": scaling})
    assert logits.shape == (2, 8, V)
    assert logits.dtype == jnp.float32
    close(logits, numpy_llama(randomised(), TOKENS, scaling))


def test_a_tied_head_is_the_word_embedding():
    params = {name: value for name, value in randomised().items() if name != "head"}
    logits = apply(params, TOKENS, options={"tied_head": True})
    close(logits, numpy_llama(params, TOKENS, None))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (llama2_7b, 6_738_415_616),
        (llama3_8b, 8_030_261_248),
        (llama3_2_1b, 1_235_814_400),
    ],
)
def test_published_sizes(make, expected):
    model = make(scan_layers=True)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 4), int))
    assert sum(x.size for x in jax.tree.leaves(shapes)) == expected
    assert f"{expected:,} parameters" in make.__doc__


def test_initial_sizes():
    sizes = {**SIZES, "vocab_size": 500, "hidden_dim": 64, "mlp_dim": 96, "scan_layers": True}
    params = jax.jit(Llama(**sizes).init)(jax.random.key(0), TOKENS)["params"]
    for path, leaf in zip(leaf_paths(params), jax.tree.leaves(params), strict=True):
        if path.endswith("scale"):
            assert np.all(leaf == 1), path
        else:
            assert abs(np.std(leaf) / 0.02 - 1) < 0.06, path
    assert not [path for path in leaf_paths(params) if "bias" in path]


def vectors(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize("scaling", [None, SCALING], ids=["plain", "scaled"])
def test_turned_vectors_know_their_distance(scaling):
    rotary = Rotary(THETA, scaling)
    q, k = vectors(1, 1, 1, 8), vectors(1, 1, 1, 8, seed=1)

    def score(at, other):
        turned = rotary.turn(q, jnp.full((1, 1), at)), rotary.turn(k, jnp.full((1, 1), other))
        return jnp.sum(turned[0] * turned[1])

    np.testing.assert_allclose(score(9, 5), score(4, 0), rtol=1e-4)
    assert abs(score(9, 5) - score(9, 6)) > 1e-2
    assert np.array_equal(rotary.turn(q, jnp.zeros((1, 1), int)), q)


def test_turning_is_a_rotation_in_every_dtype():
    x, places = vectors(2, 5, 3, 8), jnp.arange(10).reshape(2, 5)
    turned = Rotary(THETA).turn(x, places)
    close(jnp.linalg.norm(turned, axis=-1), jnp.linalg.norm(x, axis=-1))
    check_grads(jax.jit(lambda x: Rotary(THETA).turn(x, places)), (x,), 1, rtol=1e-2)
    half = Rotary(THETA).turn(x.astype(jnp.bfloat16), places)
    assert half.dtype == jnp.bfloat16
    # Far from the start angles are still exact to a part of a turn: they are float32.
    close(half.astype(jnp.float32), turned, 0.02)
    far = Rotary(1e4).turn(x[:1, :1].astype(jnp.bfloat16), jnp.full((1, 1), 30_001))
    near = Rotary(1e4).turn(x[:1, :1].astype(jnp.bfloat16), jnp.full((1, 1), 30_002))
    assert not np.array_equal(far, near)


def test_one_row_of_positions_is_of_all_rows():
    x = vectors(2, 5, 3, 8)
    one = Rotary().turn(x, jnp.arange(5)[None])
    np.testing.assert_array_equal(one, Rotary().turn(x, jnp.tile(jnp.arange(5)[None], (2, 1))))


def test_no_logit_reads_the_future():
    other = TOKENS.copy()
    other[:, 4:] = (other[:, 4:] + 1) % V
    before, after = (apply(randomised(), tokens) for tokens in (TOKENS, other))
    np.testing.assert_array_equal(before[:, :4], after[:, :4])
    assert not np.array_equal(before[:, 4:], after[:, 4:])


def loss(params, model=None, chunk_size=None):
    objective = objectives.language_model(model or Llama(**SIZES), chunk_size=chunk_size)
    return objective.loss(params, {}, {"tokens": TOKENS}, jax.random.key(0), train=True)[0]


@pytest.mark.slow
def test_scanned_and_rematerialised_layers_change_no_gradient():
    expected = jax.jit(jax.value_and_grad(loss))(randomised())
    model = Llama(**SIZES, scan_layers=True, remat="dots")
    got = jax.jit(jax.value_and_grad(functools.partial(loss, model=model)))(
        stack_layers(randomised())
    )
    close(got, (expected[0], stack_layers(expected[1])), 2e-5)


def test_the_loss_in_chunks_is_that_of_logits():
    params, model = stack_layers(randomised()), Llama(**SIZES, scan_layers=True)
    whole, chunked = (
        jax.jit(functools.partial(loss, model=model, chunk_size=size))(params) for size in (None, 3)
    )
    close(chunked, whole)


def test_half_precision_norms_in_float32():
    logits = apply(randomised(), TOKENS, options={"dtype": jnp.bfloat16})
    assert logits.dtype == jnp.float32
    close(logits, apply(randomised(), TOKENS), 0.05)
    # The square of 300 overflows no float16: the mean of squares is float32.
    norm = llama.rms_norm(EPSILON, jnp.float16, jnp.float32, "norm")
    x = jnp.full((1, 1, D), 300.0, jnp.float16)
    y = norm.apply({"params": {"scale": jnp.ones(D)}}, x)
    assert y.dtype == jnp.float16
    np.testing.assert_allclose(y, 1.0, rtol=1e-3)


@pytest.mark.parametrize("scan_layers", [False, True], ids=["unrolled", "scanned"])
def test_tensor_rules_divide_what_they_say(scan_layers):
    model = Llama(**SIZES, scan_layers=scan_layers)
    shapes = jax.eval_shape(model.init, jax.random.key(0), TOKENS)["params"]
    rules = llama.LLAMA_SCANNED_TENSOR_RULES if scan_layers else llama.LLAMA_TENSOR_RULES
    leading = (None,) if scan_layers else ()
    found = {}
    for path, leaf in zip(leaf_paths(shapes), jax.tree.leaves(shapes), strict=True):
        specs = [spec for pattern, spec in rules if re.search(pattern, path)]
        assert len(specs) <= 1
        assert not specs or len(specs[0]) == leaf.ndim
        found[path] = specs[0] if specs else None
    block = "blocks" if scan_layers else "block_1"
    columns, rows = P(*leading, None, "tensor"), P(*leading, "tensor", None)
    expected = {
        "token_embedding/embedding": P("tensor", None),
        "head/embedding": P("tensor", None),
        **{f"{block}/attention/{name}/kernel": columns for name in ("query", "key", "value")},
        f"{block}/attention/out/kernel": rows,
        f"{block}/mlp_gate/kernel": columns,
        f"{block}/mlp_in/kernel": columns,
        f"{block}/mlp_out/kernel": rows,
    }
    assert {path: spec for path, spec in found.items() if block in path or "emb" in path} == {
        **expected,
        f"{block}/attention_norm/scale": None,
        f"{block}/mlp_norm/scale": None,
    }
    for pattern, _ in rules:
        assert any(re.search(pattern, path) for path in found)


def test_a_model_cut_over_devices_is_the_same(devices):
    mesh = jax.sharding.Mesh(np.array(devices).reshape(4, 2), ("data", "tensor"))
    params = stack_layers(randomised())
    specs = [
        next(
            (s for pattern, s in llama.LLAMA_SCANNED_TENSOR_RULES if re.search(pattern, path)), P()
        )
        for path in leaf_paths(params)
    ]
    shardings = [jax.sharding.NamedSharding(mesh, spec) for spec in specs]
    placed = jax.device_put(params, jax.tree.unflatten(jax.tree.structure(params), shardings))
    tokens = np.concatenate([TOKENS, TOKENS])
    rows = jax.device_put(tokens, jax.sharding.NamedSharding(mesh, P("data")))
    options = {"scan_layers": True}
    close(apply(placed, rows, options=options), apply(params, tokens, options=options))


def test_rows_moved_together_change_no_logit():
    """Only distances count, so positions may begin anywhere."""
    places = jnp.arange(8)[None] + jnp.array([[3], [0]])
    close(apply(randomised(), TOKENS, positions=places), apply(randomised(), TOKENS), 1e-4)
    apart = 2 * jnp.arange(8)[None] + jnp.zeros((2, 1), int)
    moved = apply(randomised(), TOKENS, positions=apart)
    assert np.abs(moved - apply(randomised(), TOKENS)).max() > 1e-2


def test_text_read_in_pieces_from_the_cache_is_the_whole_text():
    model, params = Llama(**SIZES, scan_layers=True), stack_layers(randomised())
    whole = jax.jit(model.apply)({"params": params}, TOKENS)
    read = jax.jit(functools.partial(model.apply, decode=True, mutable=["cache"]))
    _, held = read({"params": params}, jnp.zeros((2, LENGTH), int))
    # The cache holds the heads of keys, which are fewer than those of queries.
    assert held["cache"]["blocks"]["attention"]["cached_key"].shape == (
        LAYERS,
        2,
        LENGTH,
        K,
        D // N,
    )
    pieces = []
    for begin, end in ((0, 6), (6, 7), (7, 8)):
        logits, held = read({"params": params, **held}, TOKENS[:, begin:end])
        pieces.append(logits)
    close(jnp.concatenate(pieces, 1), whole)


def test_packed_segments_are_rows_of_their_own():
    segments = jnp.array([[1, 1, 1, 2, 2, 2, 2, 0]] * 2)
    packed = apply(randomised(), TOKENS, segments=segments)
    close(packed[:, :3], apply(randomised(), TOKENS[:, :3]), 1e-4)
    close(packed[:, 3:7], apply(randomised(), TOKENS[:, 3:7]), 1e-4)


def test_wrong_arguments_are_named():
    with pytest.raises(BatchError, match=r"Llama got an input of shape \[8\]"):
        apply(randomised(), TOKENS[0])
    with pytest.raises(BatchError, match=r"shape \[2, 16\](.|\n)*at most 12"):
        apply(randomised(), np.concatenate([TOKENS, TOKENS], 1))
    with pytest.raises(ConfigError, match="0 heads of keys do not divide 4"):
        apply(randomised(), TOKENS, options={"num_kv_heads": 0})
    with pytest.raises(ConfigError, match="a head has 3 features"):
        Rotary().frequencies(3)
    with pytest.raises(ConfigError, match=r"theta of rotary positions is 0"):
        Rotary(0.0)
    with pytest.raises(ConfigError, match="with low below high"):
        RotaryScaling(low=4.0, high=4.0)
    with pytest.raises(BatchError, match=r"x \[2, 5, 3, 8\], positions \[3, 5\]"):
        Rotary().turn(vectors(2, 5, 3, 8), jnp.zeros((3, 5), int))
