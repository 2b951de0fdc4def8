"""Attention that is computed again beside the model, and rolled out."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import explain, models
from jaxdl.errors import BatchError, ConfigError
from jaxdl.models.attention import SelfAttention

CLASSES = 3


def vit(**options):
    model = models.ViT(
        CLASSES, num_layers=2, num_heads=2, hidden_dim=8, patch_size=4, image_size=8, **options
    )
    x = np.random.default_rng(1).normal(size=(2, 8, 8, 3)).astype(np.float32)
    variables = model.init(jax.random.key(0), x)
    return model, x, lambda x: model.apply(variables, x)


def softmax_weights(query, key, seen):
    scores = np.einsum("btnh,bsnh->bnts", query, key) / np.sqrt(query.shape[-1])
    scores = np.where(seen, scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shared", [4, 2])
def test_attention_weights_are_those_of_queries_and_keys(causal, shared):
    class Two(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = jnp.asarray(x)
            for index in range(2):
                layer = SelfAttention(4, causal=causal, num_kv_heads=shared, name=f"a{index}")
                x = x + layer(x, mask)
            return jnp.mean(x, axis=(1, 2))

    rng = np.random.default_rng(3)
    x = rng.normal(size=(2, 7, 8)).astype(np.float32)
    mask = np.array([[1] * 7, [1] * 5 + [0] * 2])
    model = Two()
    variables = model.init(jax.random.key(0), x)
    variables = jax.tree.map(lambda w: 5 * np.asarray(w), variables)
    found = jax.jit(explain.attention_weights(lambda x: model.apply(variables, x)))(x)
    assert found.shape == (2, 2, 4, 7, 7)
    kernels = variables["params"]["a0"]
    query, key = (
        (x @ kernels[name]["kernel"] + kernels[name]["bias"]).reshape(2, 7, -1, 2)
        for name in ("query", "key")
    )
    seen = mask[:, None, None].astype(bool)
    seen = seen & np.tril(np.ones((7, 7), bool)) if causal else seen
    wanted = softmax_weights(query, np.repeat(key, 4 // shared, axis=2), seen)
    np.testing.assert_allclose(found[0], wanted, atol=1e-6)


def test_attention_weights_of_flax_are_those_it_sows():
    class Flax(nn.Module):
        @nn.compact
        def __call__(self, x, sow=False):
            mask = nn.make_causal_mask(x[..., 0])
            layer = nn.MultiHeadDotProductAttention(2, name="layer", normalize_qk=True)
            return jnp.mean(layer(x, mask=mask, sow_weights=sow), axis=(1, 2))

    x = np.random.default_rng(3).normal(size=(2, 4, 6)).astype(np.float32)
    model = Flax()
    variables = model.init(jax.random.key(0), x)
    _, sown = model.apply(variables, x, True, mutable=["intermediates"])
    found = explain.attention_weights(lambda x: model.apply(variables, x))(x)
    assert found.shape == (1, 2, 2, 4, 4)
    np.testing.assert_allclose(
        found[0], sown["intermediates"]["layer"]["attention_weights"][0], atol=1e-6
    )


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt", "llama", "bert", "vit"])
def test_attention_weights_of_the_shelf_add_up(family):
    tokens = np.random.default_rng(0).integers(0, 9, (2, 5))
    sizes = {"vocab_size": 9, "num_layers": 2, "num_heads": 2, "hidden_dim": 8}
    if family == "vit":
        _, tokens, fn = vit()
    else:
        model = {
            "gpt": lambda: models.GPT(**sizes, max_length=5),
            "llama": lambda: models.Llama(**sizes, max_length=5),
            "bert": lambda: models.BERT(**sizes, max_length=5),
        }[family]()
        variables = model.init(jax.random.key(0), tokens)
        fn = lambda tokens: model.apply(variables, tokens)  # noqa: E731 - to be intercepted
    found = np.asarray(jax.jit(explain.attention_weights(fn))(tokens))
    assert found.shape == (2, 2, 2, 5, 5)
    np.testing.assert_allclose(found.sum(axis=-1), 1, atol=1e-5)
    ahead = np.triu(np.ones((5, 5)), 1).astype(bool)
    assert bool(found[..., ahead].any()) == (family in ("bert", "vit"))


def test_no_attention_is_said():
    model = models.MLP((4, CLASSES))
    x = np.ones((1, 3), np.float32)
    variables = model.init(jax.random.key(0), x)
    with pytest.raises(ConfigError, match="there are 0 layers of self-attention"):
        explain.attention_weights(lambda x: model.apply(variables, x))(x)


@pytest.mark.parametrize("heads", ["mean", "max", "min"])
@pytest.mark.parametrize("residual", [0.5, 0.0])
def test_rollout_is_its_definition(heads, residual):
    rng = np.random.default_rng(0)
    weights = rng.dirichlet(np.ones(4), size=(3, 2, 5, 4)).astype(np.float32)
    found = jax.jit(lambda w: explain.attention_rollout(w, heads=heads, residual=residual))(weights)
    for row in range(2):
        wanted = np.eye(4)
        for layer in weights[:, row]:
            mixed = (1 - residual) * getattr(layer, heads)(axis=0) + residual * np.eye(4)
            wanted = mixed / mixed.sum(axis=1, keepdims=True) @ wanted
        np.testing.assert_allclose(found[row], wanted, atol=1e-6)


def test_rollout_of_what_sees_nothing_is_itself():
    weights = np.zeros((1, 1, 1, 2, 2), np.float32)
    weights[..., 0, 0] = 1
    for residual in (0.0, 0.5):
        found = explain.attention_rollout(weights, residual=residual)
        np.testing.assert_array_equal(found[0], np.eye(2))
    for wrong in (weights[0], weights[..., :1]):
        with pytest.raises(BatchError, match=r"\[L, B, N, T, T\]"):
            explain.attention_rollout(wrong)
    with pytest.raises(ConfigError, match="residual is 1"):
        explain.attention_rollout(weights, residual=1.0)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"scan_layers": True}, {"remat": "full"}], ids=str)
def test_what_is_inside_a_scan_or_remat_says_so(options):
    _, x, fn = vit(**options)
    with pytest.raises(ConfigError, match="attention weights cannot be read"):
        explain.attention_weights(fn)(x)
    # Layers outside of it are read all the same.
    assert explain.linen_layer(fn, "norm").read(x).shape == (2, 5, 8)
