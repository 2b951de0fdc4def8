"""VGG's names: those of torchvision.

Reads from: models, weights.moves, weights.names. Used by: weights.families.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from jaxdl.models import VGG
from jaxdl.weights.moves import flattened
from jaxdl.weights.names import Names, Rule, batch_norm, dense

__all__ = ["vgg"]


def vgg(model: VGG) -> Names:
    """The table of ``VGG`` for files of torchvision's, converted to safetensors.

    Layers are numbered there with the ReLUs and pools between them. Only the stem of ImageNet has
    published weights; the head of CIFAR is named as their last dense layer is.

    Args:
        model: whose names are asked for.
    """
    rules, place, index = list[Rule](), 0, 0
    normed = model.norm == "batch"
    for count in model.stage_sizes:
        for _ in range(count):
            rules += dense(f"conv_{index}", f"features.{place}")
            if normed:
                rules += batch_norm(f"norm_{index}", f"features.{place + 1}")
            place, index = place + (3 if normed else 2), index + 1
        place += 1
    rules += [
        *dense("dense_0", "classifier.0", kernel=flattened(7, 7)),
        *dense("dense_1", "classifier.3"),
        *dense("head", "classifier.6"),
    ]
    return Names(rules=rules, inputs=_inputs, skipped=(r"\.num_batches_tracked$",))


def _inputs(model: VGG) -> tuple[Any, ...]:
    del model
    return (jnp.zeros((1, 32, 32, 3)),)
