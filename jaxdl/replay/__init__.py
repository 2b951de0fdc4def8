"""A step run again, one equation at a time: where its first NaN or infinity came from."""

from jaxdl.replay.finding import Finding, Operand
from jaxdl.replay.nonfinite import find_nonfinite
from jaxdl.replay.steps import Replayed, examine, keep, reopen, replay

__all__ = [
    "Finding",
    "Operand",
    "Replayed",
    "examine",
    "find_nonfinite",
    "keep",
    "reopen",
    "replay",
]
