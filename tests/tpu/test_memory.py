"""What lies in a device's memory, and the compiler's words when it is too much."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdl
from jaxdl import losses, models
from jaxdl.tpu.plans.facts import Memory
from jaxdl.tpu.plans.memory import buffers_of, bytes_by_use, memory_of, read_refusal
from jaxdl.tpu.slices.hardware import chip

GIB = 2**30

# libtpu 0.0.42.1, before it schedules: the same words for v4, v5e, v5p, v6e and tpu7x.
BEFORE = (
    "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries "
    "(27.44G) exceeds available HBM (15.75G)."
)
# XLA's words when it assigns buffers, which the runtime of a TPU gives.
AFTER = """RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory \
space hbm. Used 17.20G of 15.48G hbm. Exceeded hbm capacity by 1.72G.

Total hbm usage >= 17.72G:
    reserved        530.00M
    program          17.20G
    arguments            0B

Largest program allocations in hbm:

  1. Size: 4.00G
"""


@pytest.mark.parametrize(
    ("text", "needed", "available"),
    [
        (BEFORE, 27.44 * GIB, 15.75 * GIB),
        (AFTER, 17.20 * GIB, 15.48 * GIB),
        (BEFORE.replace("27.44G", "1.5T"), 1.5 * 1024 * GIB, 15.75 * GIB),
        (BEFORE.replace("15.75G", "512.00M"), 27.44 * GIB, 0.5 * GIB),
        (
            "Used 15.75G of 15.75G hbm. Exceeded hbm capacity by 768.0K.",
            int(15.75 * GIB) + 768 * 2**10,
            15.75 * GIB,
        ),
    ],
)
def test_figures_of_a_refusal(text, needed, available):
    told = read_refusal(text)
    assert (told.needed, told.available) == (int(needed), int(available))


def test_words_of_a_refusal_are_one_line_without_its_code():
    assert read_refusal(BEFORE).text == BEFORE.removeprefix("RESOURCE_EXHAUSTED: ")
    assert "\n" not in read_refusal(AFTER).text
    assert read_refusal(AFTER).text.endswith("Exceeded hbm capacity by 1.72G.")


def test_a_refusal_without_figures_has_none():
    told = read_refusal("RESOURCE_EXHAUSTED: HBM is full")
    assert (told.needed, told.available, told.text) == (None, None, "HBM is full")


def placed(layout, *, ema=None, optimizer=None):
    model = models.MLP((64, 8))
    objective = jaxdl.supervised(model, losses.softmax_cross_entropy, inputs="x")
    pure = jaxdl.make_train_step(objective, optimizer or optax.adam(1e-3), ema_decay=ema)
    step = jaxdl.jit(pure, layout=layout)
    batch = {
        "x": jax.ShapeDtypeStruct((16, 32), jnp.float32),
        "label": jax.ShapeDtypeStruct((16,), jnp.int32),
    }
    batch = step.put(batch)
    return step.abstract_state(batch), batch


@pytest.mark.parametrize(
    ("layout", "parts"),
    [(jaxdl.data_parallel(), (1, 1, 1)), (jaxdl.fsdp(min_size=1), (8, 8, 8))],
    ids=["data", "fsdp"],
)
def test_bytes_of_each_use(layout, parts):
    params = 32 * 64 + 64 + 64 * 8 + 8
    sums = bytes_by_use(buffers_of(*placed(layout, ema=0.9)))
    held, moments, average = (4 * params // part for part in parts)
    assert sums["parameters"] == held
    assert sums["average"] == average
    # Adam's count and, in jaxdl, nothing else.
    assert sums["optimizer"] == 2 * moments + 4
    assert sums["batch"] == 16 * (32 + 1) * 4 // 8
    # The step's number and the key.
    assert sums["other state"] == 4 + 8


def test_zero1_divides_the_optimizer_alone():
    whole = bytes_by_use(buffers_of(*placed(jaxdl.data_parallel())))
    sums = bytes_by_use(buffers_of(*placed(jaxdl.zero1(min_size=1))))
    assert sums["parameters"] == whole["parameters"]
    assert sums["optimizer"] == (whole["optimizer"] - 4) // 8 + 4


def test_buffers_are_named_and_the_largest_comes_first():
    first, *others = buffers_of(*placed(jaxdl.fsdp(min_size=1)))
    assert first.path in {"params/dense_0/kernel", *(b.path for b in others)}
    assert first.bytes == 32 * 64 * 4 // 8
    assert (first.shape, first.dtype, first.spec) == ((32, 64), "float32", "P(None, 'fsdp')")
    assert [b.bytes for b in (first, *others)] == sorted(
        (b.bytes for b in (first, *others)), reverse=True
    )
    assert {"batch/x", "batch/label", "step", "key"} <= {b.path for b in others}


def on_one(shape, dtype):
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


@pytest.mark.parametrize(
    ("state", "uses"),
    [
        ({"w": on_one((4, 4), jnp.float32)}, {"parameters": 64}),
        # No field is known: floats are parameters, counters are not.
        (
            {"w": on_one((4, 4), jnp.bfloat16), "count": on_one((), jnp.int32)},
            {"parameters": 32, "other state": 4},
        ),
        (
            {
                "params": on_one((2,), jnp.float32),
                "opt_state": on_one((3,), jnp.float32),
                "batch_stats": on_one((5,), jnp.float32),
                "loss_scale": on_one((), jnp.float32),
            },
            {"model state": 20, "optimizer": 12, "parameters": 8, "other state": 4},
        ),
    ],
)
def test_states_of_other_kinds(state, uses):
    assert bytes_by_use(buffers_of(state, {})) == uses


def stats(peak, temporaries=10, code=3, arguments=0):
    found = SimpleNamespace(
        peak_memory_in_bytes=peak,
        temp_size_in_bytes=temporaries,
        generated_code_size_in_bytes=code,
        argument_size_in_bytes=arguments,
    )
    return SimpleNamespace(memory_analysis=lambda: found)


@pytest.fixture
def compiled(untyped):
    """Memory of a program that stands for a compiled one."""

    def memory(program, buffers=()) -> Memory:
        return memory_of(program, buffers, chip("v5e"))

    return memory


def test_a_program_that_was_placed_fits(compiled):
    memory = compiled(stats(peak=2 * GIB))
    assert memory.fits
    assert (memory.temporaries, memory.code, memory.peak) == (10, 3, 2 * GIB)
    assert memory.available == int(15.75 * GIB)


def test_a_program_that_was_placed_above_the_memory_does_not_fit(compiled):
    memory = compiled(stats(peak=16 * GIB))
    assert not memory.fits
    assert "17,179,869,184 bytes of 16,911,433,728" in memory.refusal


def test_a_refused_program_says_how_much_it_lacks(compiled):
    buffers = buffers_of({"w": on_one((2**28, 4), jnp.float32)}, {"x": on_one((2**20,), np.int8)})
    memory = compiled(BEFORE, buffers)
    assert not memory.fits
    assert memory.peak - memory.available == int(27.44 * GIB) - int(15.75 * GIB)
    assert memory.by_use == {"parameters": 4 * GIB, "batch": 2**20}
    assert memory.arguments + memory.temporaries == memory.peak


def test_a_refusal_without_figures_takes_the_table_and_the_arguments(compiled):
    buffers = buffers_of({"w": on_one((2**30, 6), jnp.float32)}, {})
    memory = compiled("RESOURCE_EXHAUSTED: hbm is full", buffers)
    assert not memory.fits
    assert (memory.peak, memory.temporaries) == (24 * GIB, 0)
    assert memory.available == int(15.75 * GIB)
