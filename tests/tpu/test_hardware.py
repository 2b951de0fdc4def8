"""The hardware table: its numbers against each other, in the units they claim to be in."""

from __future__ import annotations

import dataclasses
import re

import pytest

from jaxdl.errors import ConfigError
from jaxdl.tpu import CHIPS, DERATES, Figure, chip

GIB = 2**30
EACH = pytest.mark.parametrize("name", CHIPS)


def figures(thing):
    values = [getattr(thing, f.name) for f in dataclasses.fields(thing)]
    return [v for v in values if isinstance(v, Figure)]


@EACH
def test_every_number_has_a_source_and_a_date(name):
    found = figures(CHIPS[name])
    assert len(found) >= 11
    for each in found:
        assert each.value > 0
        assert len(each.source) > 10
        assert re.fullmatch(r"20\d\d-\d\d", each.date)


def test_what_no_page_prints_is_marked():
    assert CHIPS["v4"].link_bandwidth.unverified
    assert CHIPS["v5e"].clock.unverified
    assert CHIPS["tpu7x"].clock is None
    assert not CHIPS["v5e"].peak_flops.unverified


@EACH
def test_axis_is_both_directions_of_a_link(name):
    each = CHIPS[name]
    assert each.axis_bandwidth.value == 2 * each.link_bandwidth.value
    assert each.ici_links.value == 2 * each.torus_dims


@EACH
def test_bidirectional_figure_of_the_page_is_links_times_two_ways(name):
    each = CHIPS[name]
    if each.bidirectional_bandwidth is not None:
        both = 2 * each.ici_links.value * each.link_bandwidth.value
        assert each.bidirectional_bandwidth.value == both


@pytest.mark.parametrize(("name", "links", "within"), [
    ("v5e", 2 * 16, 1e-9),  # a ring is cut twice, on each of 16 rows
    ("v6e", 2 * 16, 1e-9),
    ("v4", 2 * 16 * 16, 0.07),  # 16 x 16 x 16: the page's 24 TB/s is 47 GB/s a link
])  # fmt: skip
def test_bisection_is_two_sides_of_links(name, links, within):
    each = CHIPS[name]
    assert links * each.link_bandwidth.value == pytest.approx(
        each.bisection_bandwidth.value, rel=within
    )


def test_all_reduce_of_a_pod_is_the_egress_of_its_chips():
    for name, terabytes in (("v5e", 51.2), ("v6e", 102.4)):
        each = CHIPS[name]
        egress = each.ici_links.value * each.link_bandwidth.value
        assert each.pod_chips.value * egress == pytest.approx(terabytes * 1e12)


@pytest.mark.parametrize(
    ("name", "hbm", "one_axis"),
    [("v4", 229, 3056), ("v5e", 241, 2189), ("v5p", 166, 2550), ("v6e", 560, 5100),
     ("tpu7x", 313, 12817)],
)  # fmt: skip
def test_ridge_points(name, hbm, one_axis):
    """FLOPs for each byte at which memory and one ICI axis stop being the limit."""
    each = CHIPS[name]
    assert each.peak_flops.value / each.hbm_bandwidth.value == pytest.approx(hbm, abs=1)
    axis = DERATES.ici[0].value * each.axis_bandwidth.value
    assert each.peak_flops.value / axis == pytest.approx(one_axis, abs=1)


@EACH
def test_memory_of_the_compiler_is_that_of_the_page(name):
    each = CHIPS[name]
    usable = each.usable_hbm_bytes.value * each.devices_per_chip
    assert usable / each.hbm_bytes.value == pytest.approx(1, abs=0.04)
    assert each.hbm_bytes.value % GIB == 0


def test_devices_of_a_chip_share_it():
    seven = chip("tpu7x")
    assert seven.device_peak_flops == 1153.5e12
    assert seven.device_hbm_bandwidth == 3690e9
    assert chip("v5p").devices_per_chip == 1
    assert chip("v5p").cores_per_chip == 2


@EACH
def test_units_are_not_mixed(name):
    each = CHIPS[name]
    assert 1e14 < each.peak_flops.value <= each.low_precision_flops.value < 1e16
    assert 5e11 < each.hbm_bandwidth.value < 1e13
    assert 1e10 < each.link_bandwidth.value < each.hbm_bandwidth.value / 10
    # The data-centre network is slower than one link, and given in bits on every page.
    assert 1e9 < each.dcn_bandwidth.value < each.link_bandwidth.value


def test_derates_are_shares():
    for low, high in (DERATES.matmul, DERATES.hbm, DERATES.ici):
        assert 0.5 < low.value <= high.value < 1
        assert low.source
    assert [f.value for f in DERATES.matmul] == [0.80, 0.83]
    assert [f.value for f in DERATES.hbm] == [0.87, 0.90]


def test_wrong_chip():
    with pytest.raises(ConfigError, match=r"no TPU 'v5ee'.*\n.*v4, v5e.*\n.*did you mean 'v5e'"):
        chip("v5ee")
