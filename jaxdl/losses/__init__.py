"""Losses of each example, unreduced: ``(outputs, targets) -> [B]`` or ``[B, T]``."""

from jaxdl.losses.classification import (
    binary_cross_entropy,
    binary_cross_entropy_from_probabilities,
    binary_focal,
    cross_entropy_from_probabilities,
    focal,
    hinge,
    kl_divergence,
    multiclass_hinge,
    softmax_cross_entropy,
)
from jaxdl.losses.regression import huber, mean_absolute_error, mean_squared_error
from jaxdl.losses.sequence import chunked_cross_entropy

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_from_probabilities",
    "binary_focal",
    "chunked_cross_entropy",
    "cross_entropy_from_probabilities",
    "focal",
    "hinge",
    "huber",
    "kl_divergence",
    "mean_absolute_error",
    "mean_squared_error",
    "multiclass_hinge",
    "softmax_cross_entropy",
]
