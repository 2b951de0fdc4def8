"""One training step of a model of PyTorch and of ours in float64, and how far apart they end.

float64, since in training a rounding error of one value moves the statistics of a few rows of a few
pixels, and a ReLU whose input is 0 up to rounding has another derivative. Of Inception v3, 4 rows
of 75 pixels, gradients in float32 as a whole are 8 % away from those in float64.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import weights

torch = pytest.importorskip("torch", reason="requirements-parity.txt installs PyTorch")


def randomised(other):
    """The model with random scales, biases and statistics in every BatchNorm."""
    with torch.no_grad():
        for module in other.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.2)
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 2.0)
    return other


def pixels(images):
    return torch.from_numpy(np.moveaxis(images, -1, 1).copy())


def variables_of(other, model):
    return jax.tree.map(jnp.array, weights.convert(other.state_dict(), into=model))


def their_step(other, run):
    """``(outputs, loss, gradients, state)`` of ``run(other) -> (outputs, loss)``.

    PyTorch stores the unbiased variance, we the biased one: of n values that are n / (n - 1) apart.
    The state is as we would store it.
    """
    counts, hooks = {}, []
    for name, module in other.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):

            def count(module, given, result, name=name):
                counts[name] = result.numel() // result.shape[1]

            hooks.append(module.register_forward_hook(count))
    before = {name: value.clone() for name, value in other.state_dict().items()}
    outputs, loss = run(other.train())
    loss.backward()
    for hook in hooks:
        hook.remove()
    state = dict(other.state_dict())
    for name, n in counts.items():
        kept = 0.9 * before[f"{name}.running_var"]
        added = state[f"{name}.running_var"] - kept
        state[f"{name}.running_var"] = kept + added * (n - 1) / n
    gradients = {name: value.grad for name, value in other.named_parameters()}
    return outputs, loss, gradients, state


def our_step(model, variables, images, loss):
    """``(outputs, loss, gradients, statistics)``."""

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def run(params):
        given = {**variables, "params": params}
        outputs, new = model.apply(given, images, train=True, mutable=["batch_stats"])
        return loss(outputs), (outputs, new["batch_stats"])

    (value, (outputs, statistics)), gradients = run(variables["params"])
    return outputs, value, gradients, statistics


def step_differences(model, other, images, loss, run) -> dict[str, float]:
    """The largest relative differences of any output, gradient or statistic, each of its largest.

    Args:
        model: ours, with parameters of float64.
        other: theirs, of float64.
        images: float64, ``[B, H, W, C]``.
        loss: of our outputs.
        run: ``other -> (outputs, loss)``.
    """
    with jax.enable_x64(True):
        ours = our_step(model, variables_of(other, model), images, loss)
        outputs, value, gradients, state = their_step(other, run)
        # The names of gradients are those of parameters, so that one table moves both.
        expected = weights.convert({**state, **gradients}, into=model)
        want = [x.detach() for x in jax.tree.leaves(outputs)], [value.detach()]
        want += jax.tree.leaves(expected["params"]), jax.tree.leaves(expected["batch_stats"])
        names = ("outputs", "loss", "gradients", "statistics")
        return {
            name: largest(jax.tree.leaves(got), each)
            for name, got, each in zip(names, ours, want, strict=True)
        }


def largest(got, want) -> float:
    """The largest difference of any leaf, relative to the leaf's largest value."""
    got, want = ([np.asarray(x) for x in leaves] for leaves in (got, want))
    assert all(x.dtype == np.float64 for x in (*got, *want))
    assert [x.shape for x in got] == [x.shape for x in want]
    # A bias before a BatchNorm moves nothing: its gradient is 0 up to rounding.
    least = 1e-4 * max(np.abs(x).max() for x in want)
    pairs = zip(got, want, strict=True)
    return max(float(np.abs(a - b).max() / max(np.abs(b).max(), least)) for a, b in pairs)
