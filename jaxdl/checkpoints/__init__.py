"""What is stored of a run: verified checkpoints, and the tools to look into them."""

from jaxdl.checkpoints.choosing import checkpoints_of
from jaxdl.checkpoints.comparing import Comparison, Difference, diff
from jaxdl.checkpoints.exporting import Exported, export
from jaxdl.checkpoints.faults import lock
from jaxdl.checkpoints.keeping import Keep
from jaxdl.checkpoints.matching import Row, Table
from jaxdl.checkpoints.partial import Partial, load_partial
from jaxdl.checkpoints.reading import list_steps, open_step, read_tensor, torn, verify
from jaxdl.checkpoints.starting import InitFrom
from jaxdl.checkpoints.store import Checkpoints, Restored

__all__ = [
    "Checkpoints",
    "Comparison",
    "Difference",
    "Exported",
    "InitFrom",
    "Keep",
    "Partial",
    "Restored",
    "Row",
    "Table",
    "checkpoints_of",
    "diff",
    "export",
    "list_steps",
    "load_partial",
    "lock",
    "open_step",
    "read_tensor",
    "torn",
    "verify",
]
