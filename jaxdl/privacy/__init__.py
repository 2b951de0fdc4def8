"""Differential privacy: DP-SGD with an account that knows how the batches were drawn.

Gradients are clipped by ``gradients.private``; here are the noise, what it costs, a recipe made of
both, and an audit by canaries. ``dp-accounting`` (the extra ``privacy``) loads on first use.
"""

from jaxdl.privacy.accounting import Accountant, epsilon, noise_for
from jaxdl.privacy.auditing import Audit, audit, one_run_bound, rates_bound, toss
from jaxdl.privacy.ledger import SPLIT, Ledger
from jaxdl.privacy.noising import blind, noise
from jaxdl.privacy.recipes import make_private
from jaxdl.privacy.sampling import Epochs, Poisson, Sampling, sampling_of

__all__ = [
    "SPLIT",
    "Accountant",
    "Audit",
    "Epochs",
    "Ledger",
    "Poisson",
    "Sampling",
    "audit",
    "blind",
    "epsilon",
    "make_private",
    "noise",
    "noise_for",
    "one_run_bound",
    "rates_bound",
    "sampling_of",
    "toss",
]
