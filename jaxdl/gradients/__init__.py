"""How an objective is differentiated: estimators of one signature that any step takes.

``alone`` is what keeps a computation the same number whatever program it stands in.
``Remembering`` is what an estimator with a state of its own provides.
"""

from jaxdl.gradients.accumulated import accumulate
from jaxdl.gradients.isolated import alone
from jaxdl.gradients.private import private
from jaxdl.gradients.remembering import Remembering, WithMemory
from jaxdl.gradients.reproduced import reproducible
from jaxdl.gradients.scaled import LossScale, scaled
from jaxdl.gradients.whole import mean

__all__ = [
    "LossScale",
    "Remembering",
    "WithMemory",
    "accumulate",
    "alone",
    "mean",
    "private",
    "reproducible",
    "scaled",
]
