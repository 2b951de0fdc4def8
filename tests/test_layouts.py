"""Layouts: meshes, rules with reasons, and what does not divide."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import PartitionSpec as P

import jaxdl
from jaxdl.errors import LayoutError, PathError
from jaxdl.layouts import data_parallel, layout, nearest_sizes, single, state_shardings
from jaxdl.objectives import from_mean


def abstract_state():
    def init(key, batch):
        return {"dense": {"kernel": jnp.zeros((8, 4)), "bias": jnp.zeros((4,))}}

    objective = from_mean(lambda p, b: jnp.sum(p["dense"]["kernel"]), init)
    step = jaxdl.make_train_step(objective, optax.adam(1e-3), ema_decay=0.9)
    return jax.eval_shape(step.init, jax.random.key(0), {"x": jnp.zeros((2,))})


def test_meshes(devices):
    assert dict(data_parallel().make_mesh(devices).shape) == {"data": 8}
    assert dict(single().make_mesh(devices).shape) == {"data": 1}
    both = layout(mesh={"data": -1, "tensor": 2})
    assert dict(both.make_mesh(devices).shape) == {"data": 4, "tensor": 2}
    assert both.batch_shards(both.make_mesh(devices)) == 4


@pytest.mark.parametrize("mesh", [{"data": 3, "tensor": -1}, {"data": 16}, {"a": -1, "b": -1}])
def test_mesh_that_does_not_fit(devices, mesh):
    with pytest.raises(LayoutError, match=r"do not fit 8 device\(s\)"):
        layout(mesh=mesh, batch_axes=list(mesh)).make_mesh(devices)


def test_optimizer_state_and_average_follow_their_parameter(devices):
    ruled = layout(mesh={"data": 2, "tensor": 4}, rules=[("kernel$", P(None, "tensor"))])
    specs = jax.tree.map(
        lambda s: s.spec, state_shardings(ruled, ruled.make_mesh(devices), abstract_state())
    )
    kernel, bias = P(None, "tensor"), P()
    for tree in (specs.params, specs.ema, specs.opt_state[0].mu, specs.opt_state[0].nu):
        assert tree == {"dense": {"kernel": kernel, "bias": bias}}
    assert specs.opt_state[0].count == specs.step == specs.key == P()


def test_reasons():
    ruled = layout(mesh={"tensor": 1}, rules=[("kernel$", P("tensor"))])
    mesh = ruled.make_mesh(jax.devices())
    assert ruled.place("dense/kernel", (8, 4), mesh).reason == "rule 'kernel$'"
    assert "replicated" in ruled.place("dense/bias", (4,), mesh).reason


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (P("tensor"), r"splits dimension 0 \(8\) over axis 'tensor' of size 3"),
        (P(None, None, "tensor"), "at most 2 entries"),
        (P("model"), "names the mesh axis 'model'"),
    ],
)
def test_rules_that_cannot_hold(devices, spec, message):
    ruled = layout(mesh={"tensor": 3}, rules=[("kernel$", spec)])
    with pytest.raises(LayoutError, match=message):
        state_shardings(ruled, ruled.make_mesh(devices), abstract_state())


def test_rule_that_finds_no_parameter(devices):
    ruled = layout(mesh={"data": -1}, rules=[("kernle", P("data"))])
    with pytest.raises(PathError, match="matches no parameter"):
        state_shardings(ruled, ruled.make_mesh(devices), abstract_state())


def test_unknown_batch_axis():
    with pytest.raises(LayoutError, match="batch_axes names"):
        layout(mesh={"data": -1}, batch_axes=["rows"])


def test_nearest_sizes():
    assert nearest_sizes(50, 8) == "48 or 56"
