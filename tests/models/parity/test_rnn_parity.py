"""Recurrent networks against ``torch.nn.LSTM`` and ``GRU``: packed rows of different lengths.

Random weights are moved across, in float32. PyTorch has two biases a gate, which are only ever
added, save those of the GRU's new gate.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.models import RNN

pytestmark = pytest.mark.slow

torch = pytest.importorskip("torch", reason="`make slow` installs PyTorch")

B, T, D, H, LAYERS = 4, 9, 5, 7, 2
LENGTHS = [9, 4, 1, 7]
MASK = np.arange(T)[None] < np.array(LENGTHS)[:, None]
X = np.random.default_rng(0).normal(size=(B, T, D)).astype(np.float32)
PULL = np.random.default_rng(1).normal(size=(B, T, 2 * H)).astype(np.float32)
both_cells = pytest.mark.parametrize("cell", ["lstm", "gru"])
both_ways = pytest.mark.parametrize("bidirectional", [False, True], ids=["forward", "both"])


@functools.cache
def theirs(cell: str, bidirectional: bool):
    torch.manual_seed(0)
    make = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[cell]
    return make(D, H, num_layers=LAYERS, bidirectional=bidirectional, batch_first=True)


def ours(cell: str, bidirectional: bool, named, gradient: bool = False) -> dict:
    """Our parameters, or gradients of them, from the other's by name."""
    found = {name: np.asarray(value.detach()) for name, value in named.items()}
    params = {}
    for layer in range(LAYERS):
        for way in ("forward", "backward")[: 1 + bidirectional]:
            end = f"l{layer}" + ("_reverse" if way == "backward" else "")
            first, second = found[f"bias_ih_{end}"], found[f"bias_hh_{end}"]
            # The gradient of a sum is that of either part.
            bias = (first if gradient else first + second).reshape(-1, H)
            leaf = {
                "kernel": gates(found[f"weight_ih_{end}"]),
                "recurrent_kernel": gates(found[f"weight_hh_{end}"]),
                "bias": bias,
            }
            if cell == "gru":
                bias = bias.copy()
                bias[2] = first.reshape(-1, H)[2]
                leaf |= {"bias": bias, "recurrent_bias": second.reshape(-1, H)[2]}
            params[f"{way}_{layer}"] = leaf
    return params


def gates(weight):
    return weight.reshape(-1, H, weight.shape[1]).transpose(2, 0, 1)


def packed(x):
    return torch.nn.utils.rnn.pack_padded_sequence(
        x, torch.tensor(LENGTHS), batch_first=True, enforce_sorted=False
    )


def near(got, expected, limit: float = 1e-4) -> None:
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() < limit * np.abs(expected).max()


@both_ways
@both_cells
def test_outputs_states_and_gradients(cell, bidirectional):
    model = RNN(hidden_dim=H, num_layers=LAYERS, cell=cell, bidirectional=bidirectional)
    other = theirs(cell, bidirectional)
    named = dict(other.named_parameters())
    params = jax.tree.map(jnp.asarray, ours(cell, bidirectional, named))
    pull = PULL[:, :, : H * (1 + bidirectional)]

    def scalar(params, x):
        y, states = model.apply({"params": params}, x, mask=MASK)
        return jnp.sum(y * pull) + sum(jnp.sum(s**2) for s in jax.tree.leaves(states)), (y, states)

    (_, (y, states)), (grads, grad_x) = jax.jit(
        jax.value_and_grad(scalar, argnums=(0, 1), has_aux=True)
    )(params, X)
    x = torch.tensor(X, requires_grad=True)
    other.zero_grad()
    out, last = other(packed(x))
    out, _ = torch.nn.utils.rnn.pad_packed_sequence(out, batch_first=True)
    last = last if cell == "lstm" else (last,)
    ((out * torch.tensor(pull)).sum() + sum((part**2).sum() for part in last)).backward()
    near(y, out.detach())
    for index, part in enumerate(last):
        mine = [carry[index] for layer in states for carry in layer]
        near(jnp.stack(mine), part.detach())
    near(grad_x, x.grad, 1e-3)
    expected = ours(cell, bidirectional, {k: v.grad for k, v in named.items()}, gradient=True)
    jax.tree.map(lambda a, b: near(a, b, 1e-3), grads, expected)


@both_ways
@both_cells
def test_every_tensor_is_moved_and_counted(cell, bidirectional):
    model = RNN(hidden_dim=H, num_layers=LAYERS, cell=cell, bidirectional=bidirectional)
    shapes = jax.eval_shape(lambda key: model.init(key, X), jax.random.key(0))["params"]
    named = dict(theirs(cell, bidirectional).named_parameters())
    moved = ours(cell, bidirectional, named)
    assert jax.tree.map(jnp.shape, moved) == jax.tree.map(lambda x: x.shape, shapes)
    size = sum(x.size for x in jax.tree.leaves(shapes))
    # Of each direction's two biases one is kept, and of the GRU one gate of the other.
    spared = (4 if cell == "lstm" else 2) * H * LAYERS * (1 + bidirectional)
    assert size == sum(p.numel() for p in named.values()) - spared
