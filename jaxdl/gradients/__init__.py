"""How an objective is differentiated: estimators of one signature that any step takes."""

from jaxdl.gradients.accumulated import accumulate
from jaxdl.gradients.whole import mean

__all__ = ["accumulate", "mean"]
