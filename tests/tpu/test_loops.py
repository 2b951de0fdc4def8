"""How often a loop of a compiled program runs, in every form that was met."""

from __future__ import annotations

import pytest
from programs import bound, looped, step

from jaxdl.tpu import read_collectives


def trips(*args, **options):
    (found,) = read_collectives(looped(*args, **options))
    return found.times if found.exact else None


def test_trip_count_from_bound_first_value_and_step():
    assert trips(step(1), bound(12)) == 12
    assert trips(step(1), bound(12), first=4) == 8
    assert trips(step(1), bound(12, "LE")) == 13
    assert trips(step(-1), bound(0, "GT"), first=7) == 7
    assert trips(step(1), bound(12, "NE")) == 12
    assert trips(step(1), bound(0)) == 0


def test_loops_that_are_unrolled_by_two():
    assert trips(step(2), bound(8)) == 4
    assert trips(step(2), bound(9)) == 5
    twice = "%one = s32[] constant(1); %mid = s32[] add(%i, %one); %next = s32[] add(%mid, %one)"
    assert trips(twice, bound(8)) == 4


def test_bound_and_step_that_the_loop_carries():
    carried_bound = "ROOT %lt = pred[] compare(%i, %carried), direction=LT"
    assert trips(step(1), carried_bound, carried=6) == 6
    assert trips("%next = s32[] add(%i, %carried)", bound(12), carried=3) == 4
    flipped = "%n = s32[] constant(12); ROOT %gt = pred[] compare(%n, %i), direction=GT"
    assert trips(step(1), flipped) == 12


def test_count_that_xla_writes_is_taken():
    tail = ', backend_config={"known_init_step":{"init":"0"},"known_trip_count":{"n":"5"}}'
    unknown = 'ROOT %lt = pred[] custom-call(%i), custom_call_target="x"'
    assert trips(step(1), unknown, tail=tail) == 5


@pytest.mark.parametrize(
    ("body", "condition"),
    [
        (step(1), 'ROOT %lt = pred[] custom-call(%i), custom_call_target="x"'),
        ("%next = s32[] multiply(%i, %i)", bound(8)),
        ("%next = s32[] copy(%i)", bound(8)),
        (step(-1), bound(8)),
        (step(1), "ROOT %lt = pred[] compare(%carried, %carried), direction=LT"),
    ],
)
def test_unknown_trip_counts_say_so(body, condition):
    (found,) = read_collectives(looped(body, condition))
    assert (found.times, found.exact) == (1, False)


def test_compare_inside_a_fusion():
    inside = """
%compared (a: s32[], b: s32[]) -> pred[] {
  %a = s32[] parameter(0)
  %b = s32[] parameter(1)
  ROOT %lt = pred[] compare(%a, %b), direction=LT
}
"""
    fused = "%n = s32[] constant(12); ROOT %f = pred[] fusion(%i, %n), kind=kLoop, calls=%compared"
    text = looped(step(1), fused).replace("\n%body ", f"{inside}\n%body ", 1)
    (found,) = read_collectives(text)
    assert (found.times, found.exact) == (12, True)


def test_nested_loops_multiply_and_carry_their_bounds_inwards():
    outer = """
%outer_body (t: (s32[], f32[8,16], s32[])) -> (s32[], f32[8,16], s32[]) {
  %t = (s32[], f32[8,16], s32[]) parameter(0)
  %j = s32[] get-tuple-element(%t), index=0
  %y = f32[8,16] get-tuple-element(%t), index=1
  %limit = s32[] get-tuple-element(%t), index=2
  %nought = s32[] constant(0)
  %inner_start = (s32[], f32[8,16], s32[]) tuple(%nought, %y, %limit)
  %inner = (s32[], f32[8,16], s32[]) while(%inner_start), condition=%condition, body=%body
  %z = f32[8,16] get-tuple-element(%inner), index=1
  %still = s32[] get-tuple-element(%inner), index=2
  %one = s32[] constant(1)
  %after = s32[] add(%j, %one)
  ROOT %r = (s32[], f32[8,16], s32[]) tuple(%after, %z, %still)
}

%outer_condition (t: (s32[], f32[8,16], s32[])) -> pred[] {
  %t = (s32[], f32[8,16], s32[]) parameter(0)
  %j = s32[] get-tuple-element(%t), index=0
  %n = s32[] constant(3)
  ROOT %lt = pred[] compare(%j, %n), direction=LT
}
"""
    text = looped(step(1), "ROOT %lt = pred[] compare(%i, %carried), direction=LT", carried=5)
    text = text.replace("\nENTRY", f"{outer}\nENTRY")
    text = text.replace("while(%start), condition=%condition, body=%body",
                        "while(%start), condition=%outer_condition, body=%outer_body")  # fmt: skip
    (found,) = read_collectives(text)
    assert (found.times, found.exact) == (15, True)
