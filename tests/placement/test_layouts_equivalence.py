"""The equivalence table of layouts: the same step, the same numbers, wherever its state lies.

{data, zero1, fsdp, tensor (2 x 4), fsdp x tensor (4 x 2), pmap} x {MLP, CNN, CNN with BatchNorm}
on 8 devices against one device, after five steps of SGD with momentum: each leaf of the parameters,
their average and the model's state within 1e-5 of the largest number in it (float32).
BatchNorm is held to the same level: its statistics are sums over the global batch, under ``jit``
by themselves and under ``pmap`` over the mapped axis.

Each placed step verifies its own donation and refuses a second compile.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

import jaxdl
from jaxdl import losses, models
from jaxdl.layouts import Layout, data_parallel, fsdp, layout, single, tensor_parallel, zero1
from jaxdl.models.mlp import tensor_rules

ROWS, STEPS, CLASSES, TOLERANCE = 32, 5, 10, 1e-5
MIN_SIZE = 64
FEATURES = (64, 32, CLASSES)


def make_images() -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(7)
    return [
        {
            "image": rng.normal(size=(ROWS, 4, 4, 1)).astype(np.float32),
            # Few classes occur, so that gradients add up instead of cancelling into rounding.
            "label": rng.integers(0, 3, ROWS).astype(np.int32),
        }
        for _ in range(STEPS)
    ]


def images(model: Any, mapped: Any = None) -> dict[bool, jaxdl.Objective]:
    """The objective under ``jit``, and under a mapped axis when it differs there."""
    supervised = functools.partial(jaxdl.supervised, loss=losses.softmax_cross_entropy)
    return {False: supervised(model), True: supervised(model if mapped is None else mapped)}


class Case(NamedTuple):
    """What is trained, on what, and its rules for the axis ``tensor``.

    ``objective[True]`` is that of ``pmap``, whose model may sum over the mapped axis.
    """

    objective: dict[bool, jaxdl.Objective]
    batches: Callable[[], list[dict[str, np.ndarray]]]
    rules: tuple[tuple[str, P], ...]


CNN_RULES = (
    ("dense_0/kernel$", P(None, "tensor")),
    ("dense_0/bias$", P("tensor")),
    ("dense_1/kernel$", P("tensor", None)),
)
CNN = models.CNN(num_classes=CLASSES)
NORMED = models.CNN(num_classes=CLASSES, norm="batch")
CASES = {
    "mlp": Case(images(models.MLP(FEATURES)), make_images, tensor_rules(FEATURES)),
    "cnn": Case(images(CNN), make_images, CNN_RULES),
    "cnn-batchnorm": Case(images(NORMED, NORMED.clone(axis_name="data")), make_images, CNN_RULES),
}


def layouts_of(case: Case) -> dict[str, Layout]:
    return {
        "data": data_parallel(),
        "zero1": zero1(min_size=MIN_SIZE),
        "fsdp": fsdp(min_size=MIN_SIZE),
        "data x fsdp": fsdp(data=2, min_size=MIN_SIZE),
        "tensor": tensor_parallel(case.rules, tensor=4),
        "fsdp x tensor": layout(
            mesh={"fsdp": 4, "tensor": 2},
            rules=case.rules,
            shard_axis="fsdp",
            min_size=MIN_SIZE,
        ),
    }


SGD = optax.sgd(0.1, momentum=0.9)


def warm(pure: jaxdl.TrainStep) -> jaxdl.TrainStep:
    """Starts away from zero, where a leaf whose gradient cancels is nothing but rounding."""

    def init(key, batch):
        state = pure.init(key, batch)
        leaves, structure = jax.tree.flatten(state.params)
        keys = jax.random.split(key, len(leaves))
        moved = [x + 0.1 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
        params = jax.tree.unflatten(structure, moved)
        return state.replace(params=params, ema=params)

    return pure._replace(init=init)


def run(case: Case, chosen: Layout | None, optimizer: optax.GradientTransformation = SGD):
    """The placed step and the state after all batches; ``None`` is ``pmap``."""
    objective, batches = case.objective[chosen is None], case.batches()
    pure = warm(jaxdl.make_train_step(objective, optimizer, ema_decay=0.9))
    step = jaxdl.pmap(pure) if chosen is None else jaxdl.jit(pure, layout=chosen)
    state = step.init(3, batches[0])
    for batch in batches:
        state, _ = step(state, batch)
    return step, state


@functools.cache
def reference(name: str):
    _, state = run(CASES[name], single())
    return jax.device_get((state.params, state.model_state, state.ema))


def assert_close(got: Any, expected: Any) -> None:
    for path, a, b in zip(
        jaxdl.tree_paths.leaf_paths(expected),
        jax.tree.leaves(jax.device_get(got)),
        jax.tree.leaves(expected),
        strict=True,
    ):
        scale = np.abs(b).max(initial=0.0)
        worst = np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).max(initial=0.0)
        assert worst <= TOLERANCE * max(scale, 1e-30), f"{path}: {worst:.2e} of {scale:.2e}"


@pytest.mark.parametrize("kind", layouts_of(CASES["mlp"]))
@pytest.mark.parametrize("name", CASES)
def test_same_parameters_after_five_steps(devices, name, kind):
    case = CASES[name]
    step, state = run(case, layouts_of(case)[kind])
    assert_close((state.params, state.model_state, state.ema), reference(name))
    for leaf, sharding in zip(
        jax.tree.leaves(state), jax.tree.leaves(step.shardings(state)), strict=True
    ):
        assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)


@pytest.mark.parametrize("name", CASES)
def test_same_parameters_under_pmap(devices, name):
    _, state = run(CASES[name], None)
    state = jaxdl.from_pmap_state(state)
    assert_close((state.params, state.model_state, state.ema), reference(name))


@pytest.mark.parametrize("kind", ["zero1", "fsdp"])
def test_an_optimizer_with_statistics_of_its_own_shape(devices, kind):
    """Adafactor keeps a row and a column of each matrix, divided by their own sizes."""
    adafactor = optax.adafactor(1e-2, min_dim_size_to_factor=16)
    case = CASES["mlp"]
    _, expected = run(case, single(), adafactor)
    _, state = run(case, layouts_of(case)[kind], adafactor)
    assert_close(state.params, jax.device_get(expected.params))
    factored = state.opt_state[0]
    own = jax.tree.leaves((factored.v_row, factored.v_col))
    assert any(not leaf.sharding.is_fully_replicated for leaf in own)
