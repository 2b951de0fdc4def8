"""WaveNet: its receptive field by gradient, its cache, its padding, its conditioning, its sizes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.errors import BatchError, ConfigError
from jaxdl.models import WaveNet, stack_layers, wavenet_30

V, ROW = 7, 24
TOKENS = np.random.default_rng(0).integers(0, V, (2, ROW))


def tiny(**options) -> WaveNet:
    sizes = {"num_cycles": 2, "cycle": (1, 2), "residual_dim": 4, "gate_dim": 3, "skip_dim": 5}
    return WaveNet(**{"vocab_size": V, **sizes, **options})


def randomised(model, **call):
    """Parameters far from their start; NumPy makes them, as compiling ``init`` takes longer."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), TOKENS, **call))
    return jax.tree.map(lambda x: jnp.float32(0.5 * rng.normal(size=x.shape)), shapes)


def by_numpy(model, params, tokens):
    """The formulas of the paper, sample by sample and tap by tap."""

    def conv(x, p, dilation):
        taps = len(p["kernel"])
        y = np.tile(np.asarray(p["bias"]), (len(x), 1))
        for t in range(len(x)):
            for tap in range(taps):
                at = t - (taps - 1 - tap) * dilation
                if at >= 0:
                    y[t] += x[at] @ p["kernel"][tap]
        return y

    def dense(x, p):
        return x @ np.asarray(p["kernel"]) + np.asarray(p["bias"])

    x, skips = conv(np.eye(V)[tokens], params["causal"], 1), 0.0
    for index in range(model.num_cycles):
        for number, dilation in enumerate(model.cycle):
            p = params[f"block_{index}"][f"layer_{number}"]
            signal, gate = np.split(conv(x, p["dilated"], dilation), 2, axis=-1)
            z = np.tanh(signal) / (1 + np.exp(-gate))
            skips, x = skips + dense(z, p["skip"]), x + dense(z, p["residual"])
    y = dense(np.maximum(skips, 0), params["head_in"])
    return dense(np.maximum(y, 0), params["head_out"])


@pytest.mark.slow
def test_it_is_the_papers_formula():
    model = tiny(kernel_size=3)
    variables = randomised(model)
    got = model.apply(variables, TOKENS)
    wanted = np.stack([by_numpy(model, variables["params"], row) for row in TOKENS])
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("taps", "field"), [(2, 8), (3, 15)])
def test_an_output_depends_on_its_receptive_field_and_nothing_else(taps, field):
    model = tiny(kernel_size=taps)
    assert model.receptive_field == field
    variables, at = randomised(model), ROW - 3
    hot = jax.nn.one_hot(TOKENS[:1], V)
    np.testing.assert_allclose(
        model.apply(variables, hot), model.apply(variables, TOKENS[:1]), atol=1e-6
    )
    grad = jax.grad(lambda x: jnp.sum(jnp.sin(model.apply(variables, x)[0, at])))(hot)
    touched = np.flatnonzero(np.abs(grad[0]).sum(-1))
    assert not np.any(grad[0, at + 1 :])
    assert touched[0] == at - field + 1
    assert touched[-1] == at


def test_published_size():
    model = wavenet_30()
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 4), int))
    layer = (3 * 512 + 1) * 512 + (256 + 1) * (512 + 256)
    ends = (3 * 256 + 1) * 512 + 2 * (256 + 1) * 256
    count = sum(x.size for x in jax.tree.leaves(shapes))
    assert count == 30 * layer + ends == 30_054_912
    assert f"{count:,} parameters" in wavenet_30.__doc__
    assert model.receptive_field == 1 + 2 * (1 + 3 * 1023)
    # What the paper says of one cycle: 1,024 samples, and one more by the first convolution.
    assert WaveNet(num_cycles=1).receptive_field == 1025


CONDITIONED = {
    "condition_classes": (3, 2),
    "local_dim": 2,
    "local_hop": 5,
}
CALL = {
    "condition": np.array([[2, 1], [0, 0]], np.int32),
    "local_condition": np.random.default_rng(2).normal(size=(2, 5, 2)).astype(np.float32),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("taps", "scan", "pieces"), [(3, False, (1, 1, 5, 1, 1, 10, 1, 4)), (2, True, (24,))]
)
def test_cached_is_full(taps, scan, pieces):
    model = tiny(kernel_size=taps, scan_layers=scan, **CONDITIONED)
    variables = randomised(model, **CALL)
    start = lambda: model.init(jax.random.key(0), TOKENS, decode=True, **CALL)  # noqa: E731
    cache = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(start)["cache"])

    @jax.jit
    def advanced(cache, tokens):
        given = {**variables, "cache": cache}
        return model.apply(given, tokens, decode=True, mutable=["cache"], **CALL)

    found, at = [], 0
    for length in (*pieces, *[1] * (ROW - sum(pieces))):
        logits, changed = advanced(cache, TOKENS[:, at : at + length])
        cache, at = changed["cache"], at + length
        found.append(logits)
    full = model.apply(variables, TOKENS, **CALL)
    np.testing.assert_allclose(jnp.concatenate(found, axis=1), full, rtol=1e-4, atol=1e-5)


def test_padding_on_either_side_changes_no_real_output():
    model = tiny()
    variables = randomised(model)
    alone = model.apply(variables, TOKENS)
    mask = np.pad(np.ones((2, ROW), np.int32), ((0, 0), (3, 2)))
    wide = np.pad(TOKENS, ((0, 0), (3, 2)), constant_values=5)
    found = model.apply(variables, wide, mask=mask)
    np.testing.assert_allclose(found[:, 3:-2], alone, rtol=1e-5, atol=1e-5)
    assert not np.allclose(model.apply(variables, wide)[:, 3:-2], alone, atol=1e-3)
    rows = model.apply(variables, TOKENS, mask=np.array([1, 0]))
    np.testing.assert_array_equal(rows, alone)


@pytest.mark.slow
def test_conditioning_is_read():
    model = tiny(**CONDITIONED)
    variables = randomised(model, **CALL)
    first = model.apply(variables, TOKENS, **CALL)
    other = model.apply(variables, TOKENS, **{**CALL, "condition": CALL["condition"][::-1]})
    assert np.abs(first - other).max() > 1e-2
    frames = CALL["local_condition"].copy()
    frames[:, 3] += 1
    other = model.apply(variables, TOKENS, **{**CALL, "local_condition": frames})
    np.testing.assert_array_equal(first[:, :15], other[:, :15])
    assert np.abs(first - other)[:, 15].max() > 1e-3
    vector = tiny(condition_dim=4)
    given = {"condition": np.ones((2, 4), np.float32)}
    assert vector.apply(randomised(vector, **given), TOKENS, **given).shape == (2, ROW, V)


def test_scanned_and_recomputed_is_the_same():
    plain = tiny()
    params = randomised(plain)["params"]

    def gradient(model, params):
        def loss(p):
            return jnp.sum(jnp.sin(model.apply({"params": p}, TOKENS)))

        return jax.jit(jax.grad(loss))(params)

    got = gradient(tiny(scan_layers=True, remat="full"), stack_layers(params))
    wanted = stack_layers(gradient(plain, params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), got, wanted)


@pytest.mark.parametrize(
    ("options", "tokens", "call", "error", "message"),
    [
        ({}, np.zeros((2, 5)), {}, BatchError, "dtype float"),
        ({}, np.zeros(5, int), {}, BatchError, r"shape \[5\]"),
        ({}, TOKENS, {"condition": np.zeros((2, 1), int)}, BatchError, "condition_classes"),
        ({"condition_classes": (3,)}, TOKENS, {}, BatchError, "as condition none"),
        (CONDITIONED, TOKENS, {**CALL, "condition": np.zeros(2, int)}, BatchError, r"\[B, 2\]"),
        ({"local_dim": 2}, TOKENS, {"local_condition": np.ones((2, 3, 2))}, BatchError, "24 sam"),
        ({"local_dim": 1}, TOKENS, {"local_condition": np.ones((2, 3, 2))}, BatchError, "B, F, 1"),
        ({"remat": "ful"}, TOKENS, {}, ConfigError, "did you mean 'full'"),
        ({"cycle": ()}, TOKENS, {}, ConfigError, "a dilation at least"),
        ({"kernel_size": 1}, TOKENS, {}, ConfigError, "two taps"),
        ({"condition_classes": (3,), "condition_dim": 2}, TOKENS, {}, ConfigError, "has both"),
    ],
)
def test_wrong_use_is_named(options, tokens, call, error, message):
    with pytest.raises(error, match=message) as caught:
        jax.eval_shape(lambda: tiny(**options).init(jax.random.key(0), tokens, **call))
    assert caught.value.do
