"""What a program needs of a TPU slice, found without one.

One room a question; each reads from those above it only.

* ``slices``: which chips are there, and what does Cloud TPU call them?
* ``programs``: what does a step compute, and what does it send?
* ``plans``: does it fit a slice, and how long does a step take?
* ``changing``: what would make it fit, and what is fastest?
* ``showing``: how is a plan shown to a person?
* ``budget``: does it stay within what its owner allows?
"""

from jaxdl.tpu.budget import BudgetError, assert_budget, write_measured
from jaxdl.tpu.changing import Change, Options, find_change, sweep, usual_layouts
from jaxdl.tpu.plans import Buffer, Facts, Memory, Plan, Times, plan, predict
from jaxdl.tpu.programs import (
    Collective,
    Flops,
    Traffic,
    axes_of,
    count_flops,
    count_jaxpr,
    read_collectives,
    summarize,
)
from jaxdl.tpu.slices import (
    CHIPS,
    DERATES,
    SHAPES,
    Chip,
    Derates,
    Figure,
    Topology,
    chip,
    parse_topology,
    slice_names,
)

__all__ = [
    "CHIPS",
    "DERATES",
    "SHAPES",
    "BudgetError",
    "Buffer",
    "Change",
    "Chip",
    "Collective",
    "Derates",
    "Facts",
    "Figure",
    "Flops",
    "Memory",
    "Options",
    "Plan",
    "Times",
    "Topology",
    "Traffic",
    "assert_budget",
    "axes_of",
    "chip",
    "count_flops",
    "count_jaxpr",
    "find_change",
    "parse_topology",
    "plan",
    "predict",
    "read_collectives",
    "slice_names",
    "summarize",
    "sweep",
    "usual_layouts",
    "write_measured",
]
