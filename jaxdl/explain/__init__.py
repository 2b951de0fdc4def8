"""Why a model gave its scores: attributions of inputs, layers, tokens and training examples."""

from jaxdl.explain.attending import attention_rollout, attention_weights
from jaxdl.explain.cam import grad_cam, resized
from jaxdl.explain.gradients import gradient_x_input, saliency, smoothgrad
from jaxdl.explain.integrated import Integrated, integrated_gradients
from jaxdl.explain.layers import (
    Layer,
    LayerInfo,
    linen_layer,
    linen_layers,
    nnx_layer,
    split_layer,
)
from jaxdl.explain.neighbours import Nearest, nearest_examples
from jaxdl.explain.occluding import occlusion
from jaxdl.explain.randomising import randomised, rank_correlation, sanity_check
from jaxdl.explain.tokens import TokenAttributions, token_attributions

__all__ = [
    "Integrated",
    "Layer",
    "LayerInfo",
    "Nearest",
    "TokenAttributions",
    "attention_rollout",
    "attention_weights",
    "grad_cam",
    "gradient_x_input",
    "integrated_gradients",
    "linen_layer",
    "linen_layers",
    "nearest_examples",
    "nnx_layer",
    "occlusion",
    "randomised",
    "rank_correlation",
    "resized",
    "saliency",
    "sanity_check",
    "smoothgrad",
    "split_layer",
    "token_attributions",
]
