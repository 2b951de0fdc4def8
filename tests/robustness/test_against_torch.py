"""FGSM and PGD against the textbook's loops in PyTorch, on a network with curved losses."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import losses
from jaxdl.robustness import fgsm, pgd

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(size=(5, 6)).astype(np.float32)
LABELS = RNG.integers(0, 3, 5).astype(np.int32)
FIRST = RNG.normal(size=(6, 8)).astype(np.float32)
LAST = RNG.normal(size=(8, 3)).astype(np.float32)


def loss(x):
    return losses.softmax_cross_entropy(jnp.tanh(x @ FIRST) @ LAST, LABELS)


def torch_gradient(x):
    x = x.clone().requires_grad_()
    logits = torch.tanh(x @ torch.tensor(FIRST)) @ torch.tensor(LAST)
    # The mean, as most code has it: only the direction of each row's gradient counts.
    torch.nn.functional.cross_entropy(logits, torch.tensor(LABELS).long()).backward()
    return x.grad


def torch_pgd(start, norm, radius, size, steps):
    clean = torch.tensor(IMAGES)
    x = torch.tensor(np.asarray(start))
    for _ in range(steps):
        gradient = torch_gradient(x)
        if norm == "linf":
            delta = (x + size * gradient.sign() - clean).clamp(-radius, radius)
        else:
            delta = x + size * gradient / gradient.norm(dim=1, keepdim=True) - clean
            delta = delta * (radius / delta.norm(dim=1, keepdim=True)).clamp(max=1)
        x = (clean + delta).clamp(0, 1)
    return x.numpy()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_is_that_of_torch(norm):
    keys = jax.random.split(jax.random.key(0), len(IMAGES))
    start = pgd(0.4, norm=norm, steps=0)(loss, IMAGES, keys)
    found = pgd(0.4, norm=norm, steps=7, step_size=0.11)(loss, IMAGES, keys)
    np.testing.assert_allclose(found, torch_pgd(start, norm, 0.4, 0.11, 7), atol=2e-5)
    assert np.all(loss(found) > loss(start))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_fgsm_is_that_of_torch(norm):
    found = fgsm(0.2, norm=norm)(loss, IMAGES)
    np.testing.assert_allclose(found, torch_pgd(IMAGES, norm, 0.2, 0.2, 1), atol=1e-5)
