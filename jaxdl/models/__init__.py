"""Models: pure Flax Linen modules, one file a family."""

from jaxdl.models.attention import SelfAttention, attention, segment_mask
from jaxdl.models.cnn import CNN
from jaxdl.models.gpt import GPT, gpt2_1_5b, gpt2_124m, gpt2_350m, gpt2_774m
from jaxdl.models.layers import BatchNorm, to_float
from jaxdl.models.mlp import MLP
from jaxdl.models.stack import REMAT_POLICIES, stack_layers, unstack_layers

__all__ = [
    "CNN",
    "GPT",
    "MLP",
    "REMAT_POLICIES",
    "BatchNorm",
    "SelfAttention",
    "attention",
    "gpt2_1_5b",
    "gpt2_124m",
    "gpt2_350m",
    "gpt2_774m",
    "segment_mask",
    "stack_layers",
    "to_float",
    "unstack_layers",
]
