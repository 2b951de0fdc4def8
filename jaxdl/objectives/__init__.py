"""What to minimise: objectives written from modules and from plain functions."""

from jaxdl.objectives.language_model import language_model
from jaxdl.objectives.linen import supervised
from jaxdl.objectives.means import from_mean
from jaxdl.objectives.nnx import from_nnx
from jaxdl.objectives.precision import Precision, precision, with_precision

__all__ = [
    "Precision",
    "from_mean",
    "from_nnx",
    "language_model",
    "precision",
    "supervised",
    "with_precision",
]
