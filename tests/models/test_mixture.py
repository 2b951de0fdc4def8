"""The mixture of experts against a loop over tokens and experts, and over devices."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdl
from jaxdl import layouts, objectives
from jaxdl.errors import BatchError, ConfigError
from jaxdl.models.gpt_mixture import MixtureGPT
from jaxdl.models.mixture import EXPERT_RULES, SCANNED_EXPERT_RULES, MixtureFeedForward, route
from jaxdl.models.stack import unstack_layers

ROWS, LENGTH, WIDTH, EXPERTS = 3, 10, 6, 4


def layer(**options) -> MixtureFeedForward:
    normal = nn.initializers.normal(0.7)
    return MixtureFeedForward(EXPERTS, 5, kernel_init=normal, out_init=normal, **options)


def inputs():
    return jax.random.normal(jax.random.key(1), (ROWS, LENGTH, WIDTH))


def chosen_by_loop(logits, *, top_k, capacity, real=None):
    """Which experts a token is to have, and which of those have a place: numpy, token by token."""
    order = np.argsort(-logits, axis=-1)[..., :top_k]
    wanted, placed = np.zeros(logits.shape, bool), np.zeros(logits.shape, bool)
    for b in range(logits.shape[0]):
        used = np.zeros(EXPERTS, int)
        for t in range(logits.shape[1]):
            for e in order[b, t] if real is None or real[b, t] else ():
                wanted[b, t, e], placed[b, t, e] = True, used[e] < capacity
                used[e] += 1
    return wanted, placed


def by_loop(params, x, wanted, placed):
    """Every expert on every token, weighted."""
    share = jax.nn.softmax(x @ params["router"]["kernel"])
    if wanted.sum(-1).max() > 1:
        share = share / jnp.maximum(jnp.sum(share * wanted, -1, keepdims=True), 1e-9)
    out = jnp.zeros_like(x)
    for e in range(EXPERTS):
        hidden = nn.gelu(x @ params["in_kernel"][e], approximate=True)
        out += (share * placed)[..., e, None] * (hidden @ params["out_kernel"][e])
    return out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("top_k", "factor", "masked", "capacity"),
    [(2, None, False, LENGTH), (1, 0.8, True, 2), (2, 0.8, True, 4)],
)
def test_it_is_a_loop_over_experts(top_k, factor, masked, capacity):
    model, x = layer(top_k=top_k, capacity_factor=factor), inputs()
    real = np.arange(LENGTH) < np.array([[10], [7], [0]]) if masked else None
    params = model.init(jax.random.key(0), x)["params"]
    assert model.capacity(LENGTH) == capacity
    target = jax.random.normal(jax.random.key(2), x.shape)

    def found(params, x):
        return jnp.sum(target * model.apply({"params": params}, x, real))

    logits = np.asarray(x @ params["router"]["kernel"])
    wanted, placed = chosen_by_loop(logits, top_k=top_k, capacity=capacity, real=real)
    assert (wanted != placed).any() == (factor is not None)

    def expected(params, x):
        return jnp.sum(target * by_loop(params, x, wanted, placed))

    out = jax.jit(model.apply)({"params": params}, x, real)
    slow = jax.jit(lambda params, x: by_loop(params, x, wanted, placed))(params, x)
    np.testing.assert_allclose(out, slow, rtol=1e-4, atol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
        jax.jit(jax.grad(found, (0, 1)))(params, x),
        jax.jit(jax.grad(expected, (0, 1)))(params, x),
    )


def test_balance_and_z_by_hand():
    rng = np.random.default_rng(0)
    logits, real = rng.normal(size=(2, 7, 3)).astype(np.float32), np.ones((2, 7), bool)
    real[1, 4:] = False
    found = route(jnp.asarray(logits), top_k=2, capacity=7, real=real)
    for b in range(2):
        kept = logits[b][real[b]].astype(np.float64)
        share = np.exp(kept) / np.exp(kept).sum(1, keepdims=True)
        chosen = np.zeros(3)
        for row in kept:
            chosen[np.argsort(-row)[:2]] += 1
        balance = 3 * (chosen / chosen.sum() * share.mean(0)).sum()
        assert float(found.balance[b]) == pytest.approx(balance, rel=1e-5)
        assert float(found.z[b]) == pytest.approx(
            (np.log(np.exp(kept).sum(1)) ** 2).mean(), rel=1e-5
        )


def test_balance_is_1_where_all_is_even_and_e_where_one_expert_has_all():
    even = 50 * jnp.tile(jnp.eye(4), (2, 1))[None]
    assert float(route(even, top_k=1, capacity=8).balance[0]) == pytest.approx(1.0)
    assert float(route(0 * even + even[:, :1], top_k=1, capacity=8).balance[0]) == pytest.approx(
        4.0
    )


def test_a_full_expert_takes_nobody_and_places_go_by_position():
    logits = jnp.tile(jnp.array([9.0, 0.0, 0.0, 0.0]), (1, 5, 1))
    found = route(logits, top_k=1, capacity=2)
    assert found.dispatch[0, :, 0].sum(1).tolist() == [1, 1, 0, 0, 0]
    assert np.asarray(found.dispatch).sum((1, 2)).max() == 1


def test_what_a_token_gets_does_not_depend_on_those_after_it_or_on_other_rows():
    model, x = layer(capacity_factor=0.8), inputs()
    params = model.init(jax.random.key(0), x)
    out = model.apply(params, x)
    changed = x.at[:, 6:].set(-x[:, 6:]).at[2].set(0.0)
    again = model.apply(params, changed)
    np.testing.assert_array_equal(out[:2, :6], again[:2, :6])
    np.testing.assert_allclose(model.apply(params, x[1:2]), out[1:2], rtol=1e-4, atol=1e-6)


def test_padding_before_the_text_takes_no_place():
    model, x = layer(capacity_factor=0.5), inputs()
    params = model.init(jax.random.key(0), x)
    mask = jnp.arange(LENGTH)[None] >= jnp.array([[4], [4], [4]])
    spoilt = jnp.where(mask[..., None], x, 100.0)
    np.testing.assert_array_equal(model.apply(params, x, mask), model.apply(params, spoilt, mask))
    pairs = mask[:, :, None] & mask[:, None]
    np.testing.assert_array_equal(model.apply(params, x, pairs), model.apply(params, x, mask))


def test_wrong_use_is_told():
    for options in ({"top_k": 5}, {"top_k": 0}, {"capacity_factor": 0.0}):
        with pytest.raises(ConfigError, match="of 4 experts"):
            layer(**options).init(jax.random.key(0), inputs())
    with pytest.raises(BatchError, match=r"mask has shape \[2\]"):
        layer().init(jax.random.key(0), inputs(), jnp.ones(2))


def gpt(**options) -> MixtureGPT:
    sizes = {"vocab_size": 16, "num_layers": 2, "num_heads": 2, "hidden_dim": 8, "max_length": 8}
    return MixtureGPT(**sizes, **{"mlp_dim": 8, "num_experts": 4, "balance_weight": 0.5, **options})


def tokens(rows: int = 16):
    return {"tokens": np.random.default_rng(0).integers(0, 16, (rows, 9)).astype(np.int32)}


@pytest.mark.slow
def test_the_balance_reaches_the_loss_scanned_as_unrolled():
    batch = tokens()
    scanned = objectives.language_model(gpt(scan_layers=True))
    params, state = scanned.init(jax.random.key(0), batch)
    assert state == {}
    total, aux = scanned.loss(params, state, batch, jax.random.key(1), train=True)
    plain, _ = scanned.loss(params, state, batch, jax.random.key(1), train=False)
    added = aux.metrics["auxiliary_loss"]
    assert aux.model_state == {}
    assert float(added.weight) == 16 * 8
    # Two layers with a balance of at least 1 each.
    assert 2 * 0.5 * 0.9 < float(added.total / added.weight) < 2 * 0.5 * 4
    assert float(total - plain) == pytest.approx(float(added.total), rel=1e-4)
    chunked = objectives.language_model(gpt(remat="full"), chunk_size=4)
    found, aux = chunked.loss(unstack_layers(params), {}, batch, jax.random.key(1), train=True)
    assert float(found) == pytest.approx(float(total), rel=1e-5)
    assert aux.model_state == {}


@pytest.mark.slow
@pytest.mark.parametrize("scan_layers", [False, True])
def test_experts_over_devices_change_nothing_and_tokens_travel(scan_layers):
    rules = SCANNED_EXPERT_RULES if scan_layers else EXPERT_RULES
    objective = objectives.language_model(gpt(scan_layers=scan_layers))
    pure = jaxdl.make_train_step(objective, optax.sgd(0.5))

    def run(layout, count):
        step = jaxdl.jit(pure, layout=layout, devices=jax.devices()[:count])
        state = step.init(0, tokens())
        for _ in range(2):
            state, sums = step(state, tokens())
        return state, sums, step.program

    expected, sums, _ = run(layouts.single(), 1)
    found, again, program = run(layouts.expert_parallel(rules, expert=4), 8)
    for a, b in zip(jax.tree.leaves(found.params), jax.tree.leaves(expected.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6)
    np.testing.assert_allclose(again["loss"].total, sums["loss"].total, rtol=1e-5)
    kernels = [
        leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(found.params)
        if "in_kernel" in str(path)
    ]
    assert all("expert" in str(leaf.sharding.spec) for leaf in kernels)
    assert "all-to-all" in program.as_text()
