"""Plans as people read them, as JSON and as a picture."""

from __future__ import annotations

import dataclasses
import json
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from any_plans import GIB, collective, planned

from jaxdl.errors import ConfigError, MissingExtraError, PlanError
from jaxdl.tpu.showing import picture
from jaxdl.tpu.showing.rendering import Point, as_json, from_json, frontier, table
from jaxdl.units import bar, count, flops, seconds, size

TRAFFIC = (
    collective("all-gather", GIB, range(16), times=48),
    collective("all-reduce", GIB // 8, range(16)),
)
REFUSAL = "Ran out of memory on HBM: 27.44G exceeds available HBM (15.75G)."


def plans():
    yield planned(collectives=TRAFFIC, cycles=1.5e9, hbm_bytes=GIB, notes=("a note",))
    yield planned(refusal=REFUSAL)
    yield planned(topology="v5p-128", mesh={"fsdp": 64})
    mesh = {"data": 2, "fsdp": 256}
    between = collective("all-reduce", GIB, (0, 256), network="dcn")
    yield planned(topology="2x v5e-256", mesh=mesh, collectives=(between, *TRAFFIC))
    yield planned(topology="v5e-1", mesh={"data": 1}, flops=0, hbm_bytes=None)


def test_a_plan_that_fits_tells_all_there_is():
    text = table(planned(collectives=TRAFFIC, flops=10**15, notes=("a note",)))
    for words in (
        "v5e-16: 16 chips (4x4 a slice), 16 JAX devices",
        "124.44 M parameters",
        "fits: 11.00 GiB of 15.75 GiB",
        "all-gather",
        "48.00 GiB",
        "binds",
        "in full",
        "causal",
        "recomputed (remat)",
        "90% of the 100 GB/s",
        "a note",
        "libtpu 0.0.42.1",
        "Predicted by a model; no TPU was used.",
    ):
        assert words in text, words


def test_causal_attention_is_told_of_where_there_is_some():
    plan = planned(collectives=TRAFFIC, flops=10**15, attention_flops=0)
    text = table(plan)
    assert "causal" not in text
    assert "in full" not in text
    low, high = (f"{100 * share:.1f}" for share in plan.times.mfu)
    assert f"{low} .. {high} %" in text
    rows = [
        line.split()[0] for line in text.split("FLOPs of one step")[1].splitlines()[4:8] if line
    ]
    assert rows == ["executed", "recomputed", "model"]


def test_a_plan_that_does_not_fit_tells_what_is_large_and_what_helps():
    text = table(planned(refusal=REFUSAL), ["remat='full' (compiled)", "microbatches 4"])
    assert "does not fit: needs 27.44 GiB, has 15.75 GiB (compiler's figure)" in text
    assert "params/block_14/kernel" in text
    assert "4 more" in text
    assert "1.  remat='full' (compiled)" in text
    assert "2.  microbatches 4" in text
    assert "MFU" not in text


def test_the_trap_of_names_is_spelled_out():
    text = table(planned(topology="v5p-128", mesh={"fsdp": 64}))
    assert "64 chips (4x4x4 a slice, named by 128 TensorCores), 64 JAX devices" in text
    assert "counts TensorCores" in text
    assert "counts TensorCores" not in table(planned())


@pytest.mark.parametrize("plan", list(plans()), ids=range(5))
def test_lines_are_short_and_text_is_plain(plan):
    for text in (table(plan, ["a change"]), frontier([Point("fsdp 16", 64, None, plan)])):
        assert max(map(len, text.splitlines())) <= 100
        assert "\x1b" not in text


@pytest.mark.parametrize("plan", list(plans()), ids=range(5))
def test_json_gives_the_same_plan_back(plan):
    again = from_json(json.loads(json.dumps(as_json(plan))))
    assert again == plan
    assert as_json(again) == as_json(plan)
    assert type(again.facts.collectives) is tuple


def test_json_keeps_a_shape_that_the_name_does_not_tell():
    plan = planned(topology="v5p:4x4x12", mesh={"fsdp": 192})
    assert from_json(as_json(plan)).facts.topology.shape == (4, 4, 12)


@pytest.mark.parametrize(
    "damage",
    [
        {"version": 99},
        {"format": "something"},
        {"facts": {}},
        {"groups": [], "facts": as_json(planned(collectives=TRAFFIC))["facts"]},
        {"times": {"compute": 1.0}},
    ],
)
def test_json_of_something_else_is_refused(damage):
    with pytest.raises(PlanError, match="make the plan again"):
        from_json({**as_json(planned()), **damage})


def test_the_frontier_is_what_no_other_point_beats():
    def point(name, peak, flops):
        plan = planned(flops=flops)
        memory = dataclasses.replace(plan.facts.memory, peak=peak * GIB)
        return Point(
            name,
            64,
            None,
            dataclasses.replace(plan, facts=dataclasses.replace(plan.facts, memory=memory)),
            1024,
        )

    text = frontier(
        [
            point("small", 2, 10**15),
            point("quick", 8, 10**14),
            point("beaten", 9, 10**15),
            Point("refused", 64, None, planned(refusal=REFUSAL)),
            Point("wrong", 65, "full", None, why="65 rows do not divide"),
        ]
    )
    marked = [line.split()[1] for line in text.splitlines() if line.strip().startswith("* ")]
    assert marked[:2] == ["quick", "small"]
    assert "does not fit" in text
    assert "65 rows" in text
    assert "tokens/s" in text


def test_an_empty_sweep_says_so():
    assert frontier([]) == "The sweep is empty.\n"


def test_units():
    assert [size(1023), size(2**30), size(0)] == ["1,023 bytes", "1.00 GiB", "0 bytes"]
    assert [seconds(2), seconds(2e-5), seconds(3e-9)] == ["2.00 s", "20.00 us", "3 ns"]
    assert [count(999), flops(10**15)] == ["999", "1.00 PFLOP"]
    assert bar(2.0, 3) == "███>"


@pytest.mark.parametrize("plan", list(plans()), ids=range(5))
def test_a_picture_tells_in_words_what_it_shows(plan, tmp_path):
    pytest.importorskip("matplotlib")
    picture.draw(plan, tmp_path / "plan.svg")
    root = ElementTree.parse(tmp_path / "plan.svg").getroot()
    title = root.find("{http://www.w3.org/2000/svg}title")
    assert ("does not fit" in title.text) == (not plan.fits)
    assert plan.facts.topology.name in title.text
    first = (tmp_path / "plan.svg").read_bytes()
    picture.draw(plan, tmp_path / "plan.svg")
    assert (tmp_path / "plan.svg").read_bytes() == first


def test_a_picture_can_be_png(tmp_path):
    pytest.importorskip("matplotlib")
    picture.draw(planned(collectives=TRAFFIC), tmp_path / "plan.png")
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")


def test_other_pictures_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"\.svg or \.png"):
        picture.draw(planned(), tmp_path / "plan.jpg")


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"jaxdl\[report\]"):
        picture.draw(planned(), tmp_path / "plan.svg")


@pytest.mark.parametrize("name", ["gpt2-124m-on-v5e-256", "gpt2-1.5b-data-on-v5e-16"])
def test_the_guide_shows_plans_that_are_kept(name):
    docs = Path(__file__).parents[2] / "docs"
    command, printed = (docs / "plans" / f"{name}.txt").read_text().split("\n", 1)
    guide = (docs / "planner.md").read_text()
    assert command.removeprefix("$ ") in guide
    assert printed.rstrip() in guide
