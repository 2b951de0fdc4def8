"""Where each array of a run lies: mesh axes, rules from paths to specs, and the reason for each."""

from jaxdl.layouts.activations import activation_rules
from jaxdl.layouts.choices import (
    data_parallel,
    expert_parallel,
    fsdp,
    layout,
    sequence,
    single,
    tensor_parallel,
    zero1,
)
from jaxdl.layouts.explaining import Explanation, Row, explain
from jaxdl.layouts.placing import MIN_SIZE, Layout, Placing, nearest_sizes
from jaxdl.layouts.states import state_placings, state_shardings

__all__ = [
    "MIN_SIZE",
    "Explanation",
    "Layout",
    "Placing",
    "Row",
    "activation_rules",
    "data_parallel",
    "expert_parallel",
    "explain",
    "fsdp",
    "layout",
    "nearest_sizes",
    "sequence",
    "single",
    "state_placings",
    "state_shardings",
    "tensor_parallel",
    "zero1",
]
