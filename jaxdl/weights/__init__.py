"""Weights of other libraries: safetensors files in and out, by a name table for each family.

Reads from: its own modules. Used by: recipes, by choice.
"""

from jaxdl.weights.bert import bert
from jaxdl.weights.converting import convert, named
from jaxdl.weights.exporting import export
from jaxdl.weights.gpt import gpt2
from jaxdl.weights.hub import download
from jaxdl.weights.inception import inception
from jaxdl.weights.llama import llama
from jaxdl.weights.loading import load
from jaxdl.weights.moves import AS_IS, KERNEL, Move, flattened, part_of, shaped
from jaxdl.weights.names import Names, Rule, batch_norm, dense, embedding, joined, norm
from jaxdl.weights.resnet import resnet, torchvision_resnet
from jaxdl.weights.vgg import vgg
from jaxdl.weights.vit import vit

__all__ = [
    "AS_IS",
    "KERNEL",
    "Move",
    "Names",
    "Rule",
    "batch_norm",
    "bert",
    "convert",
    "dense",
    "download",
    "embedding",
    "export",
    "flattened",
    "gpt2",
    "inception",
    "joined",
    "llama",
    "load",
    "named",
    "norm",
    "part_of",
    "resnet",
    "shaped",
    "torchvision_resnet",
    "vgg",
    "vit",
]
