"""Programs as text for the tests of what reads them."""

from __future__ import annotations


def program(*lines: str, before: str = "", devices: int = 8) -> str:
    body = "\n".join(f"  {line}" for line in lines)
    return (
        f"HloModule jit_step, is_scheduled=true, num_partitions={devices}\n\n{before}\n"
        f"ENTRY %main (p: f32[8,16]) -> f32[8,16] {{\n"
        f"  %p = f32[8,16]{{1,0:T(8,128)}} parameter(0)\n{body}\n"
        "  ROOT %end = f32[8,16]{1,0} copy(%p)\n}\n"
    )


LOOP = """
%body (t: (s32[], f32[8,16], s32[])) -> (s32[], f32[8,16], s32[]) {
  %t = (s32[]{:T(128)}, f32[8,16]{1,0:T(8,128)S(1)}, s32[]{:T(128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%t), index=0
  %x = f32[8,16]{1,0:T(8,128)S(1)} get-tuple-element(%t), index=1
  %carried = s32[]{:T(128)} get-tuple-element(%t), index=2
  BODY
  %sum = f32[8,16]{1,0} all-reduce(%x), channel_id=1, replica_groups={{0,1}}, to_apply=%add
  ROOT %r = (s32[]{:T(128)}, f32[8,16]{1,0}, /*index=2*/s32[]{:T(128)}) tuple(%next, %sum, %carried)
}

%condition (t: (s32[], f32[8,16], s32[])) -> pred[] {
  %t = (s32[]{:T(128)}, f32[8,16]{1,0:T(8,128)S(1)}, s32[]{:T(128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%t), index=0
  %carried = s32[]{:T(128)} get-tuple-element(%t), index=2
  CONDITION
}
"""


def looped(body: str, condition: str, first: int = 0, carried: int = 0, tail: str = "") -> str:
    before = LOOP.replace("BODY", body.replace("; ", "\n  "))
    before = before.replace("CONDITION", condition.replace("; ", "\n  "))
    return program(
        f"%zero = s32[]{{:T(128)}} constant({first})",
        f"%value = s32[]{{:T(128)}} constant({carried})",
        "%copied = s32[] copy(%zero)",
        "%start = (s32[], f32[8,16], s32[]) tuple(%copied, %p, %value)",
        "%loop = (s32[], f32[8,16], s32[]) while(%start), condition=%condition, body=%body" + tail,
        before=before,
    )


def bound(n: int, direction: str = "LT") -> str:
    return f"%n = s32[] constant({n}); ROOT %lt = pred[] compare(%i, %n), direction={direction}"


def step(n: int) -> str:
    return f"%one = s32[] constant({n}); %next = s32[]{{:T(128)}} add(%i, %one)"
