"""Models: pure Flax Linen modules, one file a family."""

from jaxdl.models.cnn import CNN
from jaxdl.models.layers import BatchNorm, to_float
from jaxdl.models.mlp import MLP

__all__ = ["CNN", "MLP", "BatchNorm", "to_float"]
