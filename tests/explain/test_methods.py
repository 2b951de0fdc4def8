"""Gradients, their integrals and means, and occlusion: laws they keep, and what they refuse."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdl
from jaxdl import explain, models
from jaxdl.errors import BatchError, ConfigError, ObjectiveError
from jaxdl.step import PredictStep

CLASSES = 4


@pytest.fixture(scope="module")
def rows():
    """A dense network of rows, smooth, and inputs of it."""
    model = models.MLP((8, CLASSES), activation=nn.tanh)
    x = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    variables = model.init(jax.random.key(0), x)
    return jax.jit(lambda x: model.apply(variables, x)), x


METHODS = {
    "saliency": explain.saliency,
    "gradient x input": explain.gradient_x_input,
    "integrated": lambda *a, **o: explain.integrated_gradients(*a, steps=4, **o).attributions,
    "smoothgrad": functools.partial(explain.smoothgrad, key=jax.random.key(0), samples=3),
    "occlusion": functools.partial(explain.occlusion, window=2),
}


def test_targets_of_every_form_agree(rows):
    fn, x = rows
    by_row = explain.saliency(fn, x, jnp.array([1, 3, 0]))
    for row, target in enumerate((1, 3, 0)):
        for form in (target, (target,), np.int8(target), [[target]] * 3, np.full(3, target)):
            found = explain.saliency(fn, x, form)
            np.testing.assert_allclose(found[row], by_row[row], atol=1e-6)


@pytest.mark.parametrize("method", list(METHODS))
def test_scores_of_more_axes_and_of_fewer(method, rows):
    fn, x = rows
    several = METHODS[method](lambda x: jnp.stack([fn(x), -fn(x)], axis=1), x, (1, 2))
    by_row = [[1, 2], [1, 2], [1, 2]]
    again = METHODS[method](lambda x: jnp.stack([fn(x), -fn(x)], axis=1), x, by_row)
    alone = METHODS[method](lambda x: -fn(x)[:, 2], x)
    np.testing.assert_allclose(several, alone, atol=1e-6)
    np.testing.assert_allclose(again, alone, atol=1e-6)


def test_scores_that_are_infinite_beside_the_target_change_nothing(rows):
    fn, x = rows
    cut = lambda x: fn(x) + jnp.array([[0.0, -jnp.inf, 0.0, 0.0]])  # noqa: E731 - as masked logits
    found = explain.saliency(cut, x, 2)
    np.testing.assert_allclose(found, explain.saliency(fn, x, 2), atol=1e-6)


@pytest.mark.parametrize("method", list(METHODS))
def test_a_row_has_its_own_attributions_whatever_is_beside_it(method, rows):
    fn, x = rows
    whole = METHODS[method](fn, x, 1)
    np.testing.assert_allclose(METHODS[method](fn, x[:1], 1), whole[:1], atol=1e-6)


@pytest.mark.parametrize("method", list(METHODS))
def test_masked_values_have_none(method, rows):
    fn, x = rows
    mask = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]])
    found = np.asarray(METHODS[method](fn, x, 1, mask=mask))
    assert not found[mask == 0].any()
    assert found[mask == 1].any()
    by_row = METHODS[method](fn, x, 1, mask=np.array([1, 0, 1]))
    assert not np.asarray(by_row)[1].any()
    with pytest.raises(BatchError, match=r"mask has shape \[5\]"):
        METHODS[method](fn, x, 1, mask=np.ones(5))


@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_is_near_and_gives_float32(method, dtype, rows):
    fn, x = rows
    found = METHODS[method](fn, jnp.asarray(x, dtype), 1)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, METHODS[method](fn, x, 1), atol=0.05)


@pytest.mark.parametrize("method", list(METHODS))
def test_what_is_refused(method, rows):
    fn, x = rows
    for inputs, words in (
        (np.zeros((2, 5), np.uint8), r"shape \[2, 5\] and dtype uint8"),
        (np.zeros((0, 5), np.float32), r"shape \[0, 5\]"),
    ):
        with pytest.raises(BatchError, match=words) as caught:
            METHODS[method](fn, inputs, 0)
        assert "models.to_float" in caught.value.do
    with pytest.raises(BatchError, match="target of row 0 is 4"):
        jax.jit(lambda x: METHODS[method](fn, x, CLASSES))(x)
    for targets, words in (
        (CLASSES, "target of row 0 is 4"),
        ([0, 0, -1], "target of row 2 is -1"),
        ([0, 1], r"targets of shape \[2\]"),
        ((0, 1), r"targets of shape \[2\]"),
        (1.0, "targets of dtype float"),
    ):
        with pytest.raises(BatchError, match=words):
            METHODS[method](fn, x, targets)
    with pytest.raises(ConfigError, match="there is no target"):
        METHODS[method](fn, x)
    with pytest.raises(ObjectiveError, match="returned dict"):
        METHODS[method](lambda x: {"logits": fn(x)}, x, 0)


@pytest.mark.parametrize("method", list(METHODS))
def test_a_traced_target_out_of_range_is_nan_in_its_row_only(method, rows):
    fn, x = rows
    found = jax.jit(lambda x, t: METHODS[method](fn, x, t))(x, jnp.array([1, 9, 2]))
    assert np.isnan(found).any(axis=1).tolist() == [False, True, False]


def test_integrated_gradients_add_up(rows):
    fn, x = rows
    found = explain.integrated_gradients(fn, x, 2, baselines=np.ones((1, 5)), steps=20)
    change = fn(x)[:, 2] - fn(np.ones((1, 5), np.float32))[:, 2]
    np.testing.assert_allclose(found.change, change, atol=1e-6)
    np.testing.assert_allclose(found.attributions.sum(axis=1), change, atol=1e-5)
    np.testing.assert_allclose(found.error, 0, atol=1e-5)


def test_steps_are_added_for_the_rows_that_need_them():
    bends = np.linspace(-0.95, 0.95, 7, dtype=np.float32)[None, None]

    def fn(x):
        # Row 1 lies where nothing bends.
        return jnp.sum(nn.relu(x[..., None] - bends) * jnp.sin(40 * bends), axis=(1, 2))

    x = np.array([[1.0, 0.3], [0.01, 0.02]], np.float32)
    plain = explain.integrated_gradients(fn, x, steps=3)
    share = np.abs(plain.error) / np.abs(plain.change)
    assert share[0] > 0.01 > share[1]
    finer = jax.jit(lambda x: explain.integrated_gradients(fn, x, steps=3, within=0.01))(x)
    np.testing.assert_array_equal(finer.attributions[1], plain.attributions[1])
    np.testing.assert_allclose(finer.change, plain.change)
    # It is the composite rule, of the first number of parts that will do.
    places, weights = np.polynomial.legendre.leggauss(3)
    slope = jax.jit(jax.vmap(lambda at: jax.grad(lambda x: fn(x).sum())(x * at)))
    for parts in (2, 4, 8, 16):
        ats = (np.arange(parts)[:, None] + (1 + places) / 2).ravel() / parts
        mean = np.einsum("p,pbd->bd", np.tile(weights / 2 / parts, parts), slope(np.float32(ats)))
        wanted = mean * x
        if abs(wanted[0].sum() - plain.change[0]) <= 0.01 * abs(plain.change[0]):
            break
    else:
        pytest.fail("16 parts are too few")
    np.testing.assert_allclose(finer.attributions[0], wanted[0], atol=1e-5)
    assert np.all(np.abs(finer.error) <= 0.01 * np.abs(finer.change))


def test_integrated_gradients_of_a_square_are_exact():
    x = np.array([[1.0, -2.0, 0.5]], np.float32)
    weights = np.array([3.0, 1.0, -2.0], np.float32)
    found = explain.integrated_gradients(
        lambda x: jnp.sum(weights[None] * x**2, axis=1), x, baselines=0.5, steps=1
    )
    # The integrand is linear: one point of Gauss and Legendre's is enough.
    np.testing.assert_allclose(found.attributions, weights * (x**2 - 0.25), rtol=1e-6)


@pytest.mark.parametrize("chunk", [2, 3, 50])
def test_chunks_change_nothing(chunk, rows):
    fn, x = rows
    for one, cut in (
        (explain.integrated_gradients(fn, x, 1, steps=5), {"steps": 5, "chunk": chunk}),
    ):
        found = explain.integrated_gradients(fn, x, 1, **cut)
        np.testing.assert_allclose(found.attributions, one.attributions, atol=1e-6)
    wanted = explain.occlusion(fn, x, 1, window=2)
    np.testing.assert_allclose(
        explain.occlusion(fn, x, 1, window=2, chunk=chunk), wanted, atol=1e-6
    )


def test_steps_are_not_held_at_once(rows):
    fn, x = rows

    def temporary(steps):
        run = jax.jit(lambda x: explain.integrated_gradients(fn, x, 1, steps=steps).attributions)
        return run.lower(x).compile().memory_analysis().temp_size_in_bytes

    # Places and weights are constants of the program; nothing else grows.
    assert temporary(400) < temporary(4) + 400 * 16


def occluded(fn, x, target, window, strides, baseline):
    """Occlusion by its definition, window by window."""
    whole = np.asarray(fn(x))[:, target]
    total, count = np.zeros(x.shape), np.zeros(x.shape[1:])
    starts = [
        range(0, max(size - length, 0) + step, step) if size > length else [0]
        for size, length, step in zip(x.shape[1:], window, strides, strict=True)
    ]
    for first in np.ndindex(*map(len, starts)):
        at = tuple(
            slice(starts[axis][i], starts[axis][i] + window[axis]) for axis, i in enumerate(first)
        )
        covered = x.copy()
        covered[(slice(None), *at)] = baseline
        lost = whole - np.asarray(fn(covered))[:, target]
        total[(slice(None), *at)] += lost.reshape(-1, *[1] * len(at))
        count[at] += 1
    return total / count


@pytest.mark.parametrize(
    ("window", "strides"), [((2, 2), (1, 2)), ((3, 2), (2, 2)), ((4, 3), (4, 3)), ((3, 1), (3, 1))]
)
def test_occlusion_is_its_definition(window, strides):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(2, 4, 5, 2)).astype(np.float32)
    kernel = rng.normal(size=(40, 3)).astype(np.float32)
    fn = jax.jit(lambda x: jnp.tanh(x.reshape(x.shape[0], -1) @ kernel))
    found = explain.occlusion(fn, x, 2, window=window, strides=strides, baselines=0.3)
    wanted = occluded(fn, x, 2, (*window, 2), (*strides, 1), 0.3)
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_settings_that_make_no_sense(rows):
    fn, x = rows
    for call, words in (
        (lambda: explain.occlusion(fn, x, 0, window=6), "a window of 6 with stride 1 along 5"),
        (lambda: explain.occlusion(fn, x, 0, window=2, strides=3), "with stride 3 along 5"),
        (lambda: explain.occlusion(fn, x, 0, window=(1, 1)), r"window \[1, 1\]"),
        (lambda: explain.integrated_gradients(fn, x, 0, steps=0), "steps is 0"),
        (lambda: explain.integrated_gradients(fn, x, 0, steps=1, rule="riemann_left"), "steps"),
        (lambda: explain.integrated_gradients(fn, x, 0, chunk=0), "chunk is 0"),
        (lambda: explain.integrated_gradients(fn, x, 0, within=0.0), "within is 0.0"),
        (lambda: explain.smoothgrad(fn, x, 0, key=jax.random.key(0), samples=0), "samples is 0"),
        (lambda: explain.smoothgrad(fn, x, 0, key=jax.random.key(0), noise=-1.0), "noise is -1"),
    ):
        with pytest.raises(ConfigError, match=words):
            call()
    for key in (jax.random.PRNGKey(0), jax.random.split(jax.random.key(0), 2), 0):
        with pytest.raises(ConfigError, match="the key is"):
            explain.smoothgrad(fn, x, 0, key=key)
    with pytest.raises(BatchError, match=r"baselines of shape \[5\]"):
        explain.integrated_gradients(fn, x, 0, baselines=np.zeros(5))


def test_names_that_are_nearly_right(rows, untyped):
    fn, x = rows
    with pytest.raises(ConfigError, match="did you mean 'riemann_middle'"):
        explain.integrated_gradients(fn, x, 0, rule="riemann_midle")
    with pytest.raises(ConfigError, match="did you mean 'absolute'"):
        explain.smoothgrad(fn, x, 0, key=jax.random.key(0), combine="absolut")


def test_smoothgrad_without_noise_is_the_gradient(rows):
    fn, x = rows
    plain = explain.saliency(fn, x, 1, absolute=False)
    for combine, wanted in (
        ("mean", plain),
        ("absolute", abs(plain)),
        ("square", plain**2),
        ("variance", 0 * plain),
    ):
        found = explain.smoothgrad(
            fn, x, 1, key=jax.random.key(0), samples=3, noise=0.0, combine=combine
        )
        np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_smoothgrad_draws_by_row_and_scales_by_the_range():
    fn = lambda x: jnp.sum(x**2, axis=1)  # noqa: E731 - its gradient is twice the input
    x = np.array([[0.0, 1.0], [0.0, 10.0], [5.0, 5.0]], np.float32)
    key = jax.random.key(3)
    noise = explain.smoothgrad(fn, x, key=key, samples=1, noise=0.1) / 2 - x
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(3))
    drawn = np.stack([jax.random.normal(jax.random.fold_in(k, 0), (2,)) for k in keys])
    np.testing.assert_allclose(noise, drawn * np.array([[0.1], [1.0], [0.0]]), atol=1e-5)
    own = explain.smoothgrad(fn, x[1:2], key=keys[1:2], samples=1, noise=0.1)
    np.testing.assert_allclose(own / 2 - x[1:2], noise[1:2], atol=1e-5)


def test_eight_devices_find_what_one_finds(devices, rows):
    fn, _ = rows
    x = np.random.default_rng(5).normal(size=(13, 5)).astype(np.float32)

    def apply(state, batch):
        def scaled(x):
            return fn(x * state.params)

        found = {name: each(scaled, batch["x"], batch["label"]) for name, each in METHODS.items()}
        return {**found, "change": explain.integrated_gradients(scaled, batch["x"], 1).change}

    batch = {"x": x, "label": np.arange(13) % CLASSES}
    state = jaxdl.TrainState(np.int32(0), np.float32(1.5), (), {}, jax.random.key(0))
    placed = jaxdl.jit(PredictStep(apply), devices=devices)
    # Rows are padded to a multiple of the devices, and real ones come back.
    found, wanted = placed(state, batch), jax.jit(apply)(state, batch)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), found, wanted)
    program = placed.program.as_text()
    assert not [name for name in ("all-gather", "all-reduce", "all-to-all") if name in program]


def test_attributions_change_with_the_weights(rows):
    _, x = rows
    model = models.MLP((16, CLASSES))
    params = model.init(jax.random.key(1), x)["params"]

    @jax.jit
    def learned(params):
        return explain.saliency(lambda x: model.apply({"params": params}, x), x, 1)

    alike = explain.sanity_check(learned, params, key=jax.random.key(0))
    assert np.all(alike < 0.9)
    # A method that does not look at the weights is found out.
    blind = explain.sanity_check(lambda params: jnp.asarray(x), params, key=jax.random.key(0))
    np.testing.assert_allclose(blind, 1.0, atol=1e-6)


@pytest.mark.slow
def test_attributions_of_a_trained_network_are_lost_with_its_weights():
    """Adebayo et al. 2018, on a network that has learned scikit-learn's digits."""
    digits = jaxdl.data.digits(split="train").gather(np.arange(512))
    x, label = digits["image"].astype(np.float32) / 255, digits["label"]
    model = models.CNN()
    params = model.init(jax.random.key(0), x)["params"]
    optimizer = optax.adam(3e-3)

    def loss(params):
        scores = model.apply({"params": params}, x)
        return optax.softmax_cross_entropy_with_integer_labels(scores, label).mean()

    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for _ in range(120):
        params, state = step(params, state)
    assert loss(params) < 0.2
    for name, method in METHODS.items():

        def attribute(params, method=method):
            return method(lambda x: model.apply({"params": params}, x), x[:32], label[:32])

        # What multiplies by the input, or covers it by its own background, keeps its zeros.
        absolute = name in ("saliency", "smoothgrad")
        alike = explain.sanity_check(
            jax.jit(attribute), params, key=jax.random.key(1), absolute=absolute
        )
        assert abs(np.mean(alike)) < 0.4, (name, np.mean(alike))


def test_rank_correlation_is_scipys():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 5, (2, 3, 4, 5)).astype(np.float32)
    wanted = [
        stats.spearmanr(a.ravel(), b.ravel()).statistic for a, b in zip(one, other, strict=True)
    ]
    np.testing.assert_allclose(explain.rank_correlation(one, other), wanted, atol=1e-6)
    with pytest.raises(BatchError, match="two of one shape"):
        explain.rank_correlation(one, other[:2])


def test_targets_of_few_bits_name_any_class():
    x = jnp.ones((2, 3))
    scores = jnp.arange(300.0)[None] * jnp.ones((3, 1))
    for targets in (np.array([255, 3], np.uint8), jnp.array([255, 3], jnp.uint8)):
        found = explain.saliency(lambda x: x @ scores, x, targets)
        np.testing.assert_array_equal(found, np.array([[255.0] * 3, [3.0] * 3]))
