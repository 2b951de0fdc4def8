"""ResNet's names: those of ``transformers`` and those of torchvision.

Reads from: models, weights.names. Used by: weights.families.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from jaxdl.models import ResNet
from jaxdl.weights.names import Names, Rule, batch_norm, dense

__all__ = ["resnet", "torchvision_resnet"]

_SKIPPED = (r"\.num_batches_tracked$",)


def resnet(model: ResNet) -> Names:
    """The table of ``ResNet`` for files of ``ResNetForImageClassification``.

    Those of version 1.5, which all published ones but ``downsample_in_bottleneck`` are.

    Args:
        model: whose names are asked for.
    """
    del model
    block, at = "stage_{s}_block_{b}", "resnet.encoder.stages.{s}.layers.{b}"
    return Names(
        rules=(
            *_pair("stem", "resnet.embedder.embedder"),
            *_pair(f"{block}/layer_{{k}}", f"{at}.layer.{{k}}"),
            *_pair(f"{block}/shortcut", f"{at}.shortcut"),
            *dense("head", "classifier.1"),
        ),
        inputs=_inputs,
        prefix="resnet.",
        skipped=_SKIPPED,
    )


def torchvision_resnet(model: ResNet) -> Names:
    """The table of ``ResNet`` for files of torchvision's, converted to safetensors.

    Args:
        model: whose names are asked for.
    """
    del model
    block, at = "stage_{s}_block_{b}", "layer{s+1}.{b}"
    return Names(
        rules=(
            *dense("stem/conv", "conv1"),
            *batch_norm("stem/norm", "bn1"),
            *dense(f"{block}/layer_{{k}}/conv", f"{at}.conv{{k+1}}"),
            *batch_norm(f"{block}/layer_{{k}}/norm", f"{at}.bn{{k+1}}"),
            *dense(f"{block}/shortcut/conv", f"{at}.downsample.0"),
            *batch_norm(f"{block}/shortcut/norm", f"{at}.downsample.1"),
            *dense("head", "fc"),
        ),
        inputs=_inputs,
        skipped=_SKIPPED,
    )


def _pair(ours: str, theirs: str) -> tuple[Rule, ...]:
    conv = dense(f"{ours}/conv", f"{theirs}.convolution")
    return (*conv, *batch_norm(f"{ours}/norm", f"{theirs}.normalization"))


def _inputs(model: ResNet) -> tuple[Any, ...]:
    del model
    return (jnp.zeros((1, 64, 64, 3)),)
