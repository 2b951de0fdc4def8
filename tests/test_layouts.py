"""Layouts: meshes, rules with reasons, and what does not divide."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import jaxdl
from jaxdl import losses, models
from jaxdl.errors import LayoutError, PathError
from jaxdl.layouts import (
    Layout,
    data_parallel,
    explain,
    fsdp,
    layout,
    nearest_sizes,
    single,
    state_placings,
    state_shardings,
    tensor_parallel,
    zero1,
)
from jaxdl.models.mlp import tensor_rules
from jaxdl.objectives import from_mean


def abstract_state(optimizer=None, kernel=(8, 4)):
    def init(key, batch):
        return {"dense": {"kernel": jnp.zeros(kernel), "bias": jnp.zeros((4,))}}

    objective = from_mean(lambda p, b: jnp.sum(p["dense"]["kernel"]), init)
    step = jaxdl.make_train_step(objective, optimizer or optax.adam(1e-3), ema_decay=0.9)
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


def by_path(chosen: Layout, state, count: int = 8):
    placings = state_placings(chosen, chosen.abstract_mesh(count), state)
    return dict(zip(jaxdl.tree_paths.leaf_paths(state), placings, strict=True))


@pytest.mark.parametrize(
    ("shape", "spec", "reason"),
    [
        ((64, 512), P(None, "fsdp"), "fsdp: dimension 1 of 512 over 8"),
        ((64, 513), P("fsdp"), "fsdp: dimension 0 of 64 over 8"),
        ((512, 512), P("fsdp"), "fsdp: dimension 0 of 512 over 8"),
        ((5, 5, 128, 64), P(None, None, "fsdp"), "fsdp: dimension 2 of 128 over 8"),
        ((63, 513), P(), "no dimension divides by 8: replicated"),
        ((8, 8), P(), "small: 64 elements, replicated"),
        ((), P(), "small: 1 element, replicated"),
        ((0, 8), P(), "small: 0 elements, replicated"),
    ],
)
def test_fsdp_divides_the_largest_dimension_that_divides(shape, spec, reason):
    assert fsdp().place("w", shape, fsdp().abstract_mesh(8)) == (spec, reason)


@given(
    shape=st.lists(st.integers(0, 40), max_size=4).map(tuple),
    count=st.sampled_from([1, 2, 3, 6, 8]),
    min_size=st.sampled_from([0, 1, 64]),
)
def test_fsdp_takes_any_shape(shape, count, min_size):
    chosen = fsdp(min_size=min_size)
    mesh = chosen.abstract_mesh(count)
    spec, reason = chosen.place("w", shape, mesh)
    part = NamedSharding(mesh, spec).shard_shape(shape)
    divided = reason.startswith("fsdp: ")
    assert np.prod(part) * (count if divided else 1) == np.prod(shape)
    assert divided == any(spec)


def test_fsdp_with_an_outer_axis(devices):
    chosen = fsdp(data=2)
    mesh = chosen.make_mesh(devices)
    assert dict(mesh.shape) == {"data": 2, "fsdp": 4}
    assert chosen.batch_shards(mesh) == 8
    assert chosen.place("w", (512, 64), mesh) == (P("fsdp"), "fsdp: dimension 0 of 512 over 4")


def test_zero1_divides_the_optimizer_state_alone():
    placed = by_path(zero1(min_size=32), abstract_state())
    assert placed["params/dense/kernel"].spec == P()
    assert "only the optimizer state" in placed["params/dense/kernel"].reason
    for path in ("opt_state/0/mu/dense/kernel", "opt_state/0/nu/dense/kernel", "ema/dense/kernel"):
        assert placed[path] == (P("data"), "data: dimension 0 of 8 over 8")
    assert placed["ema/dense/bias"] == (P(), "as dense/bias")


def test_fsdp_after_a_rule():
    chosen = layout(
        mesh={"fsdp": 4, "tensor": 2},
        rules=[("kernel$", P(None, "tensor")), ("bias$", P("tensor"))],
        shard_axis="fsdp",
        min_size=32,
    )
    placed = by_path(chosen, abstract_state())
    reason = "rule 'kernel$'; fsdp: dimension 0 of 8 over 4"
    assert placed["params/dense/kernel"] == (P("fsdp", "tensor"), reason)
    assert placed["opt_state/0/mu/dense/kernel"] == (P("fsdp", "tensor"), "as dense/kernel")
    assert placed["params/dense/bias"] == (P("tensor"), "rule 'bias$'; small: 4 elements")
    assert placed["step"] == placed["key"] == (P(), "no parameter: replicated")


def test_a_rule_that_names_the_shard_axis_is_left_alone():
    chosen = layout(mesh={"fsdp": 4}, rules=[("w", P(None, "fsdp"))], shard_axis="fsdp", min_size=1)
    placing = chosen.place("w", (512, 64), chosen.abstract_mesh(4))
    assert placing == (P(None, "fsdp"), "rule 'w'")


def test_statistics_of_their_own_shape_are_divided_by_size():
    adafactor = optax.adafactor(1e-3, min_dim_size_to_factor=16)
    state = abstract_state(adafactor, kernel=(128, 64))
    placed = by_path(fsdp(min_size=64), state)
    assert placed["params/dense/kernel"].spec == P("fsdp")
    own = {path: p for path, p in placed.items() if "v_row/dense/kernel" in path}
    assert own
    assert all(p == (P("fsdp"), "fsdp: dimension 0 of 64 over 8") for p in own.values())
    replicated = by_path(data_parallel(), state)
    assert all(replicated[path].reason == "no parameter's shape: replicated" for path in own)


def test_parameters_that_are_one_array():
    state = abstract_state()
    alone = state.replace(
        params=jax.ShapeDtypeStruct((512, 64), jnp.float32),
        opt_state={"mu": jax.ShapeDtypeStruct((512, 64), jnp.float32)},
        ema=None,
    )
    placed = by_path(fsdp(), alone)
    assert placed["params"].spec == placed["opt_state/mu"].spec == P("fsdp")


def test_rules_of_the_mlp():
    assert tensor_rules((10,)) == ()
    patterns = [pattern for pattern, _ in tensor_rules((128, 64, 10))]
    assert not any("dense_2" in pattern for pattern in patterns)
    chosen = tensor_parallel(tensor_rules((30, 10)), tensor=4)
    with pytest.raises(LayoutError, match=r"dense_0/kernel of shape \[8, 30\] does not divide"):
        chosen.place("dense_0/kernel", (8, 30), chosen.abstract_mesh(8))


@pytest.mark.parametrize("chosen", [data_parallel(), fsdp(min_size=1), zero1(min_size=1), single()])
def test_explained_bytes_are_those_of_the_shards(devices, chosen):
    state = abstract_state()
    told = explain(state, chosen)
    shardings = jax.tree.leaves(state_shardings(chosen, chosen.make_mesh(devices), state))
    real = [
        jax.device_put(jnp.zeros(leaf.shape, leaf.dtype), sharding).addressable_shards[0].data
        for leaf, sharding in zip(jax.tree.leaves(state), shardings, strict=True)
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    ]
    key_bytes = 8
    assert told.total == sum(shard.nbytes for shard in real) + key_bytes


def test_explanation_is_an_aligned_table():
    told = explain(abstract_state(), fsdp(min_size=32), devices=8)
    header, rule, *rows, last_rule, total = str(told).splitlines()
    assert header.split() == ["path", "shape", "spec", "reason", "bytes", "per", "device"]
    assert set(rule) == set(last_rule) == {"-"}
    assert len({len(line) for line in (header, rule, *rows, total)}) == 1
    assert len(rows) == len(told.rows)
    assert total.startswith("total")
    assert total.endswith(f"{told.total:,}")
    kernel = told.rows[[row.path for row in told.rows].index("params/dense/kernel")]
    reason = "fsdp: dimension 0 of 8 over 8"
    assert kernel == ("params/dense/kernel", (8, 4), P("fsdp"), reason, 16)


def test_explained_for_more_devices_than_there_are():
    told = explain({"w": jax.ShapeDtypeStruct((1024, 256), jnp.bfloat16)}, fsdp(), devices=256)
    assert told.mesh == (("fsdp", 256),)
    assert told.total == 1024 * 256 * 2 // 256


def test_unknown_shard_axis():
    with pytest.raises(LayoutError, match="shard_axis names 'fdsp'"):
        layout(mesh={"fsdp": -1}, shard_axis="fdsp")
    by_hand = Layout(axes=(("data", -1),), batch_axes=("data",), shard_axis="fsdp")
    with pytest.raises(LayoutError, match="divides arrays over the axis 'fsdp'"):
        by_hand.place("w", (512, 512), by_hand.abstract_mesh(8))


def test_the_table_in_the_guide_is_what_is_printed():
    objective = jaxdl.supervised(models.MLP((128, 64, 10)), losses.softmax_cross_entropy)
    step = jaxdl.make_train_step(objective, optax.sgd(0.1, momentum=0.9))
    batch = {"image": np.zeros((8, 28, 28, 1), np.float32), "label": np.zeros(8, np.int32)}
    state = jax.eval_shape(step.init, jax.random.key(0), batch)
    guide = Path(__file__).parents[1] / "docs" / "layouts.md"
    assert str(explain(state, fsdp(), devices=8)) in guide.read_text()
