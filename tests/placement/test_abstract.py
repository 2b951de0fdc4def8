"""Placed steps of shapes alone: traced and compiled with no array in memory."""

from __future__ import annotations

import jax
import numpy as np
import optax
import pytest

import jaxdl
from jaxdl import losses, models
from jaxdl.errors import LayoutError

SHAPES = {
    "image": jax.ShapeDtypeStruct((32, 4, 4, 1), np.float32),
    "label": jax.ShapeDtypeStruct((32,), np.int32),
}


def placed(devices, layout=None):
    objective = jaxdl.supervised(models.MLP((16, 10)), losses.softmax_cross_entropy)
    pure = jaxdl.make_train_step(objective, optax.adam(1e-2))
    return jaxdl.jit(pure, layout=layout, devices=devices)


def test_shapes_give_the_program_of_a_batch(devices):
    abstract, real = placed(devices), placed(devices)
    program = abstract.compile(abstract.abstract_state(SHAPES), SHAPES)
    batch = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), SHAPES)
    state = real.init(0, batch)
    lowered = abstract.trace(abstract.abstract_state(SHAPES), SHAPES).lower()
    assert lowered.as_text() == real.trace(state, batch).lower().as_text()
    # It takes the arrays that the other step made.
    state, _ = program(state, real.put(batch))
    assert int(state.step) == 1


def test_shapes_come_back_with_shardings(devices):
    step = placed(devices)
    put = step.put(SHAPES)
    assert {name: leaf.shape for name, leaf in put.items()} == {
        name: leaf.shape for name, leaf in SHAPES.items()
    }
    assert all(leaf.sharding.num_devices == 8 for leaf in put.values())


def test_trace_is_the_update(devices):
    step = placed(devices)
    state = step.abstract_state(SHAPES)
    traced = step.trace(state, SHAPES)
    expected = jax.make_jaxpr(step.pure.update)(state, SHAPES)
    assert str(traced.jaxpr.out_avals) == str(expected.out_avals)
    assert "dot_general" in str(traced.jaxpr)


@pytest.mark.parametrize("rows", [1, 12, 31])
def test_shapes_cannot_be_padded(devices, rows):
    shapes = {
        name: jax.ShapeDtypeStruct((rows, *leaf.shape[1:]), leaf.dtype)
        for name, leaf in SHAPES.items()
    }
    with pytest.raises(LayoutError, match=f"a batch of {rows} rows does not divide over 8"):
        placed(devices).put(shapes)
