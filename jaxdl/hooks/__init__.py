"""What happens around the loop: reports, evaluation, early stop, saving, a watch over the loss."""

from jaxdl.hooks.logs import JsonLines, TensorBoard
from jaxdl.hooks.periods import EarlyStop, Evaluate, Every
from jaxdl.hooks.progress import Progress
from jaxdl.hooks.saving import Checkpoint, memory_of
from jaxdl.hooks.spikes import LossSpike

__all__ = [
    "Checkpoint",
    "EarlyStop",
    "Evaluate",
    "Every",
    "JsonLines",
    "LossSpike",
    "Progress",
    "TensorBoard",
    "memory_of",
]
