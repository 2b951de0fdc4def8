"""Differential privacy: DP-SGD with an account that knows how the batches were drawn.

Gradients are clipped by ``gradients.private``; here are the noise, what it costs, a recipe made of
both, and an audit by canaries. ``dp-accounting`` (the extra ``privacy``) loads on first use.
"""

from jaxdl.privacy.accounting import Accountant, epsilon, noise_for
from jaxdl.privacy.ledger import SPLIT, Ledger
from jaxdl.privacy.noising import blind, noise
from jaxdl.privacy.recipes import make_private
from jaxdl.privacy.sampling import Epochs, Poisson, Sampling, sampling_of

__all__ = [
    "SPLIT",
    "Accountant",
    "Epochs",
    "Ledger",
    "Poisson",
    "Sampling",
    "blind",
    "epsilon",
    "make_private",
    "noise",
    "noise_for",
    "sampling_of",
]
