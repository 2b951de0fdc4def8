"""Theory against compiled program: the bytes that a layout moves, counted in the optimised HLO.

A gradient's sum that is wanted in parts is an all-reduce of the whole on CPU; a TPU scatters it.
The bytes are those of results, times the iterations of the loop around them.

Run as a program this module measures all of it on as many devices as ``JAX_NUM_CPU_DEVICES`` says
and prints it; the slow test does so with 64. Nothing is allocated there and no step runs.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import pytest

import jaxdl
from jaxdl import losses, models
from jaxdl.layouts import (
    Layout,
    data_parallel,
    explain,
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
from jaxdl.tpu import read_collectives

ROWS, INPUTS, FEATURES = 2048, 64, (128, 64, 128, 16)
FLOAT = 4
MIN_SIZE = 1024
# The loss is summed over the devices along with the gradients.
SUMS = FLOAT
LAYERS, TIME, WIDTH, WORDS = 3, 64, 64, 128


class Program(NamedTuple):
    """What a layout's step moves, and what it has to do with.

    ``rows`` are those of the parameters in the layout's table; ``batch`` is the rows of the batch
    on one device.
    """

    moved: dict[str, int]
    rows: list[Any]
    batch: int
    text: str

    @property
    def gradients(self) -> int:
        """``G``."""
        return sum(map(size, self.rows))

    @property
    def divided(self) -> int:
        """``S``."""
        return sum(size(row) for row in self.rows if row.bytes_per_device < size(row))

    @property
    def held(self) -> int:
        """Bytes of the parameters on one device."""
        return sum(row.bytes_per_device for row in self.rows)


def size(row: Any) -> int:
    return math.prod(row.shape) * FLOAT


def compiled(chosen: Layout, objective: Any, batch: dict[str, np.ndarray]) -> Program:
    """The step's program, made from shapes alone."""
    pure = jaxdl.make_train_step(objective, optax.sgd(0.1, momentum=0.9))
    step = jaxdl.jit(pure, layout=chosen)
    state = step.abstract_state(batch)
    rows = [row for row in explain(state, chosen).rows if row.path.startswith("params/")]
    text = step.compile(state, batch).as_text() or ""
    moved: Counter[str] = Counter()
    for each in read_collectives(text):
        moved[each.kind] += each.bytes * each.times
    parts = chosen.batch_shards(step.mesh)
    return Program(dict(moved), rows, len(next(iter(batch.values()))) // parts, text)


def perceptron(chosen: Layout, rows: int = ROWS) -> Program:
    batch = {
        "image": np.zeros((rows, INPUTS), np.float32),
        "label": np.zeros((rows,), np.int32),
    }
    objective = jaxdl.supervised(models.MLP(FEATURES), losses.softmax_cross_entropy)
    return compiled(chosen, objective, batch)


def decoder(chosen: Layout, **options: Any) -> Program:
    rows = 2 * jax.device_count()
    model = models.GPT(
        vocab_size=WORDS,
        num_layers=LAYERS,
        num_heads=8,
        hidden_dim=WIDTH,
        max_length=TIME,
        **options,
    )
    batch = {"tokens": np.zeros((rows, TIME + 1), np.int32)}
    return compiled(chosen, language_model(model), batch)


def fsdp_bytes(program: Program, outer: int, inner: int) -> dict[str, int]:
    """Each divided parameter is gathered once, and each gradient summed.

    Over ``fsdp`` the whole gradient is, over the outer axis each device's part of it.
    """
    outer_sums = 0 if outer == 1 else program.divided // inner
    return {
        "all-gather": program.divided,
        "all-reduce": program.gradients + outer_sums + SUMS,
    }


def tensor_sums(batch: int) -> int:
    """Each pair of layers sums its outputs, and each but the first the gradient of its inputs."""
    return batch * (FEATURES[1] + FEATURES[3] + FEATURES[1]) * FLOAT


SIDE = {8: 4, 64: 8}
"""How many of so many devices ``tensor`` or ``sequence`` gets."""

Case = tuple[Program, dict[str, int]]


def perceptron_data(count: int) -> Case:
    program = perceptron(data_parallel())
    return program, {"all-reduce": program.gradients + SUMS}


def perceptron_zero1(count: int) -> Case:
    program = perceptron(zero1(min_size=MIN_SIZE))
    gathered = sum(size(row) for row in program.rows if math.prod(row.shape) >= MIN_SIZE)
    return program, {"all-reduce": program.gradients + SUMS, "all-gather": gathered}


def perceptron_fsdp(count: int, outer: int = 1) -> Case:
    program = perceptron(fsdp(data=outer, min_size=MIN_SIZE))
    return program, fsdp_bytes(program, outer, count // outer)


def perceptron_tensor(count: int) -> Case:
    program = perceptron(tensor_parallel(tensor_rules(FEATURES), tensor=SIDE[count]))
    return program, {"all-reduce": tensor_sums(program.batch) + program.held + SUMS}


def perceptron_fsdp_tensor(count: int) -> Case:
    chosen = layout(
        mesh={"fsdp": count // 2, "tensor": 2},
        rules=tensor_rules(FEATURES),
        shard_axis="fsdp",
        min_size=MIN_SIZE,
    )
    program = perceptron(chosen)
    parts = [row for row in program.rows if "fsdp" in tuple(row.spec)]
    gathered = sum(count // 2 * row.bytes_per_device for row in parts)
    whole = sum(row.bytes_per_device for row in program.rows if row not in parts)
    summed = tensor_sums(program.batch) + gathered + whole + SUMS
    return program, {"all-gather": gathered, "all-reduce": summed}


HEAD = WORDS * WIDTH * FLOAT
"""The tied embedding has two gradients, the lookup's and the head's, each summed on its own."""

SCAN: dict[str, Any] = {"scan_layers": True, "remat": "full"}
"""One loop over the layers, with remat. It gathers a layer's weights, and its keys and values, once
more for the backward pass; of what a layer sums over ``tensor``, attention's outputs come again."""


def decoder_data(count: int, *, scan: bool) -> Case:
    program = decoder(data_parallel(), **(SCAN if scan else {}))
    return program, {"all-reduce": program.gradients + HEAD + SUMS}


def decoder_fsdp(count: int, outer: int = 1, *, scan: bool) -> Case:
    program = decoder(fsdp(data=outer, min_size=MIN_SIZE), **(SCAN if scan else {}))
    expected = fsdp_bytes(program, outer, count // outer)
    layers = [r for r in program.rows if "block" in r.path and r.bytes_per_device < size(r)]
    expected["all-gather"] += sum(map(size, layers)) if scan else 0
    expected["all-reduce"] += HEAD
    return program, expected


def decoder_tensor(count: int, *, scan: bool) -> Case:
    rules = SCANNED_TENSOR_RULES if scan else TENSOR_RULES
    program = decoder(tensor_parallel(rules, tensor=SIDE[count]), **(SCAN if scan else {}))
    # Forward the outputs of attention and of the dense layers; backward the gradient of the dense
    # layers' input and those of the three projections, which a TPU adds up before it sums them.
    sums = LAYERS * (1 + 1 + 1 + 3 + scan) + 2
    softmax = 3 * program.batch * TIME * FLOAT
    gradients = program.held + HEAD // SIDE[count] + SUMS
    return program, {"all-reduce": sums * residual(program) + softmax + gradients}


def decoder_sequence(count: int, *, scan: bool) -> Case:
    program = decoder(sequence(SIDE[count]), **(SCAN if scan else {}))
    # Gradients are summed over either axis, but that of the positions is gathered along time.
    positions = TIME * WIDTH * FLOAT
    summed = 2 * (program.gradients - positions + HEAD + SUMS) + positions // SIDE[count]
    keys_and_values = LAYERS * 2 * residual(program)
    return program, {
        "all-gather": (1 + scan) * keys_and_values + positions,
        "all-reduce": keys_and_values + summed,
    }


def residual(program: Program) -> int:
    """Bytes of the residual path for one device's rows, not divided along time."""
    return program.batch * TIME * WIDTH * FLOAT


PERCEPTRONS: dict[str, Callable[[int], Case]] = {
    "mlp data": perceptron_data,
    "mlp zero1": perceptron_zero1,
    "mlp fsdp": perceptron_fsdp,
    "mlp data x fsdp": partial(perceptron_fsdp, outer=2),
    "mlp tensor": perceptron_tensor,
    "mlp fsdp x tensor": perceptron_fsdp_tensor,
}
DECODERS: dict[str, Callable[[int], Case]] = {
    f"{name} {kind}": partial(case, scan=scan)
    for name, scan in (("gpt", False), ("gpt-scanned-remat", True))
    for kind, case in (
        ("data", decoder_data),
        ("fsdp", decoder_fsdp),
        ("data x fsdp", partial(decoder_fsdp, outer=2)),
        ("tensor", decoder_tensor),
        ("sequence", decoder_sequence),
    )
}
DEFAULT_DECODERS = ("gpt fsdp", "gpt sequence")


def check(name: str, moved: dict[str, int], expected: dict[str, int]) -> None:
    # A row of tokens is shifted by one for its targets: a few integers to the next device.
    rest = {kind: count for kind, count in moved.items() if kind not in expected}
    assert sum(rest.values()) <= 0.01 * sum(moved.values()), (name, rest)
    for kind, count in expected.items():
        assert moved.get(kind, 0) == pytest.approx(count, rel=0.05), (name, kind)


def test_one_device_moves_nothing():
    assert not perceptron(single()).moved


def test_data_parallel_sums_exactly_the_gradient(devices):
    program, _ = perceptron_data(8)
    assert program.moved == {"all-reduce": program.gradients + SUMS}


@pytest.mark.parametrize("name", PERCEPTRONS)
def test_a_perceptron_moves_what_the_formula_says(devices, name):
    program, expected = PERCEPTRONS[name](8)
    check(name, program.moved, expected)
    if "fsdp" in name and "tensor" not in name:
        assert program.divided > 0.9 * program.gradients


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in DEFAULT_DECODERS else [pytest.mark.slow])
        for name in DECODERS
    ],
)
def test_a_decoder_moves_what_the_formula_says(devices, name):
    check(name, *moved_and_expected(DECODERS[name](8)))


def moved_and_expected(case: Case) -> tuple[dict[str, int], dict[str, int]]:
    return case[0].moved, case[1]


def test_few_rows_still_gather_the_weights_and_not_the_activations(devices):
    program = perceptron(fsdp(min_size=MIN_SIZE), rows=8)
    assert program.moved == fsdp_bytes(program, 1, 8)


@pytest.mark.slow
def test_sixty_four_devices_move_what_the_formula_says():
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    run = subprocess.run(
        [sys.executable, __file__],
        env={**environment, "JAX_NUM_CPU_DEVICES": "64"},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    assert [line["case"] for line in lines] == [*PERCEPTRONS, *DECODERS]
    assert {line["devices"] for line in lines} == {64}
    for line in lines:
        check(line["case"], line["moved"], line["theory"])


def main() -> None:
    """Prints one line of JSON a case."""
    count = jax.device_count()
    for name, case in {**PERCEPTRONS, **DECODERS}.items():
        moved, theory = moved_and_expected(case(count))
        line = {"case": name, "devices": count, "moved": moved, "theory": theory}
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
