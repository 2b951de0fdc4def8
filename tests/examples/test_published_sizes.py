"""The recipes of large models build at their published sizes, with the published parameters."""

from __future__ import annotations

import functools
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxdl.cli.files import load
from jaxdl.errors import ConfigError
from jaxdl.tpu.programs.flops import count_flops

EXAMPLES = Path(__file__).parents[2] / "examples"
SCANNED = {"scan_layers": True, "remat": "full"}


def photographs(model, side=224, **settings):
    # Given, as the recipe would first make a batch to know its shape.
    batch = {
        "image": jax.ShapeDtypeStruct((1, side, side, 3), np.float32),
        "label": jax.ShapeDtypeStruct((1,), np.int32),
    }
    return "imagenet", {"model": model, "image_size": side, "classes": 1000, **settings}, batch


# Beside the published counts, BERT has its layer of two classes, and GPT-2 47 words that pad its
# vocabulary. Nobody gives DeepSpeech 2, WaveNet or this mixture to the last parameter: those hold
# the recipes to the plans in docs/plans.
CASES = {
    "resnet50": (*photographs("resnet50"), 25_557_032),
    "vgg16": (*photographs("vgg16"), 138_357_544),
    "inception_v3": (*photographs("inception_v3", 299), 27_161_264),
    "vit_l16": (*photographs("vit_l16", **SCANNED), 304_326_632),
    "bert_large": ("sentiment", {"size": "large", **SCANNED}, None, 335_141_888 + 2 * 1025),
    "gpt2_1.5b": ("gpt", {"size": "1.5b"}, None, 1_557_611_200 + 47 * 1600),
    "deepspeech2": ("speech", {"size": "published"}, None, 146_082_237),
    # 10 digits are given to 30 layers of 512.
    "wavenet": ("wavenet", {"size": "published"}, None, 30_054_912 + 10 * 512 * 30),
    "mixture": ("moe", {"size": "large"}, None, 973_923_840),
}


def built(name):
    """The objective of a case, and what a batch of it looks like."""
    file, settings, batch, _ = CASES[name]
    example = load(EXAMPLES / f"{file}.py")
    recipe = example.build(example.config(**settings))
    return recipe.objective, batch or recipe.train.spec


@pytest.mark.parametrize("name", CASES)
def test_parameters(name):
    objective, batch = built(name)
    key = jax.eval_shape(lambda: jax.random.key(0))
    params, _ = jax.eval_shape(objective.init, key, batch)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == CASES[name][-1]


def test_only_a_vit_of_imagenet_is_scanned():
    example = load(EXAMPLES / "imagenet.py")
    for settings in ({"remat": "full"}, {"scan_layers": True}):
        with pytest.raises(ConfigError, match="leave both out"):
            example.build(example.config(model="resnet18", **settings))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "published"), [("vgg16", 15.47e9), ("inception_v3", 5.713e9), ("vit_l16", 61.555e9)]
)
def test_forward_multiply_adds(name, published):
    """What the planner counts of one image is what torchvision's table of models has."""
    objective, batch = built(name)
    key = jax.eval_shape(lambda: jax.random.key(0))
    params, model_state = jax.eval_shape(objective.init, key, batch)
    forward = functools.partial(objective.loss, train=False)
    flops = count_flops(forward, params, model_state, batch, key)
    assert flops.total / 2 == pytest.approx(published, rel=1e-3)
