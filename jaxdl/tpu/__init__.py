"""What a program needs of a TPU slice, found without one: chips, slices, traffic and FLOPs."""

from jaxdl.tpu.flops import Flops, count_flops, count_jaxpr
from jaxdl.tpu.hardware import CHIPS, DERATES, Chip, Derates, Figure, chip
from jaxdl.tpu.hlo import Collective, Traffic, read_collectives, summarize
from jaxdl.tpu.names import SHAPES, Topology, parse_topology, slice_names

__all__ = [
    "CHIPS",
    "DERATES",
    "SHAPES",
    "Chip",
    "Collective",
    "Derates",
    "Figure",
    "Flops",
    "Topology",
    "Traffic",
    "chip",
    "count_flops",
    "count_jaxpr",
    "parse_topology",
    "read_collectives",
    "slice_names",
    "summarize",
]
