"""Attention: every implementation is one function, and the layer around it keeps a cache."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pallas_tpu
from jax.sharding import PartitionSpec as P

from jaxdl.errors import BatchError, ConfigError
from jaxdl.models import Reach, SelfAttention, attention, kernels, segment_mask
from jaxdl.models.activations import activations_on
from jaxdl.models.masks import real_tokens

ROWS, LENGTH = 2, 6
SEGMENTS = np.array([[1, 1, 1, 2, 2, 0], [1, 2, 2, 2, 3, 3]])
KEYS = np.array([[1, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1]])
MASKS = {
    "nothing": {},
    "keys": {"mask": KEYS},
    "pairs": {"mask": segment_mask(SEGMENTS)},
    "segments": {"segments": SEGMENTS},
    "keys_and_segments": {"mask": KEYS, "segments": SEGMENTS},
}


def close(got, expected, tolerance=1e-5):
    def compare(a, b):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(np.abs(b).max(), 1e-3))

    jax.tree.map(compare, got, expected)


def heads(length=LENGTH, *, of_keys=2, of_queries=4):
    rng = np.random.default_rng(5)
    counts = (of_queries, of_keys, of_keys)
    return [jnp.asarray(rng.normal(size=(ROWS, length, n, 8)), jnp.float32) for n in counts]


def with_gradients(implementation, qkv, **options):
    def run(*qkv):
        out = attention(*qkv, implementation=implementation, **options)
        return jnp.sum(jnp.sin(out)), out

    return jax.jit(jax.value_and_grad(run, (0, 1, 2), has_aux=True))(*qkv)


def by_numpy(qkv, allowed):
    """One query of one head at a time; nothing to see gives zeros."""
    q, k, v = (np.asarray(x, np.float64) for x in qkv)
    out, shared = np.zeros_like(q), q.shape[2] // k.shape[2]
    for b, t, n in np.ndindex(q.shape[:3]):
        seen = np.flatnonzero(allowed[b, t])
        if len(seen):
            scores = k[b, seen, n // shared] @ q[b, t, n] / np.sqrt(q.shape[3])
            weights = np.exp(scores - scores.max())
            out[b, t, n] = weights @ v[b, seen, n // shared] / weights.sum()
    return out


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name", MASKS)
def test_attention_is_one_function(name, causal):
    qkv, options = heads(), {"causal": causal, **MASKS[name]}
    ours, theirs = (with_gradients(chosen, qkv, **options) for chosen in ("plain", "xla"))
    close(ours, theirs)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(ours))

    allowed = np.tri(LENGTH, dtype=bool) if causal else np.ones((LENGTH, LENGTH), bool)
    allowed = np.repeat(allowed[None], ROWS, axis=0)
    if "segments" in options:
        allowed = allowed & np.asarray(segment_mask(SEGMENTS))
    if "mask" in options:
        given = np.asarray(options["mask"]) != 0
        allowed = allowed & (given[:, None] if given.ndim == 2 else given)
    close(ours[0][1], by_numpy(qkv, allowed))


@pytest.mark.parametrize("of_keys", [1, 4])
def test_any_number_of_heads_of_keys(of_keys):
    qkv = heads(of_keys=of_keys)
    allowed = np.repeat(np.tri(LENGTH, dtype=bool)[None], ROWS, axis=0)
    for chosen in ("plain", "xla"):
        found = attention(*qkv, causal=True, implementation=chosen)
        close(found, by_numpy(qkv, allowed))


def test_attention_in_half_precision_sums_in_float32():
    rng = np.random.default_rng(6)
    q, k, v = (jnp.asarray(rng.normal(size=(1, 64, 2, 8)), jnp.bfloat16) for _ in range(3))
    exact = attention(*(x.astype(jnp.float32) for x in (q, k, v)), causal=True)
    for name in ("plain", "xla"):
        out = attention(q, k, v, causal=True, implementation=name)
        assert out.dtype == jnp.bfloat16
        np.testing.assert_allclose(out.astype(jnp.float32), exact, atol=0.02)


def test_float16_runs_where_jax_has_no_kernel_for_it():
    qkv = heads()
    half = attention(*(x.astype(jnp.float16) for x in qkv), causal=True)
    assert half.dtype == jnp.float16
    close(half.astype(jnp.float32), attention(*qkv, causal=True), 0.01)


def test_double_precision_stays_double():
    with jax.enable_x64(True):
        qkv = [jnp.asarray(x, jnp.float64) for x in heads()]
        out = attention(*qkv, causal=True)
        assert out.dtype == jnp.float64
        allowed = np.repeat(np.tri(LENGTH, dtype=bool)[None], ROWS, axis=0)
        np.testing.assert_allclose(out, by_numpy(qkv, allowed), rtol=1e-12)


def long_masks(length):
    at = np.arange(length)[None]
    return {
        "nothing": {},
        "keys": {"mask": (at >= np.array([[length // 3], [0]])) & (at < length - 5)},
        "keys_and_segments": {
            "mask": np.repeat(at % 7 != 3, 2, axis=0),
            "segments": np.where(at < np.array([[length // 2], [length - 9]]), 1, 2)
            * (at < length - 20),
        },
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "causal"), [("nothing", True), ("keys", False), ("keys_and_segments", True)]
)
def test_the_flash_kernel_is_the_same_function(name, causal, monkeypatch):
    """By the interpreter, on blocks small enough that there are several of each."""
    monkeypatch.setattr(kernels, "_BLOCKS", (128,))
    qkv = heads(length=256, of_queries=2, of_keys=1)
    options = {"causal": causal, **long_masks(256)[name]}
    with pallas_tpu.force_tpu_interpret_mode():
        found = jax.block_until_ready(with_gradients("flash", qkv, **options))
    close(found, with_gradients("xla", qkv, **options))


@pytest.mark.slow
def test_the_flash_kernel_runs_on_each_devices_own_part(devices):
    mesh = jax.sharding.Mesh(np.array(devices[:4]).reshape(2, 2), ("data", "tensor"))
    rules = (("batch", ("data",)), ("heads", ("tensor",)), ("keys", ()), ("time", ()))
    qkv = heads(length=128, of_queries=2, of_keys=1)
    options = {"causal": True, **long_masks(128)["keys_and_segments"]}
    with pallas_tpu.force_tpu_interpret_mode(), activations_on(mesh, rules):
        found = jax.block_until_ready(with_gradients("flash", qkv, **options))
    assert found[0][1].sharding.spec[:3] == ("data", None, "tensor")
    close(jax.device_get(found), with_gradients("xla", qkv, **options))


def test_the_kernel_is_chosen_where_it_runs(monkeypatch, devices):
    mesh = jax.sharding.Mesh(np.array(devices), ("data",))
    query, key, _ = heads(length=256)

    def chosen(*qk, time=(), **options):
        with activations_on(mesh, (("time", time),)):
            return kernels.choose(None, *(qk or (query, key)), **options)

    assert chosen() == "xla"
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert chosen() == "flash"
    assert chosen(segments=1, mask=np.ones((2, 256))) == "flash"
    assert chosen(mask=np.ones((2, 256, 256))) == "xla"
    assert chosen(query[:, :100], key) == "xla"
    assert chosen(query[..., :4], key) == "xla"
    # JAX's own takes no float16 but on a GPU.
    assert chosen(query.astype(jnp.float16), key) == "plain"
    assert chosen(time=("data",)) == "xla"
    # Several devices, and nobody says where the arrays lie.
    assert kernels.choose(None, query, key) == "xla"
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert kernels.choose(None, query, key) == "flash"
    within: list[str] = []

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=P("data"), out_specs=P("data"))
    def mapped(x):
        within.append(kernels.choose(None, query, key))
        return x

    mapped(jnp.zeros(8))
    assert within == ["xla"]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    half = query.astype(jnp.bfloat16), key.astype(jnp.bfloat16)
    assert chosen(*half) == "cudnn"
    assert chosen(*half, segments=1) == "xla"
    assert chosen(query, key) == "xla"


@dataclasses.dataclass(frozen=True)
class Scaling:
    """In place of rotary positions: easy to see in the result."""

    def turn(self, x, positions):
        return x * (1.0 + 0.1 * positions.astype(x.dtype))[:, :, None, None]


@functools.cache
def layer_and_variables(**options):
    layer = SelfAttention(4, causal=True, num_kv_heads=2, rotary=Scaling(), **options)
    rng = np.random.default_rng(2)
    x = jnp.asarray(rng.normal(size=(ROWS, LENGTH, 16)), jnp.float32)
    shapes = jax.eval_shape(layer.init, jax.random.key(0), x)
    params = jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s.shape), jnp.float32), shapes)
    return layer, params, x


def test_shared_keys_are_those_of_repeated_kernels():
    layer, variables, x = layer_and_variables()
    params = variables["params"]
    assert params["key"]["kernel"].shape == (16, 8)
    wide = {
        name: {
            leaf: jnp.repeat(value.reshape(*value.shape[:-1], 2, 4), 2, axis=-2).reshape(
                *value.shape[:-1], 16
            )
            for leaf, value in params[name].items()
        }
        for name in ("key", "value")
    }
    every = SelfAttention(4, causal=True, rotary=Scaling())
    expected = every.apply({"params": {**params, **wide}}, x)
    close(layer.apply(variables, x), expected)
    bare, without, _ = layer_and_variables(use_bias=False)
    assert all(set(p) == {"kernel"} for p in without["params"].values())
    assert bare.apply(without, x).shape == x.shape


def test_the_cache_continues_where_it_was():
    layer, variables, x = layer_and_variables()
    full = jax.jit(layer.apply)(variables, x)
    _, made = layer.apply(
        variables, jnp.zeros((ROWS, LENGTH + 1, 16)), Reach(index=jnp.int32(0)), mutable=["cache"]
    )
    cache, found = made["cache"], []
    assert cache["cached_key"].shape == (ROWS, LENGTH + 1, 2, 4)
    assert not any(np.any(x) for x in jax.tree.leaves(cache))
    call = jax.jit(functools.partial(layer.apply, mutable=["cache"]))
    for start, stop in ((0, 4), (4, 5), (5, 6)):
        reach = Reach(index=jnp.int32(start))
        out, kept = call({**variables, "cache": cache}, x[:, start:stop], reach)
        cache = kept["cache"]
        found.append(out)
    close(jnp.concatenate(found, axis=1), full)
    for index, past in ((LENGTH, False), (LENGTH + 1, True)):
        out, _ = call({**variables, "cache": cache}, x[:, :1], Reach(index=jnp.int32(index)))
        assert np.isnan(out).all() == np.isnan(out).any() == past


def test_given_positions_are_taken():
    layer, variables, x = layer_and_variables()
    at = jnp.broadcast_to(jnp.arange(LENGTH)[None], (ROWS, LENGTH))
    plain = layer.apply(variables, x)
    np.testing.assert_array_equal(layer.apply(variables, x, Reach(positions=at)), plain)
    assert not np.allclose(layer.apply(variables, x, Reach(positions=at + 5)), plain, atol=1e-2)


def test_real_tokens_of_every_kind_of_mask():
    assert real_tokens(None, LENGTH) is None
    assert real_tokens(KEYS, LENGTH) is KEYS
    np.testing.assert_array_equal(real_tokens(Reach(segments=SEGMENTS), LENGTH), SEGMENTS != 0)
    both = real_tokens(Reach(KEYS, SEGMENTS), LENGTH)
    np.testing.assert_array_equal(both, (KEYS != 0) & (SEGMENTS != 0))
    pairs = real_tokens(Reach(segment_mask(SEGMENTS), SEGMENTS), LENGTH)
    np.testing.assert_array_equal(pairs, SEGMENTS != 0)
    cached = real_tokens(Reach(KEYS, index=jnp.int32(3)), 2)
    np.testing.assert_array_equal(cached, KEYS[:, 3:5])


def test_wrong_arguments_are_named():
    q, k, v = heads()
    with pytest.raises(BatchError, match="S = T when causal"):
        attention(q, k[:, :2], v[:, :2], causal=True)
    with pytest.raises(BatchError, match="K a divisor of N"):
        attention(q[:, :, :3], k, v, causal=False)
    with pytest.raises(BatchError, match=r"mask has shape \[2, 5\]"):
        attention(q, k, v, causal=True, mask=np.ones((2, 5)))
    with pytest.raises(BatchError, match=r"segments have shape \[2, 5\]"):
        attention(q, k, v, causal=True, segments=np.ones((2, 5), int))
    with pytest.raises(BatchError, match="there are 4 keys a row"):
        attention(q, k[:, :4], v[:, :4], causal=False, segments=SEGMENTS)
    with pytest.raises(ConfigError, match="implementation is 'flush'"):
        attention(q, k, v, causal=True, implementation="flush")
    with pytest.raises(BatchError, match="lengths that are multiples of 128"):
        attention(q, k, v, causal=True, implementation="flash")
    for chosen in ("xla", "flash"):
        with pytest.raises(ConfigError, match="cannot drop attention weights"):
            attention(q, k, v, causal=True, implementation=chosen, dropout=lambda w: w)


def test_wrong_caches_and_heads_are_named():
    layer, variables, x = layer_and_variables()
    with pytest.raises(ConfigError, match="3 heads of keys do not divide 4"):
        SelfAttention(4, num_kv_heads=3).init(jax.random.key(0), x)
    with pytest.raises(BatchError, match=r"SelfAttention got an input of shape \[6, 16\]"):
        SelfAttention(4).init(jax.random.key(0), x[0])
    with pytest.raises(ConfigError, match="looks both ways"):
        SelfAttention(4).init(jax.random.key(0), x, Reach(index=jnp.int32(0)))
    start = Reach(index=jnp.int32(0))
    _, made = jax.jit(functools.partial(layer.apply, mutable=["cache"]))(variables, x, start)
    given = {**variables, **made}
    with pytest.raises(BatchError, match="room for 6 tokens in 2 rows, and 12 tokens"):
        layer.apply(given, jnp.concatenate([x, x], axis=1), start, mutable=["cache"])
    with pytest.raises(BatchError, match="came in 1 rows"):
        layer.apply(given, x[:1], start, mutable=["cache"])
    with pytest.raises(BatchError, match=r"mask has shape \[2, 2\]"):
        layer.apply(given, x[:, :2], start._replace(mask=np.ones((2, 2))), mutable=["cache"])
    with pytest.raises(ConfigError, match="segments were given to a cache"):
        layer.apply(given, x, start._replace(segments=SEGMENTS), mutable=["cache"])
