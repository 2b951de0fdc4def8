"""Inception v3's names: those of torchvision.

Reads from: models, weights.names. Used by: weights.families.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from jaxdl.models import InceptionV3
from jaxdl.weights.names import Names, Rule, batch_norm, dense

__all__ = ["inception"]

_STEM = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3")
# Branches of each kind of block: our name, theirs, and what numbers our layers have there.
_DOUBLE = ("double", "branch3x3dbl", ("_1", "_2", "_3"))
_POOL = ("pool", "branch_pool", None)
_ONE = ("one", "branch1x1", ("",))
_A = (_ONE, ("five", "branch5x5", ("_1", "_2")), _DOUBLE, _POOL)
_B = (("three", "branch3x3", ("",)), _DOUBLE)
_C = (
    _ONE,
    ("seven", "branch7x7", ("_1", "_2", "_3")),
    ("double", "branch7x7dbl", ("_1", "_2", "_3", "_4", "_5")),
    _POOL,
)
_D = (
    ("three", "branch3x3", ("_1", "_2")),
    ("seven", "branch7x7x3", ("_1", "_2", "_3", "_4")),
)
_E = (
    _ONE,
    ("three", "branch3x3", ("_1",)),
    ("double", "branch3x3dbl", ("_1", "_2")),
    _POOL,
)
# The forked ends of the last kind: our layer's name and theirs.
_FORKS = (
    ("three_1a", "branch3x3_2a"),
    ("three_1b", "branch3x3_2b"),
    ("double_2a", "branch3x3dbl_3a"),
    ("double_2b", "branch3x3dbl_3b"),
)
_BLOCKS = {
    **dict.fromkeys(("5b", "5c", "5d"), _A),
    "6a": _B,
    **dict.fromkeys(("6b", "6c", "6d", "6e"), _C),
    "7a": _D,
    **dict.fromkeys(("7b", "7c"), _E),
}


def inception(model: InceptionV3) -> Names:
    """The table of ``InceptionV3`` for files of torchvision's, converted to safetensors.

    torchvision counts padding in its means, so load into a model with ``count_padding=True`` to
    have its outputs.

    Args:
        model: whose names are asked for.
    """
    rules = [rule for i, name in enumerate(_STEM) for rule in _layer(f"stem_{i}", name)]
    for at, branches in _BLOCKS.items():
        ours, theirs = f"mixed_{at}", f"Mixed_{at}"
        for branch, name, numbers in branches:
            if numbers is None:
                rules += _layer(f"{ours}/{branch}", f"{theirs}.{name}")
                continue
            for index, number in enumerate(numbers):
                rules += _layer(f"{ours}/{branch}_{index}", f"{theirs}.{name}{number}")
        if branches is _E:
            for layer, name in _FORKS:
                rules += _layer(f"{ours}/{layer}", f"{theirs}.{name}")
    skipped = [r"\.num_batches_tracked$"]
    if model.auxiliary:
        rules += [
            *_layer("auxiliary_0", "AuxLogits.conv0"),
            *_layer("auxiliary_1", "AuxLogits.conv1"),
        ]
        rules += dense("auxiliary_head", "AuxLogits.fc")
    else:
        skipped.append(r"^AuxLogits\.")
    rules += dense("head", "fc")
    return Names(rules=rules, inputs=_inputs, skipped=tuple(skipped))


def _layer(ours: str, theirs: str) -> tuple[Rule, ...]:
    return (*dense(f"{ours}/conv", f"{theirs}.conv"), *batch_norm(f"{ours}/norm", f"{theirs}.bn"))


def _inputs(model: InceptionV3) -> tuple[Any, ...]:
    del model
    return (jnp.zeros((1, 75, 75, 3)),)
