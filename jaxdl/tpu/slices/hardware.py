"""What a TPU chip can do: one table, each number with its source and the date it was read.

Bytes are bytes, never bits; a rate is for one direction of one link where it says so. Cloud TPU's
pages print the interconnect in three ways, which the tests hold against each other.

Reads from: errors. Used by: tpu.slices.names, the planner.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxdl.errors import ConfigError, closest

__all__ = ["CHIPS", "DERATES", "Chip", "Derates", "Figure", "chip"]

GIB = 2.0**30


@dataclass(frozen=True)
class Figure:
    """One number of the table.

    Attributes:
        value: the number, in the unit that the field it stands in names.
        source: where it is printed, or how it was found.
        date: when that was read, as ``YYYY-MM``.
        unverified: whether no page prints it: derived, or from memory.
    """

    value: float
    source: str
    date: str
    unverified: bool = False


@dataclass(frozen=True)
class Chip:
    """One generation of TPU. Numbers are for one chip unless they say otherwise.

    Attributes:
        name: the generation, as in ``"v5e"``.
        peak_flops: dense bf16, FLOP/s.
        low_precision_flops: dense, FLOP/s, in ``low_precision``.
        low_precision: the type that ``low_precision_flops`` is for.
        hbm_bytes: memory as Cloud TPU's pages give it, bytes.
        usable_hbm_bytes: memory that the compiler gives out, bytes for one JAX device.
        hbm_bandwidth: bytes/s.
        ici_links: links to other chips.
        torus_dims: axes of the torus.
        link_bandwidth: one direction of one link, bytes/s.
        axis_bandwidth: what a chip sends along one wrapped axis, bytes/s; half without wrap.
        dcn_bandwidth: its share of the data-centre network, bytes/s.
        pod_chips: chips of a whole pod.
        devices_per_chip: JAX devices of one chip.
        cores_per_chip: TensorCores of one chip.
        name_counts: what the number in a Cloud name such as ``v5p-128`` counts.
        clock: cycles/s that turn the compiler's cycle estimates into seconds, where known.
        lane: matrix dimensions are padded to a multiple of this.
        bidirectional_bandwidth: bytes/s over all links, both directions, where a page prints it.
        bisection_bandwidth: bytes/s through the middle of a whole pod, where a page prints it.
    """

    name: str
    peak_flops: Figure
    low_precision_flops: Figure
    low_precision: Literal["int8", "fp8"]
    hbm_bytes: Figure
    usable_hbm_bytes: Figure
    hbm_bandwidth: Figure
    ici_links: Figure
    torus_dims: int
    link_bandwidth: Figure
    axis_bandwidth: Figure
    dcn_bandwidth: Figure
    pod_chips: Figure
    devices_per_chip: int
    cores_per_chip: int
    name_counts: Literal["chips", "TensorCores"]
    clock: Figure | None = None
    lane: int = 128
    bidirectional_bandwidth: Figure | None = None
    bisection_bandwidth: Figure | None = None

    @property
    def device_peak_flops(self) -> float:
        """Dense bf16 FLOP/s of one JAX device."""
        return self.peak_flops.value / self.devices_per_chip

    @property
    def device_hbm_bandwidth(self) -> float:
        """Memory bytes/s of one JAX device."""
        return self.hbm_bandwidth.value / self.devices_per_chip


@dataclass(frozen=True)
class Derates:
    """What share of a nominal rate large operations reach: ``(low, high)``.

    Attributes:
        matmul: of the peak FLOP/s.
        hbm: of the memory's bytes/s.
        ici: of ``axis_bandwidth``.
    """

    matmul: tuple[Figure, Figure]
    hbm: tuple[Figure, Figure]
    ici: tuple[Figure, Figure]


_BOOK = "jax-ml/scaling-book@0819a7d tpus.md"
_LINKS = f"{_BOOK}: twice the one-way bytes/s of a link"
_PROBE = "libtpu 0.0.42.1: 'available HBM' of a program that does not fit"
_CYCLES = "peak FLOP/s over the FLOPs of a cycle; no page prints it"


def _page(name: str, value: float, remark: str = "", *, unverified: bool = False) -> Figure:
    source = f"docs.cloud.google.com/tpu/docs/{name}" + (f": {remark}" if remark else "")
    return Figure(value, source, "2026-08", unverified)


def _book(value: float, remark: str = _BOOK, *, unverified: bool = False) -> Figure:
    return Figure(value, remark, "2026-08", unverified)


def _probed(gib: float) -> Figure:
    return Figure(gib * GIB, _PROBE, "2026-11")


_V4 = Chip(
    name="v4",
    peak_flops=_page("v4", 275e12),
    low_precision_flops=_page("v4", 275e12),
    low_precision="int8",
    hbm_bytes=_page("v4", 32 * GIB),
    usable_hbm_bytes=Figure(30.75 * GIB, f"{_PROBE}, megacore", "2026-11"),
    hbm_bandwidth=_page("v4", 1200e9),
    ici_links=_page("v4", 6.0),
    torus_dims=3,
    link_bandwidth=_page("v4", 50e9, "from the bisection, 24 TB/s over 512 links", unverified=True),
    axis_bandwidth=_book(100e9, _LINKS),
    dcn_bandwidth=_book(6.25e9, f"{_BOOK}: 2.5e10 bytes/s for a host of 4 chips", unverified=True),
    pod_chips=_page("v4", 4096.0),
    devices_per_chip=1,
    cores_per_chip=2,
    name_counts="TensorCores",
    clock=_book(1.05e9, _CYCLES, unverified=True),
    bisection_bandwidth=_page("v4", 24e12),
)
_V5E = Chip(
    name="v5e",
    peak_flops=_page("v5e", 197e12),
    low_precision_flops=_page("v5e", 393e12),
    low_precision="int8",
    hbm_bytes=_page("v5e", 16 * GIB, "printed as 16 GB; the compiler has more than 16e9 bytes"),
    usable_hbm_bytes=_probed(15.75),
    hbm_bandwidth=_page("v5e", 819e9, "newer pages say 800 GB/s"),
    ici_links=_page("v5e", 4.0),
    torus_dims=2,
    link_bandwidth=_page("v5e", 50e9, "400 GB/s over 4 links and 2 directions"),
    axis_bandwidth=_book(100e9, _LINKS),
    dcn_bandwidth=_page("v5e", 3.125e9, "2 x 100 Gb/s for a host of 8 chips"),
    pod_chips=_page("v5e", 256.0),
    devices_per_chip=1,
    cores_per_chip=1,
    name_counts="chips",
    clock=_book(1.5e9, _CYCLES, unverified=True),
    bidirectional_bandwidth=_page("v5e", 400e9),
    bisection_bandwidth=_page("v5e", 1.6e12),
)
_V5P = Chip(
    name="v5p",
    peak_flops=_page("v5p", 459e12),
    low_precision_flops=_book(918e12, f"{_BOOK}: int8; the page lists fp8 as 459 TFLOP/s"),
    low_precision="int8",
    hbm_bytes=_page("v5p", 95 * GIB, "the compiler has a little more"),
    usable_hbm_bytes=_probed(95.74),
    hbm_bandwidth=_page("v5p", 2765e9),
    ici_links=_page("v5p", 6.0),
    torus_dims=3,
    link_bandwidth=_page("v5p", 100e9, "1200 GB/s over 6 links and 2 directions"),
    axis_bandwidth=_book(200e9, _LINKS),
    dcn_bandwidth=_page("tpu7x", 6.25e9, "its table of v5p, v6e and 7x: 50 Gb/s"),
    pod_chips=_page("v5p", 8960.0, "the largest slice has 6144"),
    devices_per_chip=1,
    cores_per_chip=2,
    name_counts="TensorCores",
    clock=_book(1.75e9, _CYCLES, unverified=True),
    bidirectional_bandwidth=_page("v5p", 1200e9),
)
_V6E = Chip(
    name="v6e",
    peak_flops=_page("v6e", 918e12),
    low_precision_flops=_page("v6e", 1836e12),
    low_precision="int8",
    hbm_bytes=_page("v6e", 32 * GIB, "printed as 32 GB; the compiler has more than 32e9 bytes"),
    usable_hbm_bytes=_probed(31.25),
    hbm_bandwidth=_page("v6e", 1638e9, "pages also say 1600 and 1640 GB/s"),
    ici_links=_page("v6e", 4.0),
    torus_dims=2,
    link_bandwidth=_page("v6e", 100e9, "800 GB/s over 4 links and 2 directions"),
    axis_bandwidth=_book(200e9, _LINKS),
    dcn_bandwidth=_page("tpu7x", 12.5e9, "its table of v5p, v6e and 7x: 100 Gb/s"),
    pod_chips=_page("v6e", 256.0),
    devices_per_chip=1,
    cores_per_chip=1,
    name_counts="chips",
    clock=_book(1.75e9, _CYCLES, unverified=True),
    lane=256,
    bidirectional_bandwidth=_page("v6e", 800e9),
    bisection_bandwidth=_page("v6e", 3.2e12),
)
_V7X = Chip(
    name="tpu7x",
    peak_flops=_page("tpu7x", 2307e12),
    low_precision_flops=_page("tpu7x", 4614e12),
    low_precision="fp8",
    hbm_bytes=_page("tpu7x", 192 * GIB),
    usable_hbm_bytes=_probed(94.75),
    hbm_bandwidth=_page("tpu7x", 7380e9),
    ici_links=_page("tpu7x", 6.0),
    torus_dims=3,
    link_bandwidth=_page("tpu7x", 100e9, "1200 GB/s over 6 links and 2 directions"),
    axis_bandwidth=_book(200e9, _LINKS),
    dcn_bandwidth=_page("tpu7x", 12.5e9, "100 Gb/s"),
    pod_chips=_page("tpu7x", 9216.0),
    devices_per_chip=2,
    cores_per_chip=2,
    name_counts="TensorCores",
    lane=256,
    bidirectional_bandwidth=_page("tpu7x", 1200e9),
)

CHIPS = {each.name: each for each in (_V4, _V5E, _V5P, _V6E, _V7X)}

_MEASURED = "AI-Hypercomputer/tpu-recipes microbenchmarks/ironwood"
DERATES = Derates(
    matmul=(
        _book(0.80, "788 of 989 TFLOP/s, measured on an H200", unverified=True),
        _book(0.83, f"{_MEASURED}: 956 of 1153 TFLOP/s at n = 32768"),
    ),
    hbm=(
        _book(0.87, f"{_MEASURED}/hbm: 6421 of 7380 GB/s"),
        _book(0.90, "4300 of 4800 GB/s, measured on an H200", unverified=True),
    ),
    ici=(
        _book(0.90, f"{_BOOK}: 4.5e10 of 5e10 and 9e10 of 10e10 bytes/s one way"),
        _book(0.90, f"{_MEASURED}/collectives: all-gather 178.8 of 200 GB/s"),
    ),
)


def chip(name: str) -> Chip:
    """A chip of the table.

    Args:
        name: ``v4``, ``v5e``, ``v5p``, ``v6e`` or ``tpu7x``.

    Raises:
        ConfigError: there is no such chip.

    Examples:
        >>> chip("v5e").peak_flops.value
        197000000000000.0
    """
    if name not in CHIPS:
        raise ConfigError(
            f"there is no TPU {name!r} in the table",
            expected=", ".join(CHIPS),
            do=closest(name, CHIPS),
        )
    return CHIPS[name]
