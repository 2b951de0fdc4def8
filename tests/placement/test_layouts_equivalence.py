"""The equivalence table of layouts: the same step, the same numbers, wherever its state lies.

{data, zero1, fsdp, data x fsdp (2 x 4), tensor (2 x 4), fsdp x tensor (4 x 2), sequence (2 x 4),
data x sequence x tensor (2 x 2 x 2), pmap} x {MLP, CNN, CNN with BatchNorm, GPT of four layers
unrolled and scanned with remat} on 8 devices against one device, after five steps of SGD with
momentum: each leaf of the parameters, their average and the model's state within 1e-5 of
the largest number in it (float32). BatchNorm is held to the same level: its statistics are sums
over the global batch, under ``jit`` by themselves and under ``pmap`` over the mapped axis.

Each placed step verifies its own donation and refuses a second compile.

Run as a program, ``JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=8 python THIS_FILE``, it measures all
cells, or those of the models it is given, and prints the table of ``docs/layouts.md``.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

import jaxdl
from jaxdl import losses, models
from jaxdl.layouts import (
    Layout,
    data_parallel,
    fsdp,
    layout,
    sequence,
    single,
    tensor_parallel,
    zero1,
)
from jaxdl.models.gpt import SCANNED_TENSOR_RULES, TENSOR_RULES
from jaxdl.models.mlp import tensor_rules
from jaxdl.objectives import language_model

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


VOCABULARY, LENGTH = 64, 16


def make_tokens() -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(11)
    return [
        {"tokens": rng.integers(0, VOCABULARY, (ROWS // 2, LENGTH + 1)).astype(np.int32)}
        for _ in range(STEPS)
    ]


def decoder(rules: tuple[tuple[str, P], ...], **options: Any) -> Case:
    model = models.GPT(
        vocab_size=VOCABULARY,
        num_layers=4,
        num_heads=4,
        hidden_dim=32,
        max_length=LENGTH,
        **options,
    )
    objective = language_model(model)
    return Case({False: objective, True: objective}, make_tokens, rules)


CNN_RULES = (
    ("dense_0/kernel$", P(None, "tensor")),
    ("dense_0/bias$", P("tensor")),
    ("dense_1/kernel$", P("tensor", None)),
)
CNN = models.CNN(num_classes=CLASSES)
NORMED = models.CNN(num_classes=CLASSES, norm="batch")
CASES: dict[str, Case] = {
    "mlp": Case(images(models.MLP(FEATURES)), make_images, tensor_rules(FEATURES)),
    "cnn": Case(images(CNN), make_images, CNN_RULES),
    "cnn-batchnorm": Case(images(NORMED, NORMED.clone(axis_name="data")), make_images, CNN_RULES),
    "gpt": decoder(TENSOR_RULES),
    "gpt-scanned-remat": decoder(SCANNED_TENSOR_RULES, scan_layers=True, remat="full"),
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
        "sequence": sequence(4),
        "data x sequence x tensor": layout(
            mesh={"data": 2, "sequence": 2, "tensor": 2}, rules=case.rules
        ),
    }


KINDS = (*layouts_of(CASES["mlp"]), "pmap")
# By default, of the models that compile for seconds: every kind of axis once.
QUICK = {
    ("cnn", "zero1"),
    ("cnn-batchnorm", "fsdp x tensor"),
    ("cnn-batchnorm", "pmap"),
    ("gpt-scanned-remat", "data x sequence x tensor"),
}


def cells() -> list[Any]:
    """Every model in every layout."""
    found: list[Any] = []
    for name in CASES:
        for kind in KINDS:
            quick = name == "mlp" or (name, kind) in QUICK
            marks = [] if quick else [pytest.mark.slow]
            found.append(pytest.param(name, kind, marks=marks))
    return found


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


def as_it_is(pure: jaxdl.TrainStep) -> jaxdl.TrainStep:
    return pure


def run(
    case: Case,
    chosen: Layout | None,
    optimizer: optax.GradientTransformation = SGD,
    start: Callable[[jaxdl.TrainStep], jaxdl.TrainStep] = warm,
):
    """The placed step and the state after all batches; ``None`` is ``pmap``."""
    objective, batches = case.objective[chosen is None], case.batches()
    pure = start(jaxdl.make_train_step(objective, optimizer, ema_decay=0.9))
    step = jaxdl.pmap(pure) if chosen is None else jaxdl.jit(pure, layout=chosen)
    state = step.init(3, batches[0])
    for batch in batches:
        state, _ = step(state, batch)
    return step, state


def compared(state: Any) -> Any:
    return jax.device_get((state.params, state.model_state, state.ema))


@functools.cache
def reference(name: str, start: Callable[[jaxdl.TrainStep], jaxdl.TrainStep] = warm):
    return compared(run(CASES[name], single(), start=start)[1])


def differences(
    got: Any, expected: Any, floors: dict[str, float] | None = None
) -> dict[str, float]:
    """The largest difference in each leaf, relative to the largest number in it (or its floor)."""
    found: dict[str, float] = {}
    for path, a, b in zip(
        jaxdl.tree_paths.leaf_paths(expected),
        jax.tree.leaves(got),
        jax.tree.leaves(expected),
        strict=True,
    ):
        floor = max(
            (value for end, value in (floors or {}).items() if path.endswith(end)), default=0
        )
        scale = max(np.abs(b).max(initial=0.0), floor, 1e-30)
        worst = np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).max(initial=0.0)
        found[path] = float(worst / scale)
    return found


def assert_close(got: Any, expected: Any, floors: dict[str, float] | None = None) -> None:
    far = {p: d for p, d in differences(got, expected, floors).items() if not d <= TOLERANCE}
    assert not far, far


def cell(name: str, kind: str, start: Callable[[jaxdl.TrainStep], jaxdl.TrainStep] = warm):
    """The step and the state of one cell, the latter without the axis that ``pmap`` gives it."""
    step, state = run(CASES[name], layouts_of(CASES[name]).get(kind), start=start)
    return step, jaxdl.from_pmap_state(state) if kind == "pmap" else state


@pytest.mark.parametrize(("name", "kind"), cells())
def test_same_parameters_after_five_steps(devices, name, kind):
    step, state = cell(name, kind)
    assert_close(compared(state), reference(name))
    if kind == "pmap":
        return
    for leaf, sharding in zip(
        jax.tree.leaves(state), jax.tree.leaves(step.shardings(state)), strict=True
    ):
        assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fsdp", "tensor", "sequence"])
def test_a_decoder_from_its_own_start(devices, kind):
    """Biases start at 0 here, and that of the keys stays there: a softmax does not see it.

    What it holds is the rounding of a gradient whose terms cancel, which no two programs share. So
    this leaf, and no other, is measured against the largest number of the tree.
    """
    name = "gpt-scanned-remat"
    expected = reference(name, as_it_is)
    largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
    _, state = cell(name, kind, as_it_is)
    assert_close(compared(state), expected, {"attention/key/bias": largest})
    # It moved, so it is five steps that are compared.
    pure = jaxdl.make_train_step(CASES[name].objective[False], SGD, ema_decay=0.9)
    first = jaxdl.jit(pure, layout=single()).init(3, CASES[name].batches()[0])
    assert max(differences(expected, compared(first)).values()) > 0.01


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


def main(names: list[str]) -> None:
    """Prints the worst relative difference of every cell, as a table in Markdown."""
    print("| layout |", " | ".join(names), "|")
    print("|---" * (len(names) + 1) + "|")
    for kind in KINDS:
        worst = [
            max(differences(compared(cell(name, kind)[1]), reference(name)).values())
            for name in names
        ]
        print(f"| {kind} |", " | ".join(f"{value:.1e}" for value in worst), "|", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or list(CASES))
