"""Layers inside models: read and put back, Grad-CAM, attention, tokens, nearest examples."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxdl import explain, models
from jaxdl.errors import BatchError, ConfigError, DataError, PathError
from jaxdl.models.attention import SelfAttention

CLASSES = 3


class Residual(nn.Module):
    """A convolution with a path around it, and one that is called twice."""

    @nn.compact
    def __call__(self, x):
        x = x + nn.tanh(nn.Conv(x.shape[-1], (3, 3), name="conv")(x))
        twice = nn.Dense(4, name="twice")
        x = twice(nn.Dense(4, name="once")(x)) + twice(nn.relu(x @ jnp.ones((2, 4))))
        return nn.Dense(CLASSES, name="head")(jnp.mean(x, axis=(1, 2)))


class Convolved(nnx.Module):
    """The same idea in NNX, with layers in a list."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(2, 2, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(2, rngs=rngs)
        self.blocks = nnx.List([nnx.Linear(2, 4, rngs=rngs), nnx.Linear(4, 4, rngs=rngs)])
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(4, CLASSES, rngs=rngs)

    def __call__(self, x):
        x = x + jnp.tanh(self.norm(self.conv(x)))
        for block in self.blocks:
            x = block(x)
        return self.head(self.drop(x.mean((1, 2))))


@pytest.fixture(scope="module")
def residual():
    model = Residual()
    x = np.random.default_rng(0).normal(size=(3, 4, 5, 2)).astype(np.float32)
    variables = model.init(jax.random.key(0), x)
    return (lambda x: model.apply(variables, x)), variables["params"], x


def test_what_is_called_is_listed(residual):
    fn, _, x = residual
    found = explain.linen_layers(fn, x)
    assert [(layer.path, layer.kind) for layer in found] == [
        *(("conv", "Conv"), ("once", "Dense"), ("twice", "Dense"), ("twice", "Dense")),
        *(("head", "Dense"), ("", "Residual")),
    ]
    assert (found[0].input.shape, found[1].output.shape) == ((3, 4, 5, 2), (3, 4, 5, 4))


def test_a_layer_is_read_and_put_back(residual):
    fn, params, x = residual
    for path, at, wanted in (
        ("conv", "output", nn.Conv(2, (3, 3)).apply({"params": params["conv"]}, x)),
        ("conv", "input", x),
    ):
        layer = explain.linen_layer(fn, path, at=at)
        read = jax.jit(layer.read)(x)
        np.testing.assert_allclose(read, wanted, atol=1e-6)
        np.testing.assert_allclose(layer.resume(x, read), fn(x), atol=1e-6)
        # Another activation gives other scores: the path around the layer is the inputs' still.
        zero = layer.resume(x, jnp.zeros_like(read))
        assert not np.allclose(zero, fn(x), atol=1e-4)
    silent = explain.linen_layer(fn, "conv").resume(x, np.zeros((3, 4, 5, 2), np.float32))
    muted = jax.tree.map(jnp.zeros_like, params["conv"])
    wanted = Residual().apply({"params": {**params, "conv": muted}}, x)
    np.testing.assert_allclose(silent, wanted, atol=1e-6)


def test_layers_that_cannot_be_read(residual):
    fn, _, x = residual
    with pytest.raises(PathError, match="no layer 'convv' is called") as caught:
        explain.linen_layer(fn, "convv").read(x)
    assert "did you mean 'conv'" in caught.value.do
    with pytest.raises(ConfigError, match="'twice' is called 2 times"):
        explain.linen_layer(fn, "twice").read(x)
    for wrapped in (jax.jit(fn), lambda x: jax.vmap(lambda row: fn(row[None])[0])(x)):
        with pytest.raises(ConfigError, match="cannot be read: it is inside"):
            explain.linen_layer(wrapped, "conv").read(x)


class Doubled(nn.Dense):
    """A layer that calls its parent's call."""

    def __call__(self, x):
        return 2 * super().__call__(x)


def test_a_layer_that_calls_its_parents_call_is_called_once():
    x = np.ones((2, 3), np.float32)
    model = nn.Sequential([Doubled(4), nn.Dense(CLASSES)])
    variables = model.init(jax.random.key(0), x)
    fn = lambda x: model.apply(variables, x)  # noqa: E731 - to be intercepted
    assert [layer.kind for layer in explain.linen_layers(fn, x)] == [
        *("Doubled", "Dense", "Sequential")
    ]
    layer = explain.linen_layer(fn, "layers_0")
    kernel = variables["params"]["layers_0"]["kernel"]
    np.testing.assert_allclose(layer.read(x), 2 * (x @ kernel), atol=1e-6)
    np.testing.assert_allclose(layer.resume(x, layer.read(x)), fn(x), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"scan_layers": True}, {"remat": "full"}], ids=str)
def test_what_is_inside_a_scan_or_remat_says_so(options):
    _, x, fn = vit(**options)
    with pytest.raises(ConfigError, match="attention weights cannot be read"):
        explain.attention_weights(fn)(x)
    # Layers outside of it are read all the same.
    assert explain.linen_layer(fn, "norm").read(x).shape == (2, 5, 8)


@pytest.mark.parametrize("path", ["conv", "norm", "blocks/0", "blocks/1", "head"])
def test_an_nnx_layer_is_read_and_put_back(path):
    model = Convolved(nnx.Rngs(0))
    model.eval()
    x = np.random.default_rng(0).normal(size=(3, 4, 5, 2)).astype(np.float32)
    before = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    layer = explain.nnx_layer(model, path)
    read = jax.jit(layer.read)(x)
    np.testing.assert_allclose(layer.resume(x, read), model(x), atol=1e-6)
    assert not np.allclose(layer.resume(x, read + 1), model(x), atol=1e-4)
    after = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    jax.tree.map(np.testing.assert_array_equal, before, after)
    assert type(model.conv) is nnx.Conv


def test_nnx_layers_that_are_not_there():
    model = Convolved(nnx.Rngs(0))
    for path, hint in (("con", "'conv'"), ("blocks/2", "'blocks/1'"), ("head/kernel", "head")):
        with pytest.raises(PathError, match=f"there is no layer '{path}'") as caught:
            explain.nnx_layer(model, path)
        assert hint in caught.value.do


def test_grad_cam_is_its_definition(residual):
    fn, _, x = residual
    layer = explain.linen_layer(fn, "conv")
    activation = layer.read(x)
    target = np.array([0, 2, 1])
    for relu in (True, False):
        found = jax.jit(lambda x, relu=relu: explain.grad_cam(layer, x, target, relu=relu))(x)
        for row in range(3):

            def score(a, row=row):
                return layer.resume(x, activation.at[row].set(a))[row, target[row]]

            slope = jax.grad(score)(activation[row])
            wanted = np.sum(np.mean(slope, axis=(0, 1))[None, None] * activation[row], axis=-1)
            np.testing.assert_allclose(
                found[row], np.maximum(wanted, 0) if relu else wanted, atol=1e-6
            )
    assert explain.grad_cam(layer, x, 1, size=(9, 7)).shape == (3, 9, 7)
    masked = explain.grad_cam(layer, x, 1, relu=False, mask=np.array([1, 0, 1]))
    assert np.abs(masked).max(axis=(1, 2)).astype(bool).tolist() == [True, False, True]


def test_two_functions_and_a_path_are_one_layer():
    model = models.CNN(num_classes=CLASSES)
    x = np.random.default_rng(0).uniform(size=(2, 12, 12, 1)).astype(np.float32)
    variables = model.init(jax.random.key(0), x)
    fn = lambda x: model.apply(variables, x)  # noqa: E731 - to be intercepted
    whole = explain.linen_layer(fn, "conv_1")
    split = explain.split_layer(whole.read, lambda a: whole.resume(x, a))
    np.testing.assert_allclose(explain.grad_cam(whole, x, 1), explain.grad_cam(split, x, 1))


def test_grad_cam_takes_integers_and_refuses_what_it_cannot_map(residual):
    fn, _, x = residual
    layer = explain.linen_layer(lambda x: fn(x / 8.0), "conv")
    assert explain.grad_cam(layer, (8 * x).astype(np.int32), 0).shape == (3, 4, 5)
    with pytest.raises(ConfigError, match=r"size is \(9,\)"):
        explain.grad_cam(layer, x, 0, size=(9,))
    with pytest.raises(BatchError, match="activation is float32"):
        explain.grad_cam(explain.split_layer(lambda x: x, lambda a: a), jnp.ones(3))
    with pytest.raises(BatchError, match="target of row 0 is 3"):
        explain.grad_cam(layer, x, CLASSES)


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


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("size", [1, 7, 100])
def test_the_nearest_are_those_of_a_full_search(metric, size):
    rng = np.random.default_rng(0)
    there, asked = rng.normal(size=(40, 6)), rng.normal(size=(3, 6))
    there[7] = there[30]
    asked[0] = there[7]
    numbers = rng.permutation(100)[:40]
    chunks = [(numbers[i : i + size], there[i : i + size]) for i in range(0, 40, size)]
    found = explain.nearest_examples(asked, chunks, count=5, metric=metric)
    if metric == "cosine":
        unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (asked, there)]
        distance = 1 - unit[0] @ unit[1].T
    else:
        distance = np.linalg.norm(asked[:, None] - there[None], axis=2)
    # Equal distances are in the order of the numbers.
    order = np.lexsort((np.broadcast_to(numbers, distance.shape), distance.round(9)), axis=1)[:, :5]
    np.testing.assert_allclose(
        found.distances, np.take_along_axis(distance, order, axis=1), atol=1e-12
    )
    assert found.indices.tolist() == numbers[order].tolist()
    assert found.indices[0, :2].tolist() == sorted([numbers[7], numbers[30]])


def test_nearest_examples_at_the_edges():
    chunks = [([3, 1], [[0.0, 0.0], [1.0, 0.0]])]
    found = explain.nearest_examples([[0.0, 0.0]], chunks, count=9)
    assert (found.indices.tolist(), found.distances.tolist()) == ([[1, 3]], [[1.0, 1.0]])
    with pytest.raises(DataError, match="no examples"):
        explain.nearest_examples([[1.0]], [])
    with pytest.raises(BatchError, match="features of shape"):
        explain.nearest_examples([[np.nan]], chunks)
    with pytest.raises(BatchError, match=r"features of shape \[2, 2\]"):
        explain.nearest_examples([[1.0]], chunks)
    with pytest.raises(ConfigError, match="count is 0"):
        explain.nearest_examples([[1.0, 1.0]], chunks, count=0)
