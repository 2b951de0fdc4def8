"""What a compiled program costs: cycles and memory bytes, as often as they run."""

from __future__ import annotations

import re

import pytest

from jaxdl.errors import ProgramError
from jaxdl.tpu.programs.costs import read_costs

CYCLES = 'backend_config={"window_config":{"estimated_cycles":"%d"}}'

# 6 layers of f32[16,16] stacked, one cut out in each iteration.
SCAN = f"""HloModule jit_f, num_partitions=1

%fused (p0: f32[6,16,16], p1: s32[], p2: f32[8,16]) -> f32[8,16] {{
  %p0 = f32[6,16,16]{{2,1,0}} parameter(0)
  %p1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  %cut = f32[1,16,16]{{2,1,0}} dynamic-slice(%p0, %p1, %zero, %zero)
  %w = f32[16,16]{{1,0}} bitcast(%cut)
  %p2 = f32[8,16]{{1,0}} parameter(2)
  ROOT %dot = f32[8,16]{{1,0}} dot(%p2, %w), lhs_contracting_dims={{1}}, rhs_contracting_dims={{0}}
}}

%keep (q0: f32[6,8,16], q1: f32[8,16], q2: s32[]) -> f32[6,8,16] {{
  %q0 = f32[6,8,16]{{2,1,0}} parameter(0)
  %q1 = f32[8,16]{{1,0}} parameter(1)
  %one = f32[1,8,16]{{2,1,0}} bitcast(%q1)
  %q2 = s32[] parameter(2)
  %none = s32[] constant(0)
  ROOT %put = f32[6,8,16]{{2,1,0}} dynamic-update-slice(%q0, %one, %q2, %none, %none)
}}

%body (c: (s32[], f32[8,16], f32[6,16,16], f32[6,8,16])) -> (s32[], f32[8,16], f32[6,16,16]) {{
  %c = (s32[], f32[8,16], f32[6,16,16], f32[6,8,16]) parameter(0)
  %i = s32[] get-tuple-element(%c), index=0
  %x = f32[8,16]{{1,0}} get-tuple-element(%c), index=1
  %ws = f32[6,16,16]{{2,1,0}} get-tuple-element(%c), index=2
  %all = f32[6,8,16]{{2,1,0}} get-tuple-element(%c), index=3
  %y = f32[8,16]{{1,0}} fusion(%ws, %i, %x), kind=kOutput, calls=%fused, {CYCLES % 100}
  %kept = f32[6,8,16]{{2,1,0}} fusion(%all, %y, %i), kind=kLoop, calls=%keep, {CYCLES % 10}
  %step = s32[] constant(1)
  %next = s32[] add(%i, %step)
  ROOT %t = (s32[], f32[8,16], f32[6,16,16], f32[6,8,16]) tuple(%next, %y, %ws, %kept)
}}

%cond (d: (s32[], f32[8,16], f32[6,16,16], f32[6,8,16])) -> pred[] {{
  %d = (s32[], f32[8,16], f32[6,16,16], f32[6,8,16]) parameter(0)
  %j = s32[] get-tuple-element(%d), index=0
  %n = s32[] constant(6)
  ROOT %lt = pred[] compare(%j, %n), direction=LT
}}

ENTRY %main (a: f32[8,16], w: f32[6,16,16], s: f32[6,8,16]) -> f32[6,8,16] {{
  %a = f32[8,16]{{1,0}} parameter(0)
  %w = f32[6,16,16]{{2,1,0}} parameter(1)
  %s = f32[6,8,16]{{2,1,0}} parameter(2)
  %start = s32[] constant(0)
  %init = (s32[], f32[8,16], f32[6,16,16], f32[6,8,16]) tuple(%start, %a, %w, %s)
  %loop = (s32[], f32[8,16], f32[6,16,16], f32[6,8,16]) while(%init), condition=%cond, body=%body
  ROOT %out = f32[6,8,16]{{2,1,0}} get-tuple-element(%loop), index=3
}}
"""


def program(*lines):
    body = "\n".join(f"  {line}" for line in lines)
    return f"HloModule jit_f, num_partitions=1\n\nENTRY %main () -> f32[4] {{\n{body}\n}}\n"


def test_a_loop_counts_as_often_as_it_runs_and_a_slice_as_what_it_cuts_out():
    costs = read_costs(SCAN)
    x = 8 * 16 * 4
    # Reads the slice, the index and x, writes y; the update reads y and the index, writes y's part.
    layer = (16 * 16 * 4 + 4 + x + x) + (x + 4 + x)
    # The counter's addition, twice read and once written; the comparison in the condition.
    counter, test = 3 * 4, 4 + 4 + 1
    assert costs.cycles == 6 * (100 + 10)
    assert costs.hbm_bytes == 6 * (layer + counter + test)
    assert costs.custom_calls == 0
    assert costs.notes == ()


def test_a_loop_of_unknown_length_counts_once_and_is_noted():
    costs = read_costs(SCAN.replace("constant(6)", "parameter(7)"))
    assert costs.cycles == 110
    assert "unknown length" in costs.notes[0]


def test_operands_and_results_count_and_names_for_memory_do_not():
    text = program(
        "%p = f32[100]{0} parameter(0)",
        "%b = f32[10,10]{1,0} bitcast(%p)",
        "%t = (f32[100], f32[10,10]) tuple(%p, %b)",
        "%g = f32[100]{0} get-tuple-element(%t), index=0",
        "ROOT %n = bf16[100]{0} convert(%g)",
    )
    assert read_costs(text).hbm_bytes == 400 + 200
    assert read_costs(text).cycles is None


def test_what_the_core_keeps_for_itself_counts_on_its_way_only():
    text = program(
        "%p = f32[100]{0:T(128)} parameter(0)",
        "%s = (f32[100]{0:T(128)S(1)}, f32[100]{0:T(128)}, u32[]{:S(2)}) copy-start(%p)",
        "%d = f32[100]{0:T(128)S(1)} copy-done(%s)",
        "%m = f32[100]{0:T(128)S(1)} multiply(%d, %d)",
        "ROOT %n = f32[100]{0:T(128)} negate(%m)",
    )
    assert read_costs(text).hbm_bytes == 400 + 400
    assert read_costs(text, everywhere=True).hbm_bytes == (804) + 3 * 400 + 2 * 400


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("ROOT %r = f32[10]{0} slice(%p), slice={[0:10]}", 40 + 40),
        ("ROOT %r = f32[1000]{0} dynamic-update-slice(%p, %u, %i)", 20 + 20),
        ("ROOT %r = f32[1000]{0} copy(%p)", 8000),
        ("ROOT %r = f32[1000]{0} all-reduce(%p), replica_groups={}", 8000),
        ('%r = f32[9]{0} custom-call(), custom_call_target="AllocateBuffer"', 0),
        ("%r = ((f32[1000]), f32[10], s32[]) slice-start(%p), slice={[0:10]}", 80),
    ],
)
def test_each_kind_of_instruction(line, expected):
    text = program(
        "%p = f32[1000]{0} parameter(0)", "%u = f32[5] parameter(1)", "%i = s32[] constant(3)", line
    )
    assert read_costs(text).hbm_bytes == expected


def test_kernels_are_noted():
    call = 'custom-call(%p), custom_call_target="tpu_custom_call"'
    costs = read_costs(program("%p = f32[4]{0} parameter(0)", f"ROOT %k = f32[4]{{0}} {call}"))
    assert costs.custom_calls == 1
    assert costs.hbm_bytes == 32
    assert re.search("1 runs of Pallas kernels", costs.notes[0])


def test_other_text_is_refused():
    with pytest.raises(ProgramError, match="ENTRY"):
        read_costs("not a program")
