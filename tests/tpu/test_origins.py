"""Which parameters a collective comes from: by module, by shape, and never by a guess."""

from __future__ import annotations

import numpy as np

from jaxdl.tpu.budget.origins import origin_of
from jaxdl.tpu.plans.facts import Buffer
from jaxdl.tpu.programs.hlo import Collective


def buffer(path, *shape, parts=1, use="parameters", dtype="float32"):
    size = int(np.prod(shape)) * 4 // parts
    return Buffer(path, use, shape, dtype, "P()", size)


def collective(kind, *shapes, size=8, times=1, op_name=""):
    return Collective(kind, 0, size, times, 0, op_name, tuple(range(size)), shapes)


BACK = "jit(update)/transpose(jvp(GPT))/GPT.hidden"
FORTH = "jit(update)/jvp(GPT)/GPT.hidden"
LAYERS = tuple(buffer(f"params/block_{n}/mlp_in/kernel", 64, 256, parts=8) for n in range(12))


def test_origin_by_module():
    one = collective("reduce-scatter", "bf16[64,256]", op_name=f"{BACK}/block_1/mlp_in/dot_general")
    found = origin_of(one, LAYERS)
    assert found.paths == ("params/block_1/mlp_in/kernel",)
    assert found.sure
    assert found.words == "gradient of params/block_1/mlp_in/kernel f32[64,256]"
    # block_1 is not block_11, and the wrong module is none.
    other = collective("all-gather", "f32[8,256]", op_name=f"{FORTH}/block_11/mlp_in/dot_general")
    assert origin_of(other, LAYERS).paths == ("params/block_11/mlp_in/kernel",)


def test_origin_is_not_guessed():
    found = origin_of(collective("all-gather", "f32[8,256]", op_name=FORTH), LAYERS)
    assert len(found.paths) == 12
    assert not found.sure
    assert "one of 12 that match" in found.words
    assert "and 9 more" in found.words
    alone = origin_of(collective("all-gather", "f32[8,256]", op_name=FORTH), LAYERS[:1])
    assert alone.words.endswith("by its shape alone")
    assert not alone.sure


def test_origin_of_an_activation():
    op_name = f"{FORTH}/block_0/attention/softmax"
    found = origin_of(collective("all-reduce", "bf16[2,9]", op_name=op_name), LAYERS)
    assert found == ((), True, "no parameter: bf16[2,9] at block_0/attention/softmax")
    state = (buffer("opt_state/0/mu/w", 9, 2, use="optimizer"),)
    assert origin_of(collective("all-reduce", "bf16[2,9]"), state).paths == ()
    assert "without a name" in origin_of(collective("all-to-all", "f32[3]"), ()).words


def test_origin_in_a_scanned_stack_and_across_groups():
    stack = (buffer("params/blocks/mlp_in/kernel", 4, 64, 256, parts=8),)
    op_name = f"{FORTH}/while/body/closed_call/blocks.<lambda>/blocks/mlp_in/dot_general"
    inner = collective("all-gather", "bf16[1,8,256]", times=4, op_name=op_name)
    assert origin_of(inner, stack).paths == ("params/blocks/mlp_in/kernel",)
    assert origin_of(inner._replace(times=1), stack).paths == ()
    # Gathered within a group of 8, still divided over 4 others.
    part = collective("all-gather", "f32[4,8,64]", size=8, op_name=op_name)
    quarter = (buffer("params/blocks/mlp_in/kernel", 4, 64, 256, parts=32),)
    assert origin_of(part, quarter).paths == ("params/blocks/mlp_in/kernel",)
    assert origin_of(part, stack).paths == ()


def test_origin_of_merged_gradients():
    both = (*LAYERS[:2], buffer("params/norm/scale", 64))
    merged = collective(
        "all-reduce", "f32[64,256]", "f32[64,256]", "f32[64]", "f32[]", op_name=BACK
    )
    found = origin_of(merged, both)
    assert found.sure
    assert found.words.startswith("gradient of 3 parameters in one: params/block_0/mlp_in/kernel")
    more = origin_of(merged, (*both, buffer("params/norm/bias", 64)))
    assert not more.sure
    assert "3 of 4 that match" in more.words
    twice = origin_of(collective("all-reduce", "f32[64]", "f32[64]", "f32[7]"), both[2:])
    assert "2 arrays, 1 that match" in twice.words
    assert "1 arrays of no parameter" in twice.words
