"""The names of VGG and Inception v3 are torchvision's: counts, shapes, and there and back."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import models, weights


def drawn(model, side):
    """Random variables of a model."""
    rng = np.random.default_rng(0)
    x = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    return jax.tree.map(lambda s: rng.random(s.shape, np.float32), shapes)


def test_vgg_has_the_names_of_torchvision():
    model = models.vgg16_bn(width=2, hidden_dim=8, num_classes=3)
    variables = drawn(model, 32)
    tensors = weights.named(variables, model)
    layers = {int(name.split(".")[1]) for name in tensors if name.startswith("features")}
    convolutions = [0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40]
    assert layers == {*convolutions, *(place + 1 for place in convolutions)}
    assert tensors["classifier.0.weight"].shape == (8, 16 * 49)
    assert tensors["classifier.6.weight"].shape == (3, 8)
    # Their input of the first dense layer is flattened channels first.
    kernel = variables["params"]["dense_0"]["kernel"].reshape(7, 7, 16, 8)
    np.testing.assert_array_equal(
        np.asarray(tensors["classifier.0.weight"]).reshape(8, 16, 7, 7)[5, 4, 3, 2],
        kernel[3, 2, 4, 5],
    )
    plain = models.vgg11(width=2, hidden_dim=8)
    tensors = weights.named(drawn(plain, 32), plain)
    places = {n.split(".")[1] for n in tensors if n.startswith("features")}
    assert places == {"0", "3", "6", "8", "11", "13", "16", "18"}


# Of torchvision's models/inception.py: the shapes of some layers, [out, in, height, width].
SHAPES = {
    "Conv2d_4a_3x3.conv.weight": (192, 80, 3, 3),
    "Mixed_5b.branch5x5_2.conv.weight": (64, 48, 5, 5),
    "Mixed_5c.branch_pool.conv.weight": (64, 256, 1, 1),
    "Mixed_6a.branch3x3.conv.weight": (384, 288, 3, 3),
    "Mixed_6a.branch3x3dbl_3.conv.weight": (96, 96, 3, 3),
    "Mixed_6b.branch7x7_2.conv.weight": (128, 128, 1, 7),
    "Mixed_6b.branch7x7_3.conv.weight": (192, 128, 7, 1),
    "Mixed_6c.branch7x7dbl_2.conv.weight": (160, 160, 7, 1),
    "Mixed_6e.branch7x7dbl_5.conv.weight": (192, 192, 1, 7),
    "Mixed_7a.branch3x3_2.conv.weight": (320, 192, 3, 3),
    "Mixed_7a.branch7x7x3_3.conv.weight": (192, 192, 7, 1),
    "Mixed_7b.branch3x3_2a.conv.weight": (384, 384, 1, 3),
    "Mixed_7c.branch3x3_2b.conv.weight": (384, 384, 3, 1),
    "Mixed_7c.branch3x3dbl_2.conv.weight": (384, 448, 3, 3),
    "Mixed_7c.branch3x3dbl_3b.conv.weight": (384, 384, 3, 1),
    "AuxLogits.conv1.conv.weight": (768, 128, 5, 5),
    "AuxLogits.fc.weight": (7, 768),
    "fc.weight": (7, 2048),
    "Mixed_7b.branch_pool.bn.running_var": (192,),
}


@pytest.mark.slow
def test_inception_has_the_names_of_torchvision():
    model = models.inception_v3(num_classes=7)
    variables = drawn(model, 75)
    tensors = weights.named(variables, model)
    # 96 convolutions with their BatchNorm, and two dense layers.
    assert len(tensors) == 96 * 5 + 4
    assert {name: tensors[name].shape for name in SHAPES} == SHAPES
    pattern = r"(Conv2d_\d[ab]_\dx\d|Mixed_\d[a-e]\.\w+|AuxLogits\.conv[01])\.(conv|bn)\.\w+"
    assert all(re.fullmatch(pattern, n) or ".fc." in f".{n}" for n in tensors)
    back = weights.convert(tensors, into=model)
    jax.tree.map(np.testing.assert_array_equal, back, variables)
    # A file with the second head goes into a model without.
    plain = weights.convert(tensors, into=models.inception_v3(num_classes=7, auxiliary=False))
    assert "auxiliary_head" not in plain["params"]
