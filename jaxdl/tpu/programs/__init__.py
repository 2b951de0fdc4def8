"""Programs: what the compiler made of a step, and FLOPs counted before it did."""

from jaxdl.tpu.programs.flops import Flops, count_flops, count_jaxpr
from jaxdl.tpu.programs.hlo import Collective, Traffic, read_collectives, summarize
from jaxdl.tpu.programs.mesh_axes import axes_of

__all__ = [
    "Collective",
    "Flops",
    "Traffic",
    "axes_of",
    "count_flops",
    "count_jaxpr",
    "read_collectives",
    "summarize",
]
