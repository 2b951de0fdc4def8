"""LeNet-5: the paper's counts, its partial connections and pooling, any size of image."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import models
from jaxdl.errors import BatchError, ConfigError

IMAGES = np.random.default_rng(0).normal(size=(2, 28, 28, 1)).astype(np.float32)


@pytest.mark.parametrize(("variant", "expected"), [("modern", 61_706), ("original", 60_850)])
def test_published_parameter_counts(variant, expected):
    model = models.LeNet5(variant=variant)
    out, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), IMAGES)
    sizes = {
        path: sum(x.size for x in jax.tree.leaves(tree))
        for path, tree in variables["params"].items()
    }
    assert out.shape == (2, 10)
    assert sum(sizes.values()) == expected
    if variant == "original":
        # Table I and section II.B: C3 has 1,516 parameters, all up to F6 60,000.
        assert sizes["conv_1_kernel"] + sizes["conv_1_bias"] == 1_516
        assert sum(sizes.values()) - sizes["head"] == 60_000


def original(params, x):
    """The paper's equations by loops over channels, without JAX's convolution."""

    def squashed(a):
        return 1.7159 * np.tanh(2 * a / 3)

    def convolved(planes, kernel):
        windows = np.lib.stride_tricks.sliding_window_view(planes, (5, 5), axis=(1, 2))
        return np.einsum("bhwij,ij->bhw", windows, kernel)

    def pooled(x, index):
        four = x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]
        return squashed(four * params[f"pool_{index}_scale"] + params[f"pool_{index}_bias"])

    params = jax.tree.map(np.asarray, params)
    x = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)))
    first = params["conv_0"]
    planes = [
        convolved(x[..., 0], first["kernel"][:, :, 0, i]) + first["bias"][i] for i in range(6)
    ]
    x = pooled(squashed(np.stack(planes, axis=-1)), 0)
    table = ["012", "123", "234", "345", "045", "015", "0123", "1234", "2345", "0345", "0145"]
    table += ["0125", "0134", "1245", "0235", "012345"]
    at, planes = 0, []
    for made, reads in enumerate(table):
        plane = params["conv_1_bias"][made]
        for read in reads:
            plane = plane + convolved(x[..., int(read)], params["conv_1_kernel"][:, :, at])
            at += 1
        planes.append(plane)
    x = pooled(squashed(np.stack(planes, axis=-1)), 1).reshape(len(x), -1)
    for name in ("dense_0", "dense_1"):
        x = squashed(x @ params[name]["kernel"] + params[name]["bias"])
    return x @ params["head"]["kernel"] + params["head"]["bias"]


@pytest.mark.slow
def test_the_original_is_the_papers_equations():
    model = models.LeNet5(variant="original")
    params = jax.jit(model.init)(jax.random.key(0), IMAGES)["params"]
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda x: x + 0.1 * rng.normal(size=x.shape).astype(np.float32), params)
    got = jax.jit(model.apply)({"params": params}, IMAGES)
    np.testing.assert_allclose(got, original(params, IMAGES), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("variant", ["modern", "original"])
@pytest.mark.parametrize("size", [(1, 1, 3), (28, 28, 1), (32, 40, 3)])
def test_any_size_of_image(variant, size):
    model = models.LeNet5(num_classes=4, variant=variant, dtype=jnp.bfloat16)
    given = jax.ShapeDtypeStruct((3, *size), jnp.uint8)
    out, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), given)
    assert out.shape == (3, 4)
    assert out.dtype == jnp.float32


@pytest.mark.usefixtures("untyped")
def test_what_is_wrong_is_named():
    with pytest.raises(ConfigError, match="did you mean 'original'"):
        models.LeNet5(variant="orignal").init(jax.random.key(0), IMAGES)
    with pytest.raises(BatchError, match="LeNet5 got an input of shape"):
        models.LeNet5().init(jax.random.key(0), IMAGES[..., 0])
