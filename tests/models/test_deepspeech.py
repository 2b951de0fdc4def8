"""DeepSpeech 2: padding by value and gradient, lengths by stride, statistics, sizes."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import tree_paths
from jaxdl.errors import BatchError, ConfigError
from jaxdl.models import DeepSpeech, deepspeech2
from jaxdl.models.deepspeech import DEEPSPEECH_TENSOR_RULES

B, T, F = 3, 11, 8
LENGTHS = np.array([11, 4, 7])
MASK = (np.arange(T)[None] < LENGTHS[:, None]).astype(np.float32)
X = np.random.default_rng(0).normal(size=(B, T, F)).astype(np.float32)
MODEL = DeepSpeech(
    5, hidden_dim=4, num_layers=2, convolutions=((2, (5, 3), (2, 2)), (3, (3, 3), (1, 2)))
)


@pytest.fixture(scope="module")
def variables():
    found = jax.jit(MODEL.init)(jax.random.key(0), X)
    leaves, tree = jax.tree.flatten(found)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    # Away from zero, so that a norm of padding would be seen; variances stay positive.
    moved = [x + 0.2 * jax.random.uniform(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, moved)


@pytest.mark.slow
def test_padding_changes_no_output_and_no_gradient(variables):
    rubbish = np.where(MASK[..., None] == 1, X, np.inf).astype(np.float32)
    state = variables["batch_stats"]

    def scalar(params, x, mask):
        y, kept = MODEL.apply({"params": params, "batch_stats": state}, x, mask=mask)
        return jnp.sum(jnp.where(kept[..., None], jnp.sin(y), 0.0)), (y, kept)

    grad = jax.jit(jax.value_and_grad(scalar, has_aux=True))
    # The last row, of 7 frames, padded and cut.
    (_, (y, kept)), grads = grad(variables["params"], rubbish[2:], MASK[2:])
    (_, (y_cut, kept_cut)), grads_cut = grad(variables["params"], X[2:, :7], None)
    assert np.asarray(kept).tolist() == [[True] * 4 + [False] * 2]
    assert np.asarray(kept_cut).tolist() == [[True] * 4]
    np.testing.assert_allclose(y[:, :4], y_cut, rtol=1e-4, atol=1e-5)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(grads_cut), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_statistics_are_those_of_real_frames(variables):
    """A batch and the same batch with more padding move the statistics alike."""

    @jax.jit
    def moved(x, mask):
        _, changed = MODEL.apply(variables, x, mask=mask, train=True, mutable=["batch_stats"])
        return changed["batch_stats"]

    longer = np.concatenate([X, np.full((B, 4, F), 7.0, np.float32)], axis=1)
    rows = np.concatenate([longer, longer[:1]])
    mask = np.pad(MASK, ((0, 1), (0, 4)))
    for a, b in zip(
        jax.tree.leaves(moved(X, MASK)), jax.tree.leaves(moved(rows, mask)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_the_published_size():
    model = deepspeech2()
    shapes = jax.eval_shape(lambda key: model.init(key, jnp.zeros((1, 40, 161))), jax.random.key(0))
    count = sum(x.size for x in jax.tree.leaves(shapes["params"]))
    convolutions = 32 * 11 * 41 + 32 * 32 * 11 * 21 + 32 * 96 * 11 * 21 + 2 * (32 + 32 + 96)
    first, width = 96 * 21, 1280
    # Of each direction: two kernels and biases, from the second layer on a norm of each gate.
    one = 3 * (width * width + width) + width
    recurrent = 2 * (one + 3 * first * width) + 6 * 2 * (one + 3 * width * width + 6 * width)
    dense = 2 * width + width * width + width + width * 29 + 29
    assert count == convolutions + recurrent + dense
    assert f"{count:,} parameters" in deepspeech2.__doc__
    paths = tree_paths.leaf_paths(shapes["params"])
    for pattern, _ in DEEPSPEECH_TENSOR_RULES:
        found = [path for path in paths if re.search(pattern, path)]
        assert found, pattern
    big = [
        path
        for path, x in zip(paths, jax.tree.leaves(shapes["params"]), strict=True)
        if x.size > 1e6
    ]
    ruled = [p for p in big if any(re.search(r, p) for r, _ in DEEPSPEECH_TENSOR_RULES)]
    assert ruled == big


def test_wrong_arguments_are_told():
    with pytest.raises(BatchError, match="DeepSpeech got an input"):
        MODEL.init(jax.random.key(0), X[0])
    with pytest.raises(BatchError, match="the mask has shape"):
        MODEL.init(jax.random.key(0), X, mask=MASK[:, :3])
    with pytest.raises(ConfigError, match="kernel of"):
        DeepSpeech(5, convolutions=((2, (4, 3), (1, 1)),)).init(jax.random.key(0), X)
