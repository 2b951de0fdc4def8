"""Names of slices: what they stand for, and what is said to those that stand for nothing."""

from __future__ import annotations

import math

import pytest

from jaxdl.errors import ConfigError
from jaxdl.tpu import CHIPS, SHAPES, parse_topology, slice_names


@pytest.mark.parametrize(
    ("text", "chips", "devices", "shape", "name"),
    [
        ("v5e-256", 256, 256, (16, 16), "v5e-256"),
        ("v5litepod-256", 256, 256, (16, 16), "v5e-256"),
        ("v5litepod-16", 16, 16, (4, 4), "v5e-16"),
        ("v4-32", 16, 16, (2, 2, 4), "v4-32"),
        ("v4-384", 192, 192, (4, 4, 12), "v4-384"),
        ("v5p-128", 64, 64, (4, 4, 4), "v5p-128"),
        ("v5p-2048", 1024, 1024, (8, 8, 16), "v5p-2048"),
        ("v6e-256", 256, 256, (16, 16), "v6e-256"),
        ("tpu7x-128", 64, 128, (4, 4, 4), "tpu7x-128"),
        ("tpu7x-8", 4, 8, (2, 2, 1), "tpu7x-8"),
        ("v5e:16x16", 256, 256, (16, 16), "v5e-256"),
        ("v5p:4x4x4", 64, 64, (4, 4, 4), "v5p-128"),
        (" V5E-8 ", 8, 8, (2, 4), "v5e-8"),
        ("trillium-8", 8, 8, (2, 4), "v6e-8"),
    ],
)
def test_names_and_shapes(text, chips, devices, shape, name):
    found = parse_topology(text)
    assert (found.chips, found.devices, found.shape) == (chips, devices, shape)
    assert found.name == name
    assert found.num_slices == 1


@pytest.mark.parametrize("text", ["2x v5e-256", "2xv5e-256", "2 x v5litepod-256", "2x v5e:16x16"])
def test_several_slices(text):
    found = parse_topology(text)
    assert (found.num_slices, found.chips, found.devices) == (2, 512, 512)
    assert found.shape == (16, 16)
    assert found.options["num_slices"] == 2
    assert str(found) == "2x v5e-256: 512 chips (16x16 a slice), 512 JAX devices"


@pytest.mark.parametrize(
    ("text", "wrap"),
    [
        ("v5e-64", (False, False)),
        ("v5e-128", (False, True)),
        ("v6e-256", (True, True)),
        ("v4-64", (False, False, False)),
        ("v5p-128", (True, True, True)),
        ("tpu7x-384", (True, True, True)),
    ],
)
def test_rings(text, wrap):
    found = parse_topology(text)
    assert found.wrap == wrap
    assert found.options["wrap"] == (*wrap, False)[:3]


def test_options_of_the_compiler():
    assert dict(parse_topology("v5p-128").options) == {
        "platform": "tpu",
        "topology_name": "v5:4x4x4",
        "num_slices": 1,
        "chip_config_name": "megacore",
        "chips_per_host_bounds": (2, 2, 1),
        "wrap": (True, True, True),
    }
    assert parse_topology("v4-8").options["chip_config_name"] == "megacore"
    assert parse_topology("v6e-1").options["chips_per_host_bounds"] == (1, 1, 1)


@pytest.mark.parametrize("kind", SHAPES)
def test_every_name_leads_back_to_its_shape(kind):
    names = slice_names(kind)
    assert len(set(names)) == len(names) == len(SHAPES[kind])
    sizes = [parse_topology(name).chips for name in names]
    assert sizes == sorted(sizes)
    assert sizes[-1] <= CHIPS[kind].pod_chips.value
    for name, shape in zip(names, SHAPES[kind], strict=True):
        found = parse_topology(name)
        assert found.shape == shape
        assert found.chips == math.prod(shape)
        assert parse_topology(found.name) == found
        assert parse_topology(f"{kind}:{'x'.join(map(str, shape))}") == found


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_topology(text)
    message = str(caught.value)
    assert repr(text) in message
    return message


def test_wrong_sizes_are_refused_with_the_nearest():
    message = refused("v5e-48")
    assert "v5e-32 (4x8), v5e-64 (8x8)" in message
    assert "v5e-512" not in refused("v5e-512")[20:]
    assert "counts chips, not TensorCores" in refused("v6e-512")


def test_chip_and_core_trap_is_explained():
    message = refused("v5p-4")
    assert "counts TensorCores, two to a chip (v5p-128 is 64 chips)" in message
    assert "for 4 chips write v5p-8" in message
    assert "v5p-8 (2x2x1)" in message
    assert "for 192 chips write" not in refused("v5p-191")
    assert "named by 128 TensorCores" in str(parse_topology("v5p-128"))
    assert "64 chips" in str(parse_topology("tpu7x-128"))


def test_wrong_shapes_are_refused():
    assert "v5e:2x4 (v5e-8), v5e:4x4 (v5e-16)" in refused("v5e:3x3")
    assert "v5p:" in refused("v5p:2x2")
    assert "smallest first" in refused("v5p:8x4x4")
    assert "no slice of 32x32 chips" in refused("v5e:32x32")
    assert "no slice of 0x4 chips" in refused("v5e:0x4")


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("v5ee-8", "did you mean 'v5e'?"),
        ("v5lightpod-8", "did you mean 'v5litepod'?"),
        ("v5e", "name the slice, such as v5e-256"),
        ("v5p", "name the slice, such as v5p-12288"),
        ("h100-8", "there are: v4"),
        ("", "there are: v4"),
        ("0x v5e-8", "v5e"),
        ("v5e-8-8", "v5e"),
    ],
)
def test_wrong_names(text, advice):
    assert advice in refused(text)


def test_table_cannot_be_changed():
    with pytest.raises(TypeError):
        SHAPES["v5e"] = ()
    with pytest.raises(TypeError):
        parse_topology("v5e-8").options["wrap"] = ()
