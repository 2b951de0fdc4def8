"""Recurrent networks: padding by value and gradient, states carried on, heads, the cache."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.errors import BatchError, ConfigError
from jaxdl.models import RNN, RNNClassifier, RNNLanguageModel, RNNTagger
from jaxdl.models.recurrent import RecurrentLayer
from jaxdl.objectives import language_model

B, T, D, H = 3, 6, 4, 5
LENGTHS = np.array([6, 2, 4])
MASK = (np.arange(T)[None] < LENGTHS[:, None]).astype(np.int32)
X = np.random.default_rng(0).normal(size=(B, T, D)).astype(np.float32)
TOKENS = np.random.default_rng(1).integers(0, 9, (B, T)).astype(np.int32)


def made(model, x, **options):
    variables = jax.jit(lambda key: model.init(key, x, **options))(jax.random.key(0))
    leaves, tree = jax.tree.flatten(variables["params"])
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [x + 0.2 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return {**variables, "params": jax.tree.unflatten(tree, moved)}


@pytest.mark.parametrize(
    "cell", ["lstm", *(pytest.param(cell, marks=pytest.mark.slow) for cell in ("gru", "relu"))]
)
def test_padding_changes_no_output_state_or_gradient(cell):
    model = RNN(hidden_dim=H, num_layers=2, cell=cell, bidirectional=True)
    variables = made(model, X)
    rubbish = np.where(MASK[..., None] == 1, X, np.nan).astype(np.float32)

    def scalar(params, x, mask):
        y, states = model.apply({"params": params}, x, mask=mask)
        lasts = sum(jnp.sum(s**2) for s in jax.tree.leaves(states))
        return jnp.sum(jnp.sin(y)) + lasts, (y, states)

    grad = jax.jit(jax.value_and_grad(scalar, has_aux=True))
    # The second row, of 2 steps, padded and cut.
    padded, cut = jnp.asarray(rubbish[1:2]), jnp.asarray(X[1:2, :2])
    (_, (y, states)), grads = grad(variables["params"], padded, jnp.asarray(MASK[1:2]))
    (_, (y_cut, states_cut)), grads_cut = grad(variables["params"], cut, None)
    np.testing.assert_allclose(y[:, :2], y_cut, rtol=1e-5, atol=1e-6)
    assert (np.asarray(y[:, 2:]) == 0).all()
    got, expected = (jax.tree.leaves(x) for x in ((states, grads), (states_cut, grads_cut)))
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_the_cells_are_flaxs(cell):
    """The state of ``flax.linen``'s cells, by the same kernels."""
    layer = RecurrentLayer(H, cell=cell)
    params = made(layer, jnp.asarray(X))["params"]
    kernel, recurrent, bias = (params[k] for k in ("kernel", "recurrent_kernel", "bias"))
    if cell == "lstm":
        theirs = nn.OptimizedLSTMCell(H)
        named = {f"i{gate}": {"kernel": kernel[:, i]} for i, gate in enumerate("ifgo")}
        for i, gate in enumerate("ifgo"):
            named[f"h{gate}"] = {"kernel": recurrent[:, i], "bias": bias[i]}
    else:
        theirs = nn.GRUCell(H)
        named = {
            f"i{gate}": {"kernel": kernel[:, i], "bias": bias[i]} for i, gate in enumerate("rzn")
        }
        named |= {f"h{gate}": {"kernel": recurrent[:, i]} for i, gate in enumerate("rzn")}
        named["hn"]["bias"] = params["recurrent_bias"]
    expected = nn.RNN(theirs).apply({"params": {"cell": named}}, X)
    got, _ = layer.apply({"params": params}, jnp.asarray(X))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_first_parameters():
    params = RecurrentLayer(H).init(jax.random.key(0), jnp.asarray(X))["params"]
    np.testing.assert_array_equal(params["bias"], [[0.0] * H, [1.0] * H, [0.0] * H, [0.0] * H])
    for gate in range(4):
        square = params["recurrent_kernel"][:, gate]
        np.testing.assert_allclose(square @ square.T, np.eye(H), atol=1e-5)
    assert np.abs(params["kernel"]).max() <= (6 / (D + H)) ** 0.5


def test_states_carry_on():
    model = RNN(hidden_dim=H, num_layers=2)
    variables = made(model, X)
    whole, last = model.apply(variables, X)
    first, states = model.apply(variables, X[:, :2])
    second, states = model.apply(variables, X[:, 2:], states=states)
    np.testing.assert_allclose(jnp.concatenate([first, second], 1), whole, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), states, last)


def test_a_mask_of_rows_changes_nothing():
    model = RNN(hidden_dim=H, cell="gru", bidirectional=True)
    variables = made(model, X)
    y, _ = model.apply(variables, X)
    masked, _ = model.apply(variables, X, mask=np.array([1.0, 0.0, 1.0], np.float32))
    np.testing.assert_allclose(masked[::2], y[::2], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("vocab_size", [None, 9])
def test_heads(vocab_size):
    x = X if vocab_size is None else TOKENS
    rnn = RNN(hidden_dim=H, bidirectional=True)
    for make, shape in ((RNNClassifier, (B, 7)), (RNNTagger, (B, T, 7))):
        model = make(rnn, 7, vocab_size=vocab_size)
        variables = made(model, x)
        logits = model.apply(variables, x, mask=MASK)
        assert logits.shape == shape
        other = model.apply(
            variables, np.where(MASK.reshape(B, T, *(1,) * (x.ndim - 2)), x, 1), mask=MASK
        )
        real = MASK.astype(bool) if logits.ndim == 3 else slice(None)
        np.testing.assert_array_equal(np.asarray(logits)[real], np.asarray(other)[real])


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_the_cache_goes_on_where_it_ended(cell):
    model = RNNLanguageModel(RNN(hidden_dim=H, num_layers=2, cell=cell), 9)
    shapes = jax.eval_shape(lambda k: model.init(k, TOKENS, decode=True), jax.random.key(0))
    cache = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes["cache"])
    params = made(model, TOKENS)["params"]
    full = model.apply({"params": params}, TOKENS)
    parts = []
    for start, stop in ((0, 1), (1, 4), (4, 6)):
        logits, changed = model.apply(
            {"params": params, "cache": cache},
            TOKENS[:, start:stop],
            decode=True,
            mutable=["cache"],
        )
        cache = changed["cache"]
        parts.append(logits)
    np.testing.assert_allclose(jnp.concatenate(parts, 1), full, atol=1e-5)


def test_a_language_model_does_not_see_the_future():
    model = RNNLanguageModel(RNN(hidden_dim=H), 9)
    params = made(model, TOKENS)["params"]
    changed = TOKENS.copy()
    changed[:, 4] = (changed[:, 4] + 1) % 9
    before, after = (np.asarray(model.apply({"params": params}, t)) for t in (TOKENS, changed))
    np.testing.assert_array_equal(before[:, :4], after[:, :4])
    assert (before[:, 4:] != after[:, 4:]).any()


@pytest.mark.slow
def test_chunks_of_logits_give_the_same_loss():
    batch = {"tokens": TOKENS, "mask": MASK}
    model = RNNLanguageModel(RNN(hidden_dim=H), 9)
    params = made(model, TOKENS)["params"]
    totals = [
        language_model(model, chunk_size=size).loss(
            params, {}, batch, jax.random.key(0), train=True
        )
        for size in (None, 2)
    ]
    assert float(totals[0][0]) == pytest.approx(float(totals[1][0]), rel=1e-5)
    assert float(totals[0][1].weight) == float(totals[1][1].weight) == 5 + 1 + 3


@pytest.mark.parametrize(
    ("model", "x", "options", "error", "match"),
    [
        (RNN(hidden_dim=0), X, {}, ConfigError, "hidden_dim is 0"),
        (RNN(hidden_dim=3, num_layers=0), X, {}, ConfigError, "num_layers is 0"),
        (RNN(hidden_dim=3), X[0], {}, BatchError, "RNN got an input"),
        (RNN(hidden_dim=3), X, {"mask": MASK[:, :2]}, BatchError, "the mask has shape"),
        (RNNTagger(RNN(hidden_dim=3), 2), TOKENS, {}, BatchError, "vocab_size=None"),
        (RNNTagger(RNN(hidden_dim=3), 2, vocab_size=9), X, {}, BatchError, "vocab_size=9"),
        (
            RNNLanguageModel(RNN(hidden_dim=3, bidirectional=True), 9),
            TOKENS,
            {},
            ConfigError,
            "bidirectional",
        ),
    ],
)
def test_wrong_arguments_are_told(model, x, options, error, match):
    with pytest.raises(error, match=match):
        model.init(jax.random.key(0), x, **options)


@pytest.mark.usefixtures("untyped")
def test_a_misspelt_cell_is_told():
    with pytest.raises(ConfigError, match="'lstn'") as caught:
        RNN(hidden_dim=3, cell="lstn").init(jax.random.key(0), X)
    assert "lstm" in caught.value.do
