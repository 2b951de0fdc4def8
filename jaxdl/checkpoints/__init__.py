"""What is stored of a run: verified checkpoints, and the tools to look into them."""

from jaxdl.checkpoints.faults import lock
from jaxdl.checkpoints.keeping import Keep
from jaxdl.checkpoints.reading import list_steps, open_step, read_tensor, torn, verify
from jaxdl.checkpoints.store import Checkpoints, Restored

__all__ = [
    "Checkpoints",
    "Keep",
    "Restored",
    "list_steps",
    "lock",
    "open_step",
    "read_tensor",
    "torn",
    "verify",
]
