"""The equivalence table: one step, the same numbers wherever and however it is computed.

{1, 2, 4, 8 devices} x {jit, pmap} x {whole batch, 4 microbatches} x {full, padded last batch},
for an MLP, a CNN with BatchNorm and an MLP with dropout. The reference of every cell is the
whole, unpadded batch on one device under ``jit``; for BatchNorm under microbatches, whose
statistics are those of microbatches by definition, it is the same accumulation on one device.
"""

from __future__ import annotations

import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdl
from jaxdl import gradients, losses, metrics, models
from jaxdl.layouts import data_parallel

ROWS, SHORT, STEPS, CLASSES = 32, 25, 5, 10
# Sums in another order, by a compiler that hardly optimises (1.2e-6 was seen) or by jaxlib 0.11's
# (1.1e-6).
OPTIMIZED = "optimization_level=1" not in os.environ["XLA_FLAGS"]
TOLERANCE = 1e-6 if OPTIMIZED and jax.__version__.startswith("0.10.") else 2e-6
MODELS = {
    "mlp": models.MLP((32, CLASSES)),
    "cnn": models.CNN(num_classes=CLASSES, norm="batch", axis_name="data"),
    "dropout": models.MLP((32, 16, CLASSES), dropout_rate=0.5),
}


def make_batches(short: bool) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(7)
    sizes = [ROWS] * (STEPS - 1) + [SHORT if short else ROWS]
    return [
        {
            "image": rng.normal(size=(size, 4, 4, 1)).astype(np.float32),
            # Few classes occur, so that gradients add up instead of cancelling into rounding.
            "label": rng.integers(0, 3, size).astype(np.int32),
        }
        for size in sizes
    ]


def masked(batches: list[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
    return [jaxdl.data.pad_batch(batch, ROWS) for batch in batches]


def objective_of(name: str, mapped: bool) -> jaxdl.Objective:
    model = MODELS[name]
    if name == "cnn" and not mapped:
        model = model.clone(axis_name=None)
    loss = functools.partial(losses.softmax_cross_entropy)
    measured = {"accuracy": metrics.accuracy(), "confusion": metrics.confusion_matrix(CLASSES)}
    return jaxdl.supervised(model, loss, metrics=measured)


def keep_gradient() -> optax.GradientTransformation:
    """An optimizer that changes nothing and keeps the gradient in its state."""
    return optax.GradientTransformation(
        lambda params: jax.tree.map(jnp.zeros_like, params),
        lambda grads, state, params=None: (jax.tree.map(jnp.zeros_like, grads), grads),
    )


def warm(pure: jaxdl.TrainStep) -> jaxdl.TrainStep:
    """Starts away from zero: a leaf that starts at 0 is, after five steps, nothing but gradients.

    What is left of those after they cancel (a BatchNorm's bias before another BatchNorm) holds
    1e-6 of rounding in float32, wherever it is computed.
    """

    def init(key, batch):
        state = pure.init(key, batch)
        leaves, structure = jax.tree.flatten(state.params)
        keys = jax.random.split(key, len(leaves))
        moved = [x + 0.1 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
        return state.replace(params=jax.tree.unflatten(structure, moved))

    return pure._replace(init=init)


def run(
    name, *, placement, devices, microbatches, batches, optimizer, start=warm, recompile="error"
):
    """Final parameters (or optimizer state) and the sums of all steps, on the host."""
    gradient = gradients.mean() if microbatches == 1 else gradients.accumulate(microbatches)
    objective = objective_of(name, mapped=placement == "pmap")
    pure = start(jaxdl.make_train_step(objective, optimizer, gradient=gradient))
    chosen = jax.devices()[:devices]
    if placement == "pmap":
        step = jaxdl.pmap(pure, devices=chosen, recompile=recompile)
    else:
        step = jaxdl.jit(pure, layout=data_parallel(), devices=chosen, recompile=recompile)
    state, collected = step.init(3, batches[0]), []
    for batch in batches:
        state, sums = step(state, batch)
        collected.append(jax.device_get(sums))
    if placement == "pmap":
        state = jaxdl.from_pmap_state(state)
    return jax.device_get(state.replace(key=None)), metrics.total(collected)


SGD = optax.sgd(0.1, momentum=0.9)


@functools.cache
def reference(name: str, microbatches: int, short: bool):
    batches = make_batches(short)
    grouped = microbatches if name == "cnn" else 1
    if grouped > 1:
        batches = masked(batches)
    return run(
        name,
        placement="jit",
        devices=1,
        microbatches=grouped,
        batches=batches,
        optimizer=SGD,
        recompile="allow",
    )


def assert_close(got, expected):
    for path, a, b in zip(
        jaxdl.tree_paths.leaf_paths(expected),
        jax.tree.leaves(got),
        jax.tree.leaves(expected),
        strict=True,
    ):
        scale = np.abs(np.asarray(b)).max(initial=0.0)
        worst = np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).max(initial=0.0)
        assert worst <= TOLERANCE * max(scale, 1e-30), f"{path}: {worst:.2e} of {scale:.2e}"


@pytest.mark.parametrize("short", [False, True], ids=["full", "padded"])
@pytest.mark.parametrize("microbatches", [1, 4])
@pytest.mark.parametrize("placement", ["jit", "pmap"])
@pytest.mark.parametrize(
    "devices",
    [1, pytest.param(2, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow), 8],
)
@pytest.mark.parametrize("name", MODELS)
def test_same_parameters_after_five_steps(name, devices, placement, microbatches, short):
    batches = make_batches(short)
    state, sums = run(
        name,
        placement=placement,
        devices=devices,
        microbatches=microbatches,
        batches=masked(batches) if short else batches,
        optimizer=SGD,
    )
    expected, expected_sums = reference(name, microbatches, short)
    assert_close(state.params, expected.params)
    assert_close(state.model_state, expected.model_state)
    counts, expected_counts = sums["confusion"].sums, expected_sums["confusion"].sums
    np.testing.assert_array_equal(counts, expected_counts)
    assert sums["loss"].weight == expected_sums["loss"].weight == sum(map(len_of, batches))
    np.testing.assert_allclose(sums["loss"].total, expected_sums["loss"].total, rtol=TOLERANCE)


def len_of(batch) -> int:
    return len(batch["label"])


@pytest.mark.parametrize("microbatches", [1, 4])
@pytest.mark.parametrize("placement", ["jit", "pmap"])
@pytest.mark.parametrize("name", MODELS)
def test_same_gradient_of_one_step_for_adam(name, placement, microbatches):
    """Adam's first update is close to the gradient's sign, so its gradient is what is compared.

    From the model's own start. From a warm one the gradient of the first BatchNorm's scale, which
    the second BatchNorm cancels to a hundredth of its terms, holds 3e-6 of float32 rounding.
    """
    batches = make_batches(short=True)[-1:]
    common = {"optimizer": keep_gradient(), "start": lambda pure: pure}
    whole = {"devices": 1, "placement": "jit", **common}
    cnn_micro = name == "cnn" and microbatches > 1
    expected, _ = run(
        name,
        microbatches=microbatches if cnn_micro else 1,
        batches=masked(batches) if cnn_micro else batches,
        **whole,
    )
    state, _ = run(
        name,
        placement=placement,
        devices=8,
        microbatches=microbatches,
        batches=masked(batches),
        **common,
    )
    assert_close(state.opt_state, expected.opt_state)
