"""Slices by the names that Cloud TPU gives them, and what each name stands for.

The trap: the number in ``v5p-128``, ``v4-32`` and ``tpu7x-128`` counts TensorCores, two of which
make a chip; the number in ``v5e-256`` and ``v6e-256`` counts chips. And a v5p chip is one JAX
device, a tpu7x chip two.

Reads from: errors, tpu.slices.hardware. Used by: the planner.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from jaxdl.errors import ConfigError, closest
from jaxdl.tpu.slices.hardware import CHIPS, Chip

__all__ = ["SHAPES", "Topology", "parse_topology", "slice_names"]

Shape = tuple[int, ...]


def _shapes(text: str) -> tuple[Shape, ...]:
    return tuple(tuple(int(side) for side in each.split("x")) for each in text.split())


_FLAT = _shapes("1x1 2x2 2x4 4x4 4x8 8x8 8x16 16x16")
_SMALL_CUBES = _shapes("2x2x1 2x2x2 2x2x4 2x4x4")
_V4_CUBES = _shapes("4x4x4 4x4x8 4x4x12 4x8x8 8x8x8 8x8x12 8x8x16 8x16x16")
_CUBES = _shapes(
    "4x4x4 4x4x8 4x4x12 4x8x8 4x4x20 4x8x12 4x4x28 8x8x8 4x12x12 4x8x20 4x4x44 8x8x12 4x4x52 "
    "4x8x28 4x12x20 8x8x16 4x4x68 8x12x12 4x4x76 8x8x20 4x12x28 4x8x44 4x4x92 8x12x16 4x20x20 "
    "4x8x52 12x12x12 8x8x28 4x4x116 8x12x20 4x4x124 8x16x16 4x12x44 4x8x68 4x20x28 12x12x16 "
    "4x4x148 4x8x76 4x12x52 8x16x20 4x4x164 8x12x28 4x4x172 8x8x44 12x12x20 4x8x92 4x4x188 "
    "12x16x16 4x28x28 8x20x20 4x12x68 8x8x52 4x4x212 12x12x24 4x20x44 8x16x28 4x12x76 4x8x116 "
    "4x4x236 12x16x20 4x4x244 4x8x124 12x12x28 16x16x16 4x20x52 8x12x44 8x8x68 4x12x92 8x20x28 "
    "12x16x24 4x8x148 12x20x20 8x8x76 4x28x44 8x12x52 16x16x20 12x12x36 4x8x164 12x16x28 4x20x68 "
    "4x8x172 4x12x116 8x16x44 12x20x24 4x28x52 8x8x92 4x12x124 4x8x188 4x20x76 16x16x24"
)

# The shape for every number of chips: AI-Hypercomputer/maxtext@19142c2,
# src/maxtext/utils/accelerator_to_spec_map.py, read 2026-11, up to 6144 chips (the largest slice).
# libtpu 0.0.42.1 builds every one of them.
SHAPES: Mapping[str, tuple[Shape, ...]] = MappingProxyType(
    {
        "v4": _SMALL_CUBES + _V4_CUBES,
        "v5e": _FLAT,
        "v5p": _SMALL_CUBES + _CUBES,
        "v6e": _FLAT,
        "tpu7x": ((1, 1, 1), *_SMALL_CUBES, *_CUBES),
    }
)

_ALIASES = {
    "v5litepod": "v5e",
    "v5lite": "v5e",
    "trillium": "v6e",
    "ironwood": "tpu7x",
    "v7x": "tpu7x",
}
_SLICES = re.compile(r"(?:(\d+)\s*x\s+|(\d+)\s*x\s*(?=[a-z]))?(.+)")
_FORMS = "a name such as v5e-256, v5p-128 or 2x v6e-256, or a shape such as v5e:16x16"


@dataclass(frozen=True)
class Topology:
    """A slice, or several of one kind that are joined by the data-centre network.

    Attributes:
        name: Cloud TPU's name of one slice, such as ``"v5p-128"``.
        chip: the chip's entry in the hardware table.
        chips: chips of all slices.
        devices: JAX devices of all slices.
        shape: chips along each axis of one slice.
        num_slices: how many slices.
        wrap: along which axes the links close to a ring.
        topology_name: the compiler's name of one slice, such as ``"v5:4x4x4"``.
        options: the arguments of ``jax.experimental.topologies.get_topology_desc``.
    """

    name: str
    chip: Chip
    chips: int
    devices: int
    shape: Shape
    num_slices: int
    wrap: tuple[bool, ...]
    topology_name: str
    options: Mapping[str, Any]

    def __str__(self) -> str:
        """What the name stands for, with the trap spelled out."""
        many = f"{self.num_slices}x " if self.num_slices > 1 else ""
        sides = "x".join(map(str, self.shape))
        counted = f", named by {_number(self.name)} TensorCores" if _by_cores(self.chip) else ""
        size = f"{self.chips} chips ({sides} a slice{counted})"
        return f"{many}{self.name}: {size}, {self.devices} JAX devices"


def parse_topology(text: str) -> Topology:
    """What a name of one or more slices stands for.

    Args:
        text: a name of Cloud TPU (``v5e-256``, ``v5litepod-256``, ``v5p-128``, ``tpu7x-128``), a
            shape in chips (``v5e:16x16``), either with a number of slices (``2x v5e-256``).

    Raises:
        ConfigError: there is no such chip, or no slice of that size or shape.

    Examples:
        >>> print(parse_topology("v5p-128"))
        v5p-128: 64 chips (4x4x4 a slice, named by 128 TensorCores), 64 JAX devices
        >>> parse_topology("2x v5e-256").devices
        512
    """
    match = _SLICES.fullmatch(text.strip().lower())
    rest = match[3].strip() if match else ""
    slices = int(match[1] or match[2] or 1) if match else 1
    parts = re.fullmatch(r"([a-z0-9]+)\s*(?:-\s*(\d+)|[:=]\s*(\d+(?:x\d+)*))", rest)
    if parts is None or slices < 1:
        raise ConfigError(f"{text!r} names no TPU slice", expected=_FORMS, do=_suggestion(rest))
    kind = _kind(parts[1], text)
    shape = _by_size(kind, int(parts[2]), text) if parts[2] else _by_shape(kind, parts[3], text)
    return _topology(kind, shape, slices)


def slice_names(kind: str) -> tuple[str, ...]:
    """Every slice of a chip, smallest first, by Cloud TPU's names.

    Args:
        kind: the chip, such as ``"v5e"``.

    Examples:
        >>> slice_names("v5e")[-2:]
        ('v5e-128', 'v5e-256')
    """
    return tuple(_name(kind, shape) for shape in SHAPES[_kind(kind, kind)])


def _topology(kind: str, shape: Shape, slices: int) -> Topology:
    chip, chips, wrap = CHIPS[kind], math.prod(shape), _wrap(kind, shape)
    # The compiler knows v5p as v5, and divides a slice among hosts of 2x2 chips.
    topology_name = f"{'v5' if kind == 'v5p' else kind}:" + "x".join(map(str, shape))
    options = {
        "platform": "tpu",
        "topology_name": topology_name,
        "num_slices": slices,
        "chip_config_name": "megacore" if kind in ("v4", "v5p") else "default",
        "chips_per_host_bounds": (1, 1, 1) if chips == 1 else (2, 2, 1),
        "wrap": (*wrap, False)[:3],
    }
    return Topology(
        name=_name(kind, shape),
        chip=chip,
        chips=chips * slices,
        devices=chips * slices * chip.devices_per_chip,
        shape=shape,
        num_slices=slices,
        wrap=wrap,
        topology_name=topology_name,
        options=MappingProxyType(options),
    )


def _wrap(kind: str, shape: Shape) -> tuple[bool, ...]:
    """Rings: on axes of 16 in two dimensions, on all axes of whole 4x4x4 cubes in three."""
    if CHIPS[kind].torus_dims == 2:
        return tuple(side == 16 for side in shape)
    return (all(side % 4 == 0 for side in shape),) * 3


def _by_cores(chip: Chip) -> bool:
    return chip.name_counts == "TensorCores"


def _number(name: str) -> int:
    return int(name.rpartition("-")[2])


def _name(kind: str, shape: Shape) -> str:
    each = CHIPS[kind].cores_per_chip if _by_cores(CHIPS[kind]) else 1
    return f"{kind}-{math.prod(shape) * each}"


def _kind(word: str, text: str) -> str:
    kind = _ALIASES.get(word, word)
    if kind not in CHIPS:
        raise ConfigError(
            f"{text!r}: there is no TPU {word!r}", expected=_FORMS, do=_suggestion(word)
        )
    return kind


def _suggestion(text: str) -> str:
    known = re.match(r"[a-z0-9]+", text)
    word = _ALIASES.get(known[0], known[0]) if known else ""
    if word in CHIPS:
        return f"name the slice, such as {slice_names(word)[-1]}"
    return closest(word, [*CHIPS, *_ALIASES])


def _by_size(kind: str, size: int, text: str) -> Shape:
    found = {_number(_name(kind, shape)): shape for shape in SHAPES[kind]}
    if size in found:
        return found[size]
    near = sorted(sorted(found, key=lambda n: abs(math.log(n / max(size, 1))))[:3])
    do = "use one of those"
    if _by_cores(CHIPS[kind]):
        do = f"{kind}-N counts TensorCores, two to a chip (v5p-128 is 64 chips)"
        double = f"{kind}-{2 * size}"
        do += f": for {size} chips write {double}" if 2 * size in found else ""
    elif size % 2 == 0 and size // 2 in found:
        do = f"{kind}-N counts chips, not TensorCores"
    nearest = ", ".join(f"{kind}-{n} ({'x'.join(map(str, found[n]))})" for n in near)
    raise ConfigError(f"{text!r}: there is no such slice", expected=f"such as {nearest}", do=do)


def _by_shape(kind: str, sides: str, text: str) -> Shape:
    shape = tuple(int(side) for side in sides.split("x"))
    if shape in SHAPES[kind]:
        return shape
    chips = math.prod(shape)
    near = sorted(SHAPES[kind], key=lambda s: abs(math.log(math.prod(s) / max(chips, 1))))[:3]
    named = [f"{kind}:{'x'.join(map(str, s))} ({_name(kind, s)})" for s in near]
    raise ConfigError(
        f"{text!r}: there is no slice of {sides} chips",
        expected="such as " + ", ".join(named),
        do=f"give {CHIPS[kind].torus_dims} sides, the smallest first, of a slice that exists",
    )
