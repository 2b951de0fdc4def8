"""What a program needs of a TPU slice, found without one: chips, slices, traffic and FLOPs.

* slices: ``hardware`` (the chips' table), ``names``, ``rings``, ``mesh_axes``
* programs: ``hlo``, ``hlo_text``, ``groups``, ``loops``, ``costs`` read what the compiler made;
  ``flops``, ``contractions``, ``attention_flops`` count before it does
* plans: ``facts`` (what a plan holds), ``planning`` (how one is made), ``steps``, ``compiling``,
  ``memory``, ``remembering``; ``roofline`` and ``analytic`` for its times; ``rendering``,
  ``encoding``, ``picture`` for people and files
* changes: ``changes``, ``reckoning``, ``search``; ``sweeping``, ``sweep_table``
* budgets: ``budgets``, ``limits``, ``measured``, ``excess``, ``origins``
"""

from jaxdl.tpu.budgets import BudgetError, assert_budget
from jaxdl.tpu.changes import Change, Options, usual_layouts
from jaxdl.tpu.facts import Buffer, Facts, Memory, Plan, Times
from jaxdl.tpu.flops import Flops, count_flops, count_jaxpr
from jaxdl.tpu.hardware import CHIPS, DERATES, Chip, Derates, Figure, chip
from jaxdl.tpu.hlo import Collective, Traffic, read_collectives, summarize
from jaxdl.tpu.measured import write_measured
from jaxdl.tpu.mesh_axes import axes_of
from jaxdl.tpu.names import SHAPES, Topology, parse_topology, slice_names
from jaxdl.tpu.planning import plan
from jaxdl.tpu.roofline import predict
from jaxdl.tpu.search import find_change
from jaxdl.tpu.sweeping import sweep

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
