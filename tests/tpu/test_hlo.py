"""The text of compiled programs: every spelling and trap that was met, in a few lines each."""

from __future__ import annotations

import re

import pytest
from programs import bound, looped, program, step

from jaxdl.errors import ProgramError
from jaxdl.tpu import Traffic, read_collectives, summarize
from jaxdl.tpu.programs.groups import first_group
from jaxdl.tpu.programs.hlo_text import parse_module, shape_bytes

P = 4 * 8 * 16


@pytest.mark.parametrize(
    ("line", "kind", "whole", "size", "wire"),
    [
        ("%a = f32[8,16]{1,0} all-reduce(%p), replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add",
         "all-reduce", P, 4, 2 * P * 3 // 4),
        ("%a = f32[16,16]{1,0} all-gather(%p), replica_groups=[4,2]<=[8], dimensions={0}",
         "all-gather", 2 * P, 2, P),
        ("%a = f32[1,16]{1,0} reduce-scatter(%p), replica_groups={}, to_apply=%add",
         "reduce-scatter", P, 8, P * 7 // 8),
        ("%a = f32[8,16]{1,0} all-to-all(%p), replica_groups=mesh['x'=2,'y'=4] {'y'}",
         "all-to-all", P, 4, P * 3 // 4),
        ("%a = f32[8,16]{1,0} collective-permute(%p), source_target_pairs={{0,1},{1,2},{2,0}}",
         "collective-permute", P, 3, P),
        ("%a = f32[8,16]{1,0} collective-broadcast(%p), replica_groups={{0,1}}",
         "collective-broadcast", P, 2, P),
        ("%a = (f32[8,16], u32[], token[]) send(%p, %t), channel_id=3, is_host_transfer=false",
         "send", P, 2, P),
        ("%a = f32[8,16]{1,0} all-reduce(%p), replica_groups={{0},{1}}, to_apply=%add",
         "all-reduce", P, 1, 0),
        # Results of -start forms hold the operand too; the operand alone is what is sent.
        ("%a = (f32[8,16]{1,0}, f32[16,16]{1,0}) all-gather-start(%p), replica_groups=[4,2]<=[8]",
         "all-gather", 2 * P, 2, P),
        ("%a = (f32[8,16], f32[8,16]) collective-permute-start(%p), source_target_pairs={{0,1}}",
         "collective-permute", P, 2, P),
        ("%a = (f32[8,16], f32[8,16]) all-reduce(%p, %p), replica_groups={{0,1}}, to_apply=%add",
         "all-reduce", 2 * P, 2, 2 * P),
        # Older texts write the type before each operand.
        ("%a = f32[8,16]{1,0} all-reduce(f32[8,16]{1,0} %p), replica_groups={{0,1}}",
         "all-reduce", P, 2, P),
    ],
)  # fmt: skip
def test_bytes_of_each_kind(line, kind, whole, size, wire):
    (found,) = read_collectives(program(line))
    assert (found.kind, found.bytes, found.group_size, found.wire_bytes) == (
        kind,
        whole,
        size,
        wire,
    )
    assert (found.times, found.exact) == (1, True)


def test_done_forms_and_transfers_to_the_host_are_left_out():
    assert not read_collectives(
        program(
            "%a = f32[8,16] all-gather-done(%p)",
            "%b = (f32[8,16], u32[], token[]) send(%p, %t), is_host_transfer=true",
            "%c = (f32[8,16], u32[], token[]) recv(%t), channel_id=1",
            "%d = token[] send-done(%b)",
        )
    )


def test_op_name_tells_what_it_stems_from():
    line = (
        "%a = f32[8,16] all-reduce(%p), replica_groups={{0,1}}, "
        'metadata={op_name="jit(step)/transpose(jvp(MLP))/dense_1/dot_general" stack_frame_id=6}'
    )
    (found,) = read_collectives(program(line))
    assert found.op_name == "jit(step)/transpose(jvp(MLP))/dense_1/dot_general"
    assert found.shapes == ("f32[8,16]",)


def test_collective_without_a_name_takes_that_of_what_it_works_on():
    made = '%m = f32[8,16] dot(%p, %p), metadata={op_name="jit(step)/dense/dot_general"}'
    lines = [made, "%b = f32[8,16] bitcast(%m)", "%a = f32[8,16] all-reduce(%b), replica_groups={}"]
    (found,) = read_collectives(program(*lines))
    assert found.op_name == "jit(step)/dense/dot_general"
    (found,) = read_collectives(program("%a = f32[8,16] all-reduce(%p), replica_groups={}"))
    assert found.op_name == ""


def test_summary_adds_up_by_kind():
    reduce = "= f32[8,16] all-reduce(%p), replica_groups={{0,1}}"
    gather = "= f32[8,16] all-gather(%p), replica_groups={{0,1}}"
    found = read_collectives(program(f"%a {reduce}", f"%b {reduce}", f"%c {gather}"))
    assert list(summarize(found).items()) == [
        ("all-reduce", Traffic(2, 2 * P, 2 * P)),
        ("all-gather", Traffic(1, 2 * P, P)),
    ]


# --- groups ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "group"),
    [
        ("replica_groups={{0,2},{1,3}}, x=1", (0, 2)),
        ("replica_groups={}, x=1", (0, 1, 2, 3, 4, 5, 6, 7)),
        ("replica_groups={{}}, x=1", (0, 1, 2, 3, 4, 5, 6, 7)),
        ("replica_groups=[2,4]<=[8], x=1", (0, 1, 2, 3)),
        ("replica_groups=[4,2]<=[2,4]T(1,0), x=1", (0, 4)),
        ("replica_groups=[1,8]<=[8]", tuple(range(8))),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}, x=1", (0, 1, 2, 3)),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_0'}, x=1", (0, 4)),
        ("replica_groups=mesh['a'=2,'b'=2,'c'=2] {'a','c'}, x=1", (0, 1, 4, 5)),
        ("replica_groups=mesh['a'=4,'b'=1,'c'=4], device_ids=([4,4]T(1,0)) {'a'}", (0, 1, 2, 3)),
        ("replica_groups=mesh['a'=4,'b'=1,'c'=4], device_ids=([4,4]T(1,0)) {'c'}", (0, 4, 8, 12)),
        ("replica_groups=mesh['a'=2,'b'=4], device_ids=([8]) {'a'}", (0, 4)),
        ("source_target_pairs={{0,3},{3,2},{2,1},{1,0}}", (0, 3, 2, 1)),
        ("source_target_pairs={{1,2},{0,1},{2,3}}, x=1", (1, 2, 3, 0)),
        ("source_target_pairs={{4,4}}", (4,)),
    ],
)
def test_spellings_of_groups(text, group):
    assert first_group(text, 8) == group


@pytest.mark.parametrize(
    "written",
    [
        "replica_groups=torus[4x4] {x}",
        "replica_groups=mesh['a'=2,'b'=4] {'z'}",
        "replica_groups=mesh['a'=2], device_ids=([4]) {'a'}",
        "replica_groups=@mesh_0 {'a'}",
    ],
)
def test_unknown_spelling_is_an_error(written):
    """A silent group of one device once hid 6 of 11 GB."""
    with pytest.raises(ProgramError) as caught:
        read_collectives(program(f"%a = f32[8,16] all-reduce(%p), {written}, to_apply=%add"))
    assert "cannot read" in str(caught.value)
    assert written in str(caught.value)
    assert "report it" in str(caught.value)


def between(kind: str, target: str) -> str:
    return (
        "%s = (f32[8,16], u32[], token[]) send(%p, %t), channel_id=2, is_host_transfer=true, "
        'frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",'
        f'_xla_host_transfer_rendezvous="{kind.lower()}.1_0",_xla_megascale_target={target},'
        f'_xla_megascale_transfer_type="{kind}"}}'
    )


@pytest.mark.parametrize(
    ("kind", "target", "name", "group", "whole", "wire"),
    [
        ("ALL_REDUCE", '"{1,2,3,4}x{0:3}"', "all-reduce", (0, 4, 8, 12), P, 2 * P * 3 // 4),
        ("ALL_GATHER", '"{1,2}x{0:15}"', "all-gather", (0, 16), 2 * P, P),
        ("REDUCE_SCATTER", '"{1,2}x{0:255}"', "reduce-scatter", (0, 256), P, P // 2),
        ("ALL_TO_ALL", "{{100000,200000,300000},{100001,200001,300001}}", "all-to-all",
         (0, 2, 4), P, P * 2 // 3),
        ("ALL_GATHER", "{{300000,400000},{300003,400003}}", "all-gather", (8, 12), 2 * P, P),
        ("ONE_TO_ONE", "{{100000->200000},{200000->100000},{100001->200001}}",
         "collective-permute", (0, 2), P, P),
    ],
)  # fmt: skip
def test_traffic_between_slices(kind, target, name, group, whole, wire):
    """libtpu hands it to a runtime on the host; no collective stands in the text."""
    (found,) = read_collectives(program(between(kind, target)))
    assert (found.kind, found.network, found.group) == (name, "dcn", group)
    assert found.bytes == whole
    assert found.wire_bytes == pytest.approx(wire, abs=1)
    assert list(summarize([found])) == [f"{name} over dcn"]


@pytest.mark.parametrize(("kind", "target"), [("GOSSIP", '"{1,2}x{0:3}"'), ("ALL_REDUCE", '"all"')])
def test_unknown_traffic_between_slices_is_an_error(kind, target):
    with pytest.raises(ProgramError, match=f"between slices, {kind}"):
        read_collectives(program(between(kind, target)))


SCATTER = """
%all-reduce-scatter.4 (input.4: bf16[8192,1024]) -> bf16[2080,1024] {
  %input.4 = bf16[8192,1024]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %constant.391 = bf16[] constant(0)
  %pad.6 = bf16[8320,1024]{1,0:T(8,128)(2,1)} pad(%input.4, %constant.391), padding=0_128x0_0
  %all-reduce.15 = bf16[8320,1024]{1,0:T(8,128)(2,1)} all-reduce(%pad.6), channel_id=32, \
replica_groups={{0,1,2,3},{4,5,6,7}}, use_global_device_ids=true, to_apply=%add.8.clone
  %partition-id.16 = u32[] partition-id()
  ROOT %dynamic-slice.56 = bf16[2080,1024]{1,0:T(8,128)(2,1)S(1)} dynamic-slice(%all-reduce.15, \
%partition-id.16), dynamic_slice_sizes={2080,1024}
}
"""


def test_reduce_scatter_that_is_written_as_an_all_reduce():
    line = (
        "%fusion.4 = bf16[2080,1024]{1,0} fusion(%p), kind=kCustom, calls=%all-reduce-scatter.4, "
        'metadata={op_name="jit(step)/transpose(jvp())/dot_general" stack_frame_id=18}'
    )
    (found,) = read_collectives(program(line, before=SCATTER))
    whole = 2 * 8320 * 1024
    assert (found.kind, found.bytes, found.group_size) == ("reduce-scatter", whole, 4)
    assert found.wire_bytes == whole * 3 // 4
    assert found.op_name == "jit(step)/transpose(jvp())/dot_general"


def test_scatters_of_unrolled_layers_share_a_channel_and_are_several():
    twice = SCATTER + SCATTER.replace("all-reduce-scatter.4", "all-reduce-scatter.5")
    calls = [f"%f{n} = bf16[2080,1024] fusion(%p), calls=%all-reduce-scatter.{n}" for n in (4, 5)]
    assert len(read_collectives(program(*calls, before=twice))) == 2


def carrying(name: str, channel: int = 33) -> str:
    return f"""
%{name} (q: f32[8,16]) -> f32[64,16] {{
  %q = f32[8,16] parameter(0)
  ROOT %g.{name} = f32[64,16] all-gather(%q), channel_id={channel}, \
replica_groups=mesh['axis_0'=8,'axis_1'=1] {{'axis_0'}}, frontend_attributes={{chain_id="1"}}
}}
"""


def test_gather_under_way_in_several_fusions_counts_once():
    names = ["fused_computation.340", "async_collective_fusion.481", "fused_computation.344"]
    calls = [f"%f{i} = f32[64,16] fusion(%p), calls=%{n}" for i, n in enumerate(names)]
    (found,) = read_collectives(program(*calls, before="".join(map(carrying, names))))
    assert (found.times, found.bytes) == (1, 8 * P)
    two = carrying("a", 1) + carrying("b", 2)
    calls = ["%f = f32[64,16] fusion(%p), calls=%a", "%g = f32[64,16] fusion(%p), calls=%b"]
    assert len(read_collectives(program(*calls, before=two))) == 2
    two = carrying("a", 1) + carrying("b", 1).replace('chain_id="1"', 'chain_id="2"')
    assert len(read_collectives(program(*calls, before=two))) == 2


def test_gather_that_is_carried_through_a_loop_counts_as_often_as_it_starts():
    inner = f"{step(1)}; %f = f32[64,16] fusion(%x), calls=%async_collective_fusion.1"
    text = looped(inner, bound(12))
    outside = "  %s = f32[64,16] fusion(%p), calls=%started\n  ROOT %end"
    text = text.replace("  ROOT %end", outside)
    both = carrying("async_collective_fusion.1") + carrying("started")
    text = text.replace("\n%body ", f"{both}\n%body ", 1)
    gathers = [each for each in read_collectives(text) if each.kind == "all-gather"]
    assert [each.times for each in gathers] == [1]


def test_equal_channels_outside_fusions_are_different_collectives():
    line = "= f32[8,16] all-reduce(%p), channel_id=1, replica_groups={{0,1}}"
    assert len(read_collectives(program(f"%a {line}", f"%b {line}"))) == 2


def test_wrapped_asynchronous_call_counts_once():
    wrapped = """
%wrapped (q: f32[8,16]) -> f32[1,16] {
  %q = f32[8,16] parameter(0)
  ROOT %s = f32[1,16] reduce-scatter(%q), replica_groups={}, dimensions={0}, to_apply=%add
}
"""
    lines = [
        "%s = ((f32[8,16]), f32[1,16]) async-start(%p), calls=%wrapped",
        "%u = ((f32[8,16]), f32[1,16]) async-update(%s), calls=%wrapped",
        "%d = f32[1,16] async-done(%u), calls=%wrapped",
    ]
    (found,) = read_collectives(program(*lines, before=wrapped))
    assert (found.kind, found.times) == ("reduce-scatter", 1)


def test_branches_of_a_conditional_count_as_if_taken():
    branches = carrying("left").replace("chain", "x") + carrying("right", 2)
    line = "%c = f32[64,16] conditional(%i, %p, %p), branch_computations={%left, %right}"
    assert len(read_collectives(program(line, before=branches))) == 2


def test_kernels_that_span_lines():
    kernel = """%k = f32[8,16] custom-call(%p), custom_call_target="tpu_custom_call", \
backend_config={"custom_call_config": {"body": "module {
  func.func @main() {
}}, metadata={op_name="jit(step)/attention"}"""
    reduce = "%a = f32[8,16] all-reduce(%k), replica_groups={{0,1}}"
    (found,) = read_collectives(program(kernel, reduce))
    assert found.bytes == P


# --- the text itself ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ("f32[8,4]{1,0:T(8,128)S(1)}", 128),
        ("bf16[1,1024,4096]{2,1,0:T(8,128)(2,1)}", 2 * 1024 * 4096),
        ("pred[]", 1),
        ("(f32[2]{0}, /*index=1*/s8[3], u32[]{:S(2)})", 15),
        ("f8e4m3fn[10]", 10),
        ("s4[7]", 4),
        ("c64[2]", 16),
        ("token[]", 0),
        ("f32[<=16,2]", 128),
        ("f32[0,4]", 0),
    ],
)
def test_bytes_of_types(shape, size):
    assert shape_bytes(shape) == size


def test_unknown_type_is_an_error():
    with pytest.raises(ProgramError, match="unknown type 'quux'"):
        shape_bytes("quux[4]")


def test_text_that_is_no_program():
    with pytest.raises(ProgramError, match="no ENTRY computation"):
        read_collectives("module @jit_f { }")


def test_parts_of_a_program():
    module = parse_module(looped(step(1), bound(12)))
    assert module.entry == "main"
    assert module.devices == 8
    assert set(module.computations) == {"body", "condition", "main"}
    body = module.computations["body"]
    assert body.root.operands == ("next", "sum", "carried")
    assert body.instructions["sum"].attribute("channel_id") == "1"
    assert not re.search(r"/\*", body.root.shape)
