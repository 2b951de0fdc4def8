"""Models under attack, noise and corruption: how to perturb inputs, and what is certain of them."""

from jaxdl.robustness.attacks import Attack, Perturbation, fgsm, pgd
from jaxdl.robustness.corruptions import (
    CORRUPTIONS,
    SEVERITIES,
    Corruption,
    corrupt,
    corrupt_image,
)
from jaxdl.robustness.smoothing import (
    ABSTAIN,
    Certificates,
    GaussianNoise,
    certificates,
    certified_accuracy,
    certified_radius,
    certify,
    lower_bound,
    noisy_labels,
    smoothed_labels,
)
from jaxdl.robustness.text import RATES, drop_tokens, drop_words, typo_tokens, typos

__all__ = [
    "ABSTAIN",
    "CORRUPTIONS",
    "RATES",
    "SEVERITIES",
    "Attack",
    "Certificates",
    "Corruption",
    "GaussianNoise",
    "Perturbation",
    "certificates",
    "certified_accuracy",
    "certified_radius",
    "certify",
    "corrupt",
    "corrupt_image",
    "drop_tokens",
    "drop_words",
    "fgsm",
    "lower_bound",
    "noisy_labels",
    "pgd",
    "smoothed_labels",
    "typo_tokens",
    "typos",
]
