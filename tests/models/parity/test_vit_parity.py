"""ViT against ``transformers``: logits, gradients, counts, files both ways.

Random weights are moved across, scales and biases included, in float32. Another epsilon of the
norms than the default is the other's own.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import losses, weights
from jaxdl.models import ViT, vit_b16, vit_l16, vit_s16

pytestmark = pytest.mark.slow

torch = pytest.importorskip("torch", reason="`make slow` installs PyTorch")
transformers = pytest.importorskip("transformers", reason="`make slow` installs transformers")

D, N, LAYERS, PATCH, SIDE, K = 48, 4, 2, 4, 16, 7
IMAGES = np.random.default_rng(0).normal(size=(3, SIDE, SIDE, 3)).astype(np.float32)
LABELS = np.array([3, 0, 6])


def ours(**options):
    sizes = {"num_classes": K, "num_layers": LAYERS, "num_heads": N, "hidden_dim": D}
    return ViT(**{**sizes, "patch_size": PATCH, "image_size": SIDE, "epsilon": 1e-12, **options})


@functools.cache
def theirs(name: str = "ViTForImageClassification"):
    """The other implementation in train mode, every tensor of it random, without dropout."""
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=D,
        num_hidden_layers=LAYERS,
        num_attention_heads=N,
        intermediate_size=4 * D,
        image_size=SIDE,
        patch_size=PATCH,
        num_labels=K,
        attn_implementation="eager",
    )
    model = getattr(transformers, name)(config).float().train()
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(0.1 * torch.randn_like(tensor))
    return model


def near(got, expected, limit: float) -> None:
    """Equal up to a share of the largest value."""
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() < limit * np.abs(expected).max()


def pixels():
    return torch.from_numpy(np.moveaxis(IMAGES, -1, 1).copy())


@pytest.mark.parametrize("scan_layers", [False, True], ids=["unrolled", "scanned"])
def test_logits_and_gradients(scan_layers):
    model = ours(scan_layers=scan_layers)
    params = weights.convert(dict(theirs().state_dict()), into=model)["params"]

    @functools.partial(jax.value_and_grad, has_aux=True)
    def run(params):
        logits = model.apply({"params": params}, IMAGES, train=True)
        return jnp.mean(losses.softmax_cross_entropy(logits, LABELS)), logits

    (loss, logits), grads = jax.jit(run)(jax.tree.map(jnp.asarray, params))
    theirs().zero_grad()
    out = theirs()(pixel_values=pixels(), labels=torch.from_numpy(LABELS))
    out.loss.backward()
    near(logits, out.logits.detach(), 1e-5)
    with torch.no_grad():
        evaluated = theirs().eval()(pixel_values=pixels()).logits
    theirs().train()
    near(jax.jit(model.apply)({"params": params}, IMAGES), evaluated, 1e-5)
    near(loss, out.loss.detach(), 1e-5)
    given = {n: p.grad for n, p in theirs().named_parameters()}
    expected = weights.convert(given, into=model, collections=("params",))["params"]
    # A bias of all keys moves no weight of attention: its gradient is 0 up to rounding.
    scale = max(np.abs(x).max() for x in jax.tree.leaves(expected))
    assert jax.tree.structure(grads) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(expected), strict=True):
        assert a.shape == b.shape
        assert np.abs(a - b).max() < 1e-4 * max(np.abs(b).max(), 0.01 * scale)


def test_the_pooler_is_the_representation():
    other = theirs("ViTModel")
    model = ours(num_classes=None, representation_dim=D)
    params = weights.convert(dict(other.state_dict()), into=model)
    with torch.no_grad():
        expected = other(pixel_values=pixels()).pooler_output
    near(jax.jit(model.apply)(params, IMAGES), expected, 1e-5)


@pytest.mark.parametrize(
    ("make", "layers", "width"), [(vit_s16, 12, 384), (vit_b16, 12, 768), (vit_l16, 24, 1024)]
)
def test_published_counts(make, layers, width):
    config = transformers.ViTConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        intermediate_size=4 * width,
        num_labels=1000,
    )
    with torch.device("meta"):
        expected = transformers.ViTForImageClassification(config).num_parameters()
    images = jnp.zeros((1, 224, 224, 3))
    shapes = jax.eval_shape(make(scan_layers=True).init, jax.random.key(0), images)
    assert sum(x.size for x in jax.tree.leaves(shapes)) == expected
    assert make().num_heads == width // 64


def test_files_both_ways(tmp_path):
    theirs().save_pretrained(tmp_path / "theirs")
    model = ours(scan_layers=True)
    variables = weights.load(tmp_path / "theirs", into=model)
    expected = weights.convert(dict(theirs().state_dict()), into=model)
    jax.tree.map(np.testing.assert_array_equal, variables, expected)
    weights.export(variables, tmp_path / "ours", model)
    theirs().config.save_pretrained(tmp_path / "ours")
    again, report = transformers.ViTForImageClassification.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    for key, tensor in theirs().state_dict().items():
        assert torch.equal(again.state_dict()[key], tensor), key
