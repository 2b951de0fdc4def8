"""Where a step runs: the same pure step, compiled once for a mesh or mapped over devices."""

from jaxdl.placement.jit import PlacedFunction, PlacedStep, jit
from jaxdl.placement.pmap import PmappedFunction, PmappedStep, from_pmap_state, pmap

__all__ = [
    "PlacedFunction",
    "PlacedStep",
    "PmappedFunction",
    "PmappedStep",
    "from_pmap_state",
    "jit",
    "pmap",
]
