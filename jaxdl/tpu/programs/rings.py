"""How fast a group of devices passes data on: where it lies in the torus, and over which links.

Reads from: errors, layouts.arranging, tpu.slices.hardware, tpu.programs.hlo, tpu.slices.names.
Used by: tpu.plans.roofline.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from jaxdl.errors import LayoutError
from jaxdl.layouts.arranging import arrange
from jaxdl.tpu.programs.hlo import Collective
from jaxdl.tpu.slices.hardware import CHIPS
from jaxdl.tpu.slices.names import Topology

__all__ = ["DIE_LINKS", "HOP_SECONDS", "Links", "Torus"]

HOP_SECONDS = 1e-6
"""What one hop takes at least: jax-ml/scaling-book@0819a7d sharding.md, about a microsecond."""

DIE_LINKS = 6
"""Between the two dies of a tpu7x chip: 6 times a link of the torus.
AI-Hypercomputer/maxtext@e591f30 docs/guides/optimization/custom_model.md."""

# As ``mesh_utils`` knows them; it arranges some small slices by hand.
_KINDS = {
    "v4": "TPU v4",
    "v5e": "TPU v5 lite",
    "v5p": "TPU v5",
    "v6e": "TPU v6 lite",
    "tpu7x": "TPU7x",
}

Place = tuple[int, ...]


class Links(NamedTuple):
    """What a group of devices has to pass data on.

    Attributes:
        bandwidth: bytes/s that one device of it sends in a ring along all the axes it spans.
        slowest: bytes/s along the slowest of these axes.
        longest: devices of the group along the longest of them.
        hops: from one device to all others, at the least.
        axes: the torus axes that it spans, in words.
    """

    bandwidth: float
    slowest: float
    longest: int
    hops: int
    axes: str


@dataclass(frozen=True)
class Torus:
    """The chips of a mesh in their slices.

    Attributes:
        topology: the slice.
        mesh: ``(name, size)`` of each axis, outermost first.
    """

    topology: Topology
    mesh: tuple[tuple[str, int], ...]

    @classmethod
    def of(cls, topology: Topology, mesh: Mapping[str, int]) -> Torus:
        """The torus of a mesh that ``jaxdl.layouts`` arranged.

        Args:
            topology: the slice.
            mesh: size of each axis, outermost first.
        """
        return cls(topology, tuple(mesh.items()))

    def places(self, group: Sequence[int]) -> list[Place]:
        """Slice, coordinates and core of devices, by their numbers along the mesh.

        Args:
            group: as in ``Collective.group``.
        """
        slices = self.topology.num_slices
        known = _places(self.topology.chip.name, self.topology.shape, slices, self.mesh)
        return [known[number] for number in group if number < len(known)]

    def links(self, group: Sequence[int]) -> Links:
        """The links of devices that pass data on in rings along the torus.

        Along an axis that closes to a ring and that the group spans whole, a device sends
        ``axis_bandwidth``; along a part of an axis, or without wrap, half of that. Groups that lie
        between each other on one axis share its links, and so do the two devices of a chip when
        they belong to different groups. Several axes add up.

        Args:
            group: as in ``Collective.group``.
        """
        places = self.places(group)
        chips = {place[1:-1] for place in places}
        sharing = self.topology.chip.devices_per_chip * len(chips) / max(1, len(places))
        full = self.topology.chip.axis_bandwidth.value / max(1.0, sharing)
        if len(chips) < 2:
            die = DIE_LINKS * self.topology.chip.link_bandwidth.value
            return Links(die, die, len(places), min(1, len(places) - 1), "within a chip")
        found: list[tuple[float, int, int, str]] = []
        for axis, side in enumerate(self.topology.shape):
            along = sorted({chip[axis] for chip in chips})
            if len(along) > 1:
                found.append(_along(axis, along, side, full, wrap=self.topology.wrap[axis]))
        rates = [rate for rate, *_ in found]
        sides = [count for _, count, _, _ in found]
        # Chips that are no box: what lies between them may help, but one axis alone is sure.
        together = sum(rates) if math.prod(sides) == len(chips) else min(rates)
        hops, words = sum(each[2] for each in found), " x ".join(each[3] for each in found)
        return Links(together, min(rates), max(sides), hops, words)

    def busiest(self, collectives: Sequence[Collective]) -> float:
        """Bytes over the busiest link, one way, when each device sends to one other.

        Every transfer takes the shortest way, one axis after the other. Transfers in opposite
        directions take different links, so they add nothing to each other.

        Args:
            collectives: ``collective-permute`` or ``send``.
        """
        sums: Counter[tuple[str, tuple[int, ...]]] = Counter()
        for each in collectives:
            sums[each.kind, each.group] += each.bytes * each.times
        load: Counter[tuple[Place, int, int]] = Counter()
        for (kind, group), size in sums.items():
            for link, times in self._links_used(kind, group).items():
                load[link] += size * times
        return float(max(load.values(), default=0))

    def _links_used(self, kind: str, group: tuple[int, ...]) -> Counter[tuple[Place, int, int]]:
        """How often each link is used when every group like this one sends once."""
        used: Counter[tuple[Place, int, int]] = Counter()
        for shift in self._shifts(group):
            places = self.places([number + shift for number in group])
            ring = places if kind == "send" else [*places, *places[:1]]
            for start, end in itertools.pairwise(ring):
                used.update(self._way(start[:-1], end[:-1]))
        return used

    def _shifts(self, group: tuple[int, ...]) -> list[int]:
        """By how much the other groups over the same mesh axes differ from this one."""
        sizes = tuple(size for _, size in self.mesh)
        numbers = np.arange(math.prod(sizes)).reshape(sizes)
        inside = np.asarray(group)
        if not inside.size or inside.max() >= numbers.size:
            return [0]
        places = np.stack(np.unravel_index(inside, sizes))
        fixed = np.ptp(places, axis=1) == 0
        # Counted from the group's own place along the axes that it does not run over.
        first = tuple(int(n) if still else 0 for n, still in zip(places[:, 0], fixed, strict=True))
        own = int(np.ravel_multi_index(first, sizes))
        others = numbers[tuple(slice(None) if still else 0 for still in fixed)]
        return [int(n) - own for n in others.ravel()]

    def hops(self, group: Sequence[int]) -> int:
        """The longest way between neighbours of a chain.

        Args:
            group: as in ``Collective.group``, in the order of the chain.
        """
        places = self.places(group)
        ways = (self._way(a[:-1], b[:-1]) for a, b in itertools.pairwise(places))
        return max((len(way) for way in ways), default=0)

    def _way(self, start: Place, end: Place) -> list[tuple[Place, int, int]]:
        links: list[tuple[Place, int, int]] = []
        here = list(start)
        for axis, side in enumerate(self.topology.shape, start=1):
            ahead = (end[axis] - here[axis]) if axis < len(end) else 0
            if self.topology.wrap[axis - 1] and abs(ahead) * 2 > side:
                ahead -= int(math.copysign(side, ahead))
            step = int(math.copysign(1, ahead))
            for _ in range(abs(ahead)):
                links.append((tuple(here), axis, step))
                here[axis] = (here[axis] + step) % side
        return links


def _along(
    axis: int, along: Sequence[int], side: int, full: float, *, wrap: bool
) -> tuple[float, int, int, str]:
    """Bytes/s, devices, hops and words of a group along one axis of the torus."""
    stride = _stride(along)
    ring = wrap and len(along) * stride == side
    hops = side // 2 if ring else along[-1] - along[0]
    words = f"{'xyz'[axis]} {'ring' if ring else 'line'} of {len(along)}"
    return full / stride / (1 if ring else 2), len(along), hops, words


def _stride(along: Sequence[int]) -> int:
    """How far apart equally spaced coordinates lie; 1 when they are not."""
    steps = {b - a for a, b in itertools.pairwise(along)}
    return steps.pop() if len(steps) == 1 else 1


@lru_cache(maxsize=32)
def _places(kind: str, shape: Place, slices: int, mesh: tuple[tuple[str, int], ...]) -> list[Place]:
    """Slice, coordinates and core of every device, in the mesh's order."""
    count = math.prod(size for _, size in mesh)
    devices = _devices(kind, shape, slices)[:count]
    try:
        arranged = arrange(devices, dict(mesh))
    except LayoutError:
        arranged = np.asarray(devices, dtype=object)
    sides = len(shape)
    return [(each.slice_index, *each.coords[:sides], each.core_on_chip) for each in arranged.flat]


def _devices(kind: str, shape: Place, slices: int) -> list[Any]:
    """What ``mesh_utils`` asks of the devices of slices: where they lie, board by board of 2x2."""
    x_side, y_side, z_side = (*shape, 1, 1)[:3]
    boards = itertools.product(range(z_side), range(-(-y_side // 2)), range(-(-x_side // 2)))
    chips = [
        (2 * column + x, 2 * row + y, z)
        for z, row, column in boards
        for y, x in itertools.product((0, 1), (0, 1))
        if 2 * column + x < x_side and 2 * row + y < y_side
    ]
    return [
        SimpleNamespace(
            platform="tpu",
            device_kind=_KINDS[kind],
            coords=coords,
            core_on_chip=core,
            slice_index=number,
            process_index=0,
            id=0,
        )
        for number in range(slices)
        for coords in chips
        for core in range(CHIPS[kind].devices_per_chip)
    ]
