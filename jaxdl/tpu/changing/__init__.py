"""Changes to a step: the smallest one that fits, and sweeps over many."""

from jaxdl.tpu.changing.changes import Change, Options, usual_layouts
from jaxdl.tpu.changing.search import find_change
from jaxdl.tpu.changing.sweeping import sweep

__all__ = ["Change", "Options", "find_change", "sweep", "usual_layouts"]
