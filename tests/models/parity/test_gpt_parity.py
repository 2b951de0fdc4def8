"""GPT against the GPT-2 of ``transformers``: logits, loss, gradients, the mask, the tied head.

Random weights are moved across, scales and biases included, in float32.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import objectives, weights
from jaxdl.models import GPT

pytestmark = pytest.mark.slow

torch = pytest.importorskip("torch", reason="`make slow` installs PyTorch")
transformers = pytest.importorskip("transformers", reason="`make slow` installs transformers")

V, D, N, LAYERS, LENGTH = 97, 48, 4, 3, 24
SIZES = {
    "vocab_size": V,
    "num_layers": LAYERS,
    "num_heads": N,
    "hidden_dim": D,
    "max_length": LENGTH,
}
TOKENS = np.random.default_rng(0).integers(0, V, (3, 20))
# The second row ends early, the third begins late.
MASK = np.ones((3, 20), np.int32)
MASK[1, 13:] = MASK[2, :6] = 0


@functools.cache
def theirs() -> transformers.GPT2LMHeadModel:
    """The other implementation, every tensor of it random, without dropout."""
    torch.manual_seed(0)
    rates = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    config = transformers.GPT2Config(
        vocab_size=V,
        n_positions=LENGTH,
        n_embd=D,
        n_layer=LAYERS,
        n_head=N,
        bos_token_id=0,
        eos_token_id=0,
        attn_implementation="eager",
        **rates,
    )
    model = transformers.GPT2LMHeadModel(config).float()
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(0.1 * torch.randn_like(tensor))
    return model


def tensors() -> dict:
    return dict(theirs().named_parameters())


def model_and_params(*, scan_layers: bool):
    model = GPT(**SIZES, scan_layers=scan_layers)
    return model, jax.tree.map(jnp.asarray, weights.convert(tensors(), into=model)["params"])


def near(got, expected, limit: float = 1e-5) -> None:
    """Equal up to a share of the largest value."""
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() < limit * np.abs(expected).max()


def test_every_tensor_is_moved():
    shapes = jax.eval_shape(lambda key: GPT(**SIZES).init(key, TOKENS), jax.random.key(0))
    moved = weights.convert(tensors(), into=GPT(**SIZES))["params"]
    assert jax.tree.map(jnp.shape, moved) == jax.tree.map(lambda x: x.shape, shapes["params"])
    # The head has no tensor of its own on either side.
    assert sum(x.size for x in jax.tree.leaves(moved)) == sum(p.numel() for p in tensors().values())


@pytest.mark.parametrize("scan_layers", [False, True], ids=["unrolled", "scanned"])
def test_logits(scan_layers):
    model, params = model_and_params(scan_layers=scan_layers)
    with torch.no_grad():
        expected = theirs()(torch.from_numpy(TOKENS)).logits
    near(model.apply({"params": params}, TOKENS), expected)


@pytest.mark.parametrize("scan_layers", [False, True], ids=["unrolled", "scanned"])
def test_logits_with_an_attention_mask(scan_layers):
    model, params = model_and_params(scan_layers=scan_layers)
    with torch.no_grad():
        given = {
            "attention_mask": torch.from_numpy(MASK),
            # Left out, places are counted from the first real token: ours are always those of
            # the row.
            "position_ids": torch.arange(TOKENS.shape[1])[None].expand(*TOKENS.shape),
        }
        expected = theirs()(torch.from_numpy(TOKENS), **given).logits
    got = model.apply({"params": params}, TOKENS, mask=MASK)
    real = MASK.astype(bool)
    near(np.asarray(got)[real], np.asarray(expected)[real])


@pytest.mark.parametrize("scan_layers", [False, True], ids=["unrolled", "scanned"])
@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "masked"])
def test_loss_and_gradients(scan_layers, mask):
    model, params = model_and_params(scan_layers=scan_layers)
    objective = objectives.language_model(model)
    batch = {"tokens": TOKENS} if mask is None else {"tokens": TOKENS, "mask": mask}

    @jax.jit
    def mean_loss(params):
        total, aux = objective.loss(params, {}, batch, jax.random.key(0), train=True)
        return total / aux.weight

    loss, grads = jax.value_and_grad(mean_loss)(params)
    expected_loss = their_loss(mask)
    theirs().zero_grad()
    expected_loss.backward()
    near(loss, expected_loss.detach())
    expected = {name: tensor.grad for name, tensor in tensors().items()}
    expected = weights.convert(expected, into=model)["params"]
    # A bias of all keys moves no weight of attention: its gradient is 0 up to rounding.
    scale = max(np.abs(x).max() for x in jax.tree.leaves(expected))
    for got, want in zip(jax.tree.leaves(grads), jax.tree.leaves(expected), strict=True):
        assert got.shape == want.shape
        assert np.abs(got - want).max() < 1e-5 * max(np.abs(want).max(), 0.01 * scale)


def their_loss(mask):
    """The other's own loss; with a mask, of the tokens that are real and follow a real one."""
    tokens = torch.from_numpy(TOKENS)
    if mask is None:
        return theirs()(tokens, labels=tokens).loss
    labels = np.where(mask, TOKENS, -100)
    labels[:, 1:][mask[:, :-1] == 0] = -100
    places = torch.arange(TOKENS.shape[1])[None].expand(*TOKENS.shape)
    return theirs()(
        tokens,
        attention_mask=torch.from_numpy(mask),
        position_ids=places,
        labels=torch.from_numpy(labels),
    ).loss
