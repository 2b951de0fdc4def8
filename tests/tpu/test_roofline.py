"""Times by hand: every expected value is written out from the chips' table."""

from __future__ import annotations

import numpy as np
import pytest
from any_plans import collective, facts, groups

from jaxdl.tpu.plans.roofline import DERATED, NOMINAL, Work, predict, sent
from jaxdl.tpu.programs.rings import Torus
from jaxdl.tpu.slices.names import parse_topology

GIB = 2**30


def only(topology, mesh, *collectives, rates=DERATED):
    return predict(facts(topology, mesh, collectives), rates)


def test_an_all_reduce_over_a_small_slice_has_no_rings():
    # v5e-16 is 4x4 without wrap: 2 axes of half of 100 GB/s, at 90 %.
    times = only("v5e-16", {"data": 16}, collective(size=GIB, group=range(16)))
    assert times.ici == {"data": pytest.approx(2 * GIB * 15 / 16 / (100e9 * 0.9), rel=1e-6)}
    assert times.bound == "ici"
    assert times.dcn == 0


def test_an_all_reduce_over_a_pod_has_rings():
    # v5e-256 is 16x16 with wrap: 2 axes of 100 GB/s.
    times = only("v5e-256", {"data": 256}, collective(size=GIB, group=range(256)))
    assert sum(times.ici.values()) == pytest.approx(2 * GIB * 255 / 256 / 180e9, rel=1e-6)


@pytest.mark.parametrize("kind", ["all-gather", "reduce-scatter"])
def test_a_gather_sends_half_of_what_a_reduction_does(kind):
    mesh = {"data": 16, "fsdp": 16}
    group = groups(mesh, "fsdp")
    times = only("v5e-256", mesh, collective(kind, GIB, group, times=3))
    # One axis of 16 with wrap.
    assert times.ici == {"fsdp": pytest.approx(3 * GIB * 15 / 16 / 90e9, rel=1e-6)}


def test_times_over_several_axes_of_the_mesh_are_told_apart():
    mesh = {"data": 16, "fsdp": 16}
    gather = collective("all-gather", GIB, groups(mesh, "fsdp"))
    reduce = collective("all-reduce", GIB, groups(mesh, "data"))
    both = only("v5e-256", mesh, gather, reduce)
    assert both.ici["data"] == pytest.approx(2 * both.ici["fsdp"])
    rows = sent(facts("v5e-256", mesh, (gather, reduce)))
    assert [(row.kind, row.axes, row.times) for row in rows] == [
        ("all-reduce", "data", 1),
        ("all-gather", "fsdp", 1),
    ]


def test_three_axes_of_a_cube_add_up():
    times = only("v5p-128", {"fsdp": 64}, collective("all-gather", GIB, range(64)), rates=NOMINAL)
    assert times.ici["fsdp"] == pytest.approx(GIB * 63 / 64 / 600e9)


def test_part_of_an_axis_is_no_ring_and_what_lies_between_shares_the_links():
    torus = Torus.of(parse_topology("v5e-256"), {"fsdp": 64, "tensor": 4})
    assert torus.links(range(4)).bandwidth == 50e9
    # Along x every 4th chip, in a ring that 4 groups share; along y all 16.
    assert torus.links(range(0, 256, 4)).bandwidth == 100e9 / 4 + 100e9


def test_a_permute_uses_one_direction_and_its_opposite_is_free():
    mesh = {"data": 16, "fsdp": 16}
    group = groups(mesh, "fsdp")
    ahead = collective("collective-permute", GIB, group)
    back = collective("collective-permute", GIB, group[::-1])
    once = only("v5e-256", mesh, ahead, rates=NOMINAL).ici["fsdp"]
    assert once == pytest.approx(GIB / 50e9)
    assert only("v5e-256", mesh, ahead, back, rates=NOMINAL).ici["fsdp"] == pytest.approx(once)
    assert only("v5e-256", mesh, ahead, ahead, rates=NOMINAL).ici["fsdp"] == pytest.approx(2 * once)


def test_all_to_all_is_bound_by_the_middle_of_the_ring():
    mesh = {"data": 16, "fsdp": 16}
    each = collective("all-to-all", GIB, groups(mesh, "fsdp"))
    # On average 4 hops of 16, over 2 links of 50 GB/s.
    assert only("v5e-256", mesh, each, rates=NOMINAL).ici["fsdp"] == pytest.approx(4 * GIB / 100e9)


def test_small_collectives_take_a_microsecond_a_hop():
    mesh = {"data": 16, "fsdp": 16}
    tiny = collective("all-reduce", 16, groups(mesh, "fsdp"), times=10)
    # 8 hops around half a ring, there and back.
    assert only("v5e-256", mesh, tiny).ici["fsdp"] == pytest.approx(10 * 2 * 8e-6)
    assert only("v5e-256", mesh, tiny, rates=NOMINAL).ici["fsdp"] < 1e-7


def test_between_slices_a_chip_has_its_share_of_the_network():
    mesh = {"data": 2, "fsdp": 256}
    each = collective("all-reduce", GIB, (0, 256), network="dcn")
    times = only("2x v5e-256", mesh, each)
    assert times.dcn == pytest.approx(GIB / 3.125e9)
    assert times.ici == {}
    assert times.bound == "dcn"
    assert "dcn" in times.derates


def test_a_group_over_slices_sends_a_part_between_them():
    times = only("2x v5e-256", {"fsdp": 512}, collective("all-gather", GIB, range(512)))
    # Each chip fetches its own part of the other slice's half: a 512th of the whole.
    assert times.dcn == pytest.approx(GIB / 512 / 3.125e9, rel=1e-3)
    assert sum(times.ici.values()) == pytest.approx(GIB * 255 / 256 / 180e9, rel=1e-3)


def test_the_two_devices_of_a_chip_share_its_links():
    mesh = {"data": 64, "tensor": 2}
    torus = Torus.of(parse_topology("tpu7x-128"), mesh)
    assert torus.links(groups(mesh, "data")).bandwidth == 300e9
    assert torus.links(range(128)).bandwidth == 600e9
    assert torus.links((0, 1)).axes == "within a chip"


def test_a_device_of_two_on_a_chip_has_half_of_it():
    times = predict(facts("tpu7x-8", flops=8 * 10**15, hbm_bytes=10**12), NOMINAL)
    assert times.compute == pytest.approx(1e15 / (2307e12 / 2))
    assert times.hbm == pytest.approx(1e12 / (7380e9 / 2))
    assert "no clock" not in times.derates["compute"]


def test_recomputation_takes_time_and_does_not_count():
    times = predict(facts("v5e-16", flops=16 * 10**15))
    assert times.compute == pytest.approx(1e15 / (197e12 * 0.80))
    # Three quarters of what is executed, at 80 %.
    assert times.mfu == pytest.approx((0.6, 0.6))
    # A tenth is attention, of which half does not count.
    assert times.mfu_causal[1] == pytest.approx(0.80 * (0.75 - 0.05))
    assert "197 TFLOP/s" in times.derates["mfu"]


def test_the_compilers_cycles_count_when_they_are_more():
    few = predict(facts("v5e-16", flops=16 * 10**15, cycles=1.5e9))
    many = predict(facts("v5e-16", flops=16 * 10**15, cycles=15e9))
    assert few.compute == pytest.approx(1e15 / (197e12 * 0.80))
    assert many.compute == pytest.approx(10.0)
    assert many.derates["compute"].startswith("the compiler's 15,000,000,000 cycles")


def test_a_step_takes_from_the_longest_part_to_the_sum():
    each = collective(size=GIB, group=range(16))
    times = predict(facts("v5e-16", None, [each], flops=16 * 10**12, hbm_bytes=10**10))
    parts = [times.compute, times.hbm, sum(times.ici.values()), times.dcn]
    assert times.fastest == max(parts)
    assert times.slowest == pytest.approx(sum(parts))
    assert times.mfu[0] < times.mfu[1]


def test_nothing_takes_no_time():
    times = predict(facts("v5e-1", {"data": 1}, flops=0, hbm_bytes=None))
    assert (times.fastest, times.slowest) == (0, 0)
    assert times.mfu == times.mfu_causal == (0, 0)
    assert times.ici == {}


def test_a_group_of_one_sends_nothing():
    assert only("v5e-1", {"data": 1}, collective(group=(0,))).ici == {}


def test_a_mesh_of_a_part_of_the_slice_counts_its_devices():
    work = Work(parse_topology("v5e-16"), {"data": 8}, 8e15, 8e15, 0, None, None, ())
    assert predict(work, NOMINAL).mfu == (1.0, 1.0)
    assert np.isclose(predict(work, NOMINAL).compute, 1e15 / 197e12)
