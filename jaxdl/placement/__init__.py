"""Where a step runs: the same pure step, compiled once for a mesh or mapped over devices."""

from jaxdl.placement.caching import compile_cache
from jaxdl.placement.exporting import LoadedProgram, export_program, load_program
from jaxdl.placement.jit import PlacedFunction, PlacedStep, jit
from jaxdl.placement.pmap import PmappedFunction, PmappedStep, from_pmap_state, pmap

__all__ = [
    "LoadedProgram",
    "PlacedFunction",
    "PlacedStep",
    "PmappedFunction",
    "PmappedStep",
    "compile_cache",
    "export_program",
    "from_pmap_state",
    "jit",
    "load_program",
    "pmap",
]
