"""The tables of tpu/data agree with jaxdl and with themselves."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from jaxdl.tpu import CHIPS, parse_topology, slice_names

DATA = Path(__file__).resolve().parents[2] / "tpu" / "data"


def rows(name: str) -> list[dict[str, str]]:
    lines = [x for x in (DATA / name).read_text().splitlines() if not x.startswith("#")]
    head = lines[0].split("\t")
    return [dict(zip(head, line.split("\t"), strict=True)) for line in lines[1:]]


def test_every_slice_is_there_with_its_shape():
    found = rows("slices.tsv")
    assert sorted(r["slice"] for r in found) == sorted(n for k in CHIPS for n in slice_names(k))
    for row in found:
        topology = parse_topology(row["slice"])
        shape = tuple(int(side) for side in row["topology"].split("x"))
        assert (int(row["chips"]), shape) == (topology.chips, topology.shape), row
        assert math.prod(shape) == int(row["hosts"]) * int(row["per_host"]), row
        assert row["machine"].endswith(f"-{row['per_host']}t"), row
        if row["accelerator"] != "-":
            assert parse_topology(row["accelerator"]).name == row["slice"]
        else:
            assert row["slice"].startswith("tpu7x")


@pytest.mark.parametrize(
    ("name", "hosts", "per_host"),
    [
        ("v5e-1", 1, 1),
        ("v5e-8", 1, 8),
        ("v5e-16", 4, 4),
        ("v5e-256", 64, 4),
        ("v6e-8", 1, 8),
        ("v6e-256", 64, 4),
        ("v5p-8", 1, 4),
        ("v5p-128", 16, 4),
        ("v4-32", 4, 4),
        ("tpu7x-128", 16, 4),
    ],
)
def test_hosts_are_what_cloud_tpu_says(name, hosts, per_host):
    row = next(r for r in rows("slices.tsv") if r["slice"] == name)
    assert (int(row["hosts"]), int(row["per_host"])) == (hosts, per_host)


def test_prices_name_known_chips_and_where_they_are_from():
    found = rows("prices.tsv")
    assert len({(r["chip"], r["region"]) for r in found}) == len(found)
    for row in found:
        assert row["chip"] in CHIPS
        assert re.fullmatch(r"[a-z]+-[a-z]+\d+", row["region"])
        demand, spot = row["on_demand"], row["spot"]
        assert 0 < float(demand) < 100
        assert spot == "-" or 0 < float(spot) < float(demand)
    head = (DATA / "prices.tsv").read_text().split("chip\t")[0]
    assert "github.com/" in head
    assert re.search(r"read \d{4}-\d\d-\d\d", head)


def test_every_chip_of_the_api_has_an_image():
    with_vms = {r["slice"].split("-")[0] for r in rows("slices.tsv") if r["accelerator"] != "-"}
    assert {r["chip"] for r in rows("runtimes.tsv")} == with_vms
