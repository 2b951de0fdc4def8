"""How an objective is differentiated: estimators of one signature that any step takes.

``alone`` is what keeps a computation the same number whatever program it stands in.
"""

from jaxdl.gradients.accumulated import accumulate
from jaxdl.gradients.isolated import alone
from jaxdl.gradients.reproduced import reproducible
from jaxdl.gradients.whole import mean

__all__ = ["accumulate", "alone", "mean", "reproducible"]
