"""Attributions of tokens: a part for each, none for padding."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import explain, models

CLASSES = 3


class Words(nn.Module):
    """The logit of a class from the sum of what each word adds: known attributions."""

    @nn.compact
    def __call__(self, tokens, mask):
        words = nn.Embed(6, 3, name="embed")(tokens)
        kernel = self.param("kernel", nn.initializers.normal(1.0), (3, CLASSES))
        return jnp.sum((words @ kernel) * mask[..., None], axis=1)


@pytest.mark.parametrize("method", ["integrated_gradients", "gradient_x_input", "saliency"])
def test_tokens_of_a_sum_have_their_own_part(method):
    tokens, mask = np.array([[1, 2, 3, 0], [4, 5, 0, 0]]), np.array([[1, 1, 1, 0], [1, 1, 0, 0]])
    model = Words()
    variables = model.init(jax.random.key(0), tokens, mask)
    layer = explain.linen_layer(lambda t: model.apply(variables, t, mask), "embed")
    target = np.array([1, 2])
    found = jax.jit(
        lambda t: explain.token_attributions(layer, t, target, method=method, steps=3, mask=mask)
    )(tokens)
    params = variables["params"]
    parts = params["embed"]["embedding"][tokens] @ params["kernel"]
    wanted = np.take_along_axis(np.asarray(parts), target[:, None, None], axis=2)[..., 0]
    if method == "saliency":
        length = np.linalg.norm(np.asarray(params["kernel"]), axis=0)[target]
        wanted = np.broadcast_to(length[:, None], (2, 4))
    np.testing.assert_allclose(found.scores, wanted * mask, atol=1e-6)
    if method == "integrated_gradients":
        np.testing.assert_allclose(found.error, 0, atol=1e-6)
        np.testing.assert_allclose(found.change, np.sum(wanted * mask, axis=1), atol=1e-6)


@pytest.mark.slow
def test_tokens_of_bert_add_up_and_padding_has_none():
    bert = models.BERT(vocab_size=9, num_layers=1, num_heads=2, hidden_dim=8, max_length=5)
    model = models.BERTClassifier(bert, 2)
    tokens, mask = np.array([[1, 5, 2, 0, 0]]), np.array([[1, 1, 1, 0, 0]])
    variables = model.init(jax.random.key(0), tokens)

    def fn(tokens):
        return model.apply(variables, tokens, mask=mask)

    layer = explain.linen_layer(fn, "bert/token_embedding")
    pad = variables["params"]["bert"]["token_embedding"]["embedding"][:1][None]
    found = jax.jit(
        lambda t: explain.token_attributions(layer, t, 1, baselines=pad, steps=30, mask=mask)
    )(tokens)
    assert found.scores.shape == (1, 5)
    assert not np.asarray(found.scores)[0, 3:].any()
    np.testing.assert_allclose(found.error, 0, atol=1e-4)
    blank = fn(np.zeros_like(tokens))
    np.testing.assert_allclose(found.change, (fn(tokens) - blank)[:, 1], atol=1e-6)
