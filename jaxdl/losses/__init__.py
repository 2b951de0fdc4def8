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
from jaxdl.losses.contrastive import nt_xent, pair_scores
from jaxdl.losses.ctc import ctc
from jaxdl.losses.regression import huber, mean_absolute_error, mean_squared_error
from jaxdl.losses.reinforcement import (
    action_log_probability,
    clipped_policy,
    clipped_value,
    policy_entropy,
    policy_gradient,
    q_learning,
    q_target,
)
from jaxdl.losses.returns import (
    discounted_returns,
    generalized_advantages,
    normalized_advantages,
)
from jaxdl.losses.sequence import chunked_cross_entropy
from jaxdl.losses.variational import bernoulli_log_likelihood, gaussian_kl, gaussian_log_likelihood

__all__ = [
    "action_log_probability",
    "bernoulli_log_likelihood",
    "binary_cross_entropy",
    "binary_cross_entropy_from_probabilities",
    "binary_focal",
    "chunked_cross_entropy",
    "clipped_policy",
    "clipped_value",
    "cross_entropy_from_probabilities",
    "ctc",
    "discounted_returns",
    "focal",
    "gaussian_kl",
    "gaussian_log_likelihood",
    "generalized_advantages",
    "hinge",
    "huber",
    "kl_divergence",
    "mean_absolute_error",
    "mean_squared_error",
    "multiclass_hinge",
    "normalized_advantages",
    "nt_xent",
    "pair_scores",
    "policy_entropy",
    "policy_gradient",
    "q_learning",
    "q_target",
    "softmax_cross_entropy",
]
