"""Models: pure Flax Linen modules, one file a family."""

from jaxdl.models.activations import constrain
from jaxdl.models.attention import SelfAttention, attention, segment_mask
from jaxdl.models.cnn import CNN
from jaxdl.models.gpt import GPT, gpt2_1_5b, gpt2_124m, gpt2_350m, gpt2_774m
from jaxdl.models.layers import BatchNorm, to_float
from jaxdl.models.mlp import MLP
from jaxdl.models.resnet import ResNet, resnet18, resnet34, resnet50, resnet101, resnet152
from jaxdl.models.stack import REMAT_POLICIES, stack_layers, unstack_layers

__all__ = [
    "CNN",
    "GPT",
    "MLP",
    "REMAT_POLICIES",
    "BatchNorm",
    "ResNet",
    "SelfAttention",
    "attention",
    "constrain",
    "gpt2_1_5b",
    "gpt2_124m",
    "gpt2_350m",
    "gpt2_774m",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "segment_mask",
    "stack_layers",
    "to_float",
    "unstack_layers",
]
