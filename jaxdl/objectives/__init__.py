"""What to minimise: objectives written from modules and from plain functions."""

from jaxdl.objectives.adversarial import with_adversary, without_adversary
from jaxdl.objectives.autoencoder import autoencoder, vae
from jaxdl.objectives.autoregressive import autoregressive
from jaxdl.objectives.auxiliary import with_auxiliary
from jaxdl.objectives.contrastive import contrastive
from jaxdl.objectives.ctc import ctc
from jaxdl.objectives.language_model import language_model
from jaxdl.objectives.linen import supervised
from jaxdl.objectives.masked_lm import masked_lm
from jaxdl.objectives.means import from_mean
from jaxdl.objectives.nnx import from_nnx
from jaxdl.objectives.precision import Precision, precision, with_precision
from jaxdl.objectives.reinforcement import dqn, moving_target, policy_gradient, ppo
from jaxdl.objectives.seq2seq import seq2seq

__all__ = [
    "Precision",
    "autoencoder",
    "autoregressive",
    "contrastive",
    "ctc",
    "dqn",
    "from_mean",
    "from_nnx",
    "language_model",
    "masked_lm",
    "moving_target",
    "policy_gradient",
    "ppo",
    "precision",
    "seq2seq",
    "supervised",
    "vae",
    "with_adversary",
    "with_auxiliary",
    "with_precision",
    "without_adversary",
]
