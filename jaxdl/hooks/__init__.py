"""What happens around the loop: reports, evaluation, early stop."""

from jaxdl.hooks.logs import JsonLines, TensorBoard
from jaxdl.hooks.periods import EarlyStop, Evaluate, Every
from jaxdl.hooks.progress import Progress

__all__ = ["EarlyStop", "Evaluate", "Every", "JsonLines", "Progress", "TensorBoard"]
