"""Theory against compiled program: the bytes that a layout moves, counted in the optimised HLO.

``G`` is the bytes of all parameters, ``S`` of those that the layout divides. A gradient's sum that
is wanted in parts is an all-reduce of the whole on CPU; a TPU scatters it.

The rows outnumber the widths here, as they do in training. With fewer, moving activations is
cheaper than gathering a weight, and the compiler then does that for the layers concerned.
"""

from __future__ import annotations

import collections
import math
import re

import jax
import numpy as np
import optax
import pytest

import jaxdl
from jaxdl import losses, models
from jaxdl.layouts import (
    data_parallel,
    explain,
    fsdp,
    layout,
    single,
    tensor_parallel,
    zero1,
)
from jaxdl.models.mlp import tensor_rules

ROWS, INPUTS, FEATURES = 16384, 64, (128, 64, 128, 16)
FLOAT = 4
# The loss is summed over the devices along with the gradients.
SUMS = FLOAT
KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
COLLECTIVE = re.compile(rf"= (\(.*?\)|\S+) ({KINDS})(?:-start)?\(")
ARRAY = re.compile(r"\b([a-z]+)(\d+)\[([\d,]*)\]")


def collectives(program: jax.stages.Compiled) -> collections.Counter[str]:
    """Bytes of the results of each kind of collective, on one device."""
    found: collections.Counter[str] = collections.Counter()
    for line in program.as_text().splitlines():
        match = COLLECTIVE.search(line)
        if match is None:
            continue
        for _, bits, shape in ARRAY.findall(match.group(1)):
            found[match.group(2)] += math.prod(map(int, filter(None, shape.split(",")))) * (
                int(bits) // 8
            )
    return found


def compiled(chosen):
    """The program, the bytes of all parameters, and the state's rows in the layout's table."""
    objective = jaxdl.supervised(models.MLP(FEATURES), losses.softmax_cross_entropy)
    pure = jaxdl.make_train_step(objective, optax.sgd(0.1, momentum=0.9))
    batch = {
        "image": np.zeros((ROWS, INPUTS), np.float32),
        "label": np.zeros((ROWS,), np.int32),
    }
    step = jaxdl.jit(pure, layout=chosen)
    state = step.abstract_state(batch)
    rows = [row for row in explain(state, chosen).rows if row.path.startswith("params/")]
    return step.compile(state, batch), rows


def size(row) -> int:
    return math.prod(row.shape) * FLOAT


def test_one_device_moves_nothing():
    program, _ = compiled(single())
    assert not collectives(program)


def test_data_parallel_reduces_exactly_the_gradient(devices):
    program, rows = compiled(data_parallel())
    assert collectives(program) == {"all-reduce": sum(map(size, rows)) + SUMS}


def test_zero1_reduces_the_gradient_and_gathers_the_parameters(devices):
    chosen = zero1(min_size=1024)
    program, rows = compiled(chosen)
    divided = sum(size(row) for row in rows if math.prod(row.shape) >= 1024)
    assert collectives(program) == {
        "all-reduce": sum(map(size, rows)) + SUMS,
        "all-gather": divided,
    }


@pytest.mark.parametrize("outer", [None, 2])
def test_fsdp_gathers_what_it_divides_and_reduces_the_gradient(devices, outer):
    program, rows = compiled(fsdp(data=outer, min_size=1024))
    divided = sum(size(row) for row in rows if row.bytes_per_device < size(row))
    assert divided > 0.9 * sum(map(size, rows))
    seen = collectives(program)
    assert set(seen) == {"all-reduce", "all-gather"}
    assert seen["all-gather"] == pytest.approx(divided, rel=0.05)
    # Over fsdp the whole gradient is summed, over the outer axis each device's part of it.
    outer_sums = 0 if outer is None else divided // (8 // outer)
    reduced = sum(map(size, rows)) + outer_sums + SUMS
    assert seen["all-reduce"] == pytest.approx(reduced, rel=0.05)


def tensor_sums(data: int) -> int:
    """Each pair of layers sums its outputs, and each but the first the gradient of its inputs."""
    return ROWS // data * (FEATURES[1] + FEATURES[3] + FEATURES[1]) * FLOAT


def test_tensor_parallel_sums_each_pair_of_layers_twice(devices):
    program, rows = compiled(tensor_parallel(tensor_rules(FEATURES), tensor=4))
    gradients = sum(row.bytes_per_device for row in rows)
    assert collectives(program) == {"all-reduce": tensor_sums(data=2) + gradients + SUMS}


def test_fsdp_with_tensor_gathers_what_tensor_leaves(devices):
    chosen = layout(
        mesh={"fsdp": 4, "tensor": 2},
        rules=tensor_rules(FEATURES),
        shard_axis="fsdp",
        min_size=1024,
    )
    program, rows = compiled(chosen)
    divided = [row for row in rows if "fsdp" in tuple(row.spec)]
    gathered = sum(4 * row.bytes_per_device for row in divided)
    gradients = gathered + sum(row.bytes_per_device for row in rows if row not in divided)
    seen = collectives(program)
    assert set(seen) == {"all-reduce", "all-gather"}
    assert seen["all-gather"] == pytest.approx(gathered, rel=0.05)
    assert seen["all-reduce"] == pytest.approx(tensor_sums(data=4) + gradients + SUMS, rel=0.05)
