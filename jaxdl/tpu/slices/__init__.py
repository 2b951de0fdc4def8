"""Slices of TPUs: the chips as data, and the names that Cloud TPU gives to slices of them."""

from jaxdl.tpu.slices.hardware import CHIPS, DERATES, Chip, Derates, Figure, chip
from jaxdl.tpu.slices.names import SHAPES, Topology, parse_topology, slice_names

__all__ = [
    "CHIPS",
    "DERATES",
    "SHAPES",
    "Chip",
    "Derates",
    "Figure",
    "Topology",
    "chip",
    "parse_topology",
    "slice_names",
]
