"""Placement: what a placed step accepts, pads, shards, donates and refuses."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

import jaxdl
from jaxdl.errors import BatchError, ConfigError, DonationError, LayoutError, RecompileError
from jaxdl.layouts import data_parallel, layout, single
from jaxdl.protocols import Aux, Mean, Objective
from jaxdl.reductions import masked_sum


def loss(params, model_state, batch, key, *, train):
    outputs = batch["x"] @ params["w"]
    total, weight = masked_sum((outputs - batch["y"]) ** 2, batch.get("mask"))
    return total, Aux(weight, model_state, {}, outputs)


OBJECTIVE = Objective(lambda key, batch: ({"w": jax.random.normal(key, (4,))}, {}), loss)
PURE = jaxdl.make_train_step(OBJECTIVE, optax.adam(0.1))


def batch(rows: int = 16) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(rows)
    return {
        "x": rng.normal(size=(rows, 4)).astype(np.float32),
        "y": rng.normal(size=(rows,)).astype(np.float32),
    }


@pytest.fixture(scope="module")
def step():
    return jaxdl.jit(PURE)


def test_state_is_sharded_from_birth_and_a_fixed_point(step):
    state = step.init(0, batch())
    new, sums = step(state, batch())
    assert step.mesh.shape == {"data": 8}
    for leaf in jax.tree.leaves((new, sums)):
        assert leaf.sharding.is_equivalent_to(step.shardings(new).step, leaf.ndim)
    assert float(sums["loss"].weight) == 16.0
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))


def test_seed_and_key_give_the_same_state(step):
    seeded, keyed = step.init(7, batch()), step.init(jax.random.key(7), batch())
    jax.tree.map(np.testing.assert_array_equal, seeded.params, keyed.params)
    assert not np.array_equal(seeded.params["w"], step.init(8, batch()).params["w"])


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seed_out_of_range(step, seed):
    with pytest.raises(ConfigError, match="the seed is"):
        step.init(seed, batch())


def test_consumed_state_is_named(step):
    state = step.init(0, batch())
    step(state, batch())
    with pytest.raises(DonationError, match="already consumed by an earlier step: step is gone"):
        step(state, batch())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda b: {**b, "x": b["x"].astype(np.float16)},
            r"batch/x: float32\[16, 4\] became float16",
        ),
        (lambda b: {**b, "z": b["y"]}, "batch/z: not there before"),
        (lambda b: {"x": b["x"]}, "batch/y: missing"),
        (lambda b: batch(24), r"batch/x: float32\[16, 4\] became float32\[24, 4\]"),
        (lambda b: batch(13), r"(.|\n)*mask: not there before(.|\n)*give every batch"),
    ],
)
def test_second_compile_names_what_changed(step, change, message):
    state, _ = step(step.init(0, batch()), batch())
    with pytest.raises(RecompileError, match=message):
        step(state, change(batch()))
    step(state, batch())


def test_state_of_another_shape_is_named(step):
    state, _ = step(step.init(0, batch()), batch())
    wrong = state.replace(params={"w": jnp.ones((5,))})
    with pytest.raises(RecompileError, match=r"state/params/w: float32\[4\] became float32\[5\]"):
        step(wrong, batch())


def test_recompile_allow_compiles_each_kind_once():
    placed = jaxdl.jit(PURE, layout=single(), recompile="allow")
    state = placed.init(0, batch())
    state, _ = placed(state, batch())
    first = placed.program
    state, _ = placed(state, batch(24))
    second = placed.program
    state, _ = placed(state, batch())
    assert placed.program is first
    placed(state, batch(24))
    assert placed.program is second


def test_first_batch_that_needs_padding_sets_the_size():
    placed = jaxdl.jit(PURE)
    state = placed.init(0, batch(13))
    for rows in (13, 16, 3):
        state, sums = placed(state, batch(rows))
        assert float(sums["loss"].weight) == rows


def test_put_is_idempotent_and_pads_with_real_rows(step):
    put = jaxdl.jit(PURE).put(batch(13))
    assert put["x"].shape == (16, 4)
    assert put["x"].sharding.spec == P(("data",))
    np.testing.assert_array_equal(put["mask"], [1] * 13 + [0] * 3)
    rows = {tuple(row) for row in batch(13)["x"]}
    assert all(tuple(row) in rows for row in np.asarray(put["x"]))
    assert step.put(step.put(batch())) is not None
    placed = step.put(batch())
    assert step.put(placed) is placed


def test_padding_off():
    placed = jaxdl.jit(PURE, pad=False)
    with pytest.raises(LayoutError, match=r"13 rows .* 8 devices(.|\n)*such as 8 or 16"):
        placed.put(batch(13))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"x": np.ones((4, 2)), "y": np.ones(3)}, r"numbers of rows: \{'x': 4, 'y': 3\}"),
        ({"x": 3.0}, "field 'x' is float"),
        ({"x": np.array(["a", "b"])}, "field 'x' is <U1"),
        ({"x": np.ones((0, 2))}, "numbers of rows: {'x': 0}"),
        ({}, "no fields"),
    ],
)
def test_batches_that_cannot_be_placed(step, wrong, message):
    with pytest.raises(BatchError, match=message):
        step.put(wrong)


def test_tuple_batch_trains_but_cannot_be_padded():
    def tuple_loss(params, model_state, batch, key, *, train):
        return loss(params, model_state, {"x": batch[0], "y": batch[1]}, key, train=train)

    pure = jaxdl.make_train_step(
        Objective(lambda key, b: ({"w": jnp.ones((4,))}, {}), tuple_loss), optax.sgd(0.1)
    )
    placed = jaxdl.jit(pure)
    state = placed.init(0, tuple(batch().values()))
    _, sums = placed(state, tuple(batch().values()))
    assert float(sums["loss"].weight) == 16.0
    with pytest.raises(BatchError, match="no place for a mask"):
        placed.put(tuple(batch(13).values()))


def test_step_made_by_hand_is_placed_too():
    pure = jaxdl.TrainStep(
        init=lambda key, batch: {"w": jnp.zeros((8, 4))},
        update=lambda state, batch, *, axis_name=None: (
            {"w": state["w"] + jnp.sum(batch["x"], 0, keepdims=True)},
            {"rows": Mean(jnp.sum(batch["x"]), 1.0)},
        ),
    )
    ruled = layout(mesh={"data": 4, "tensor": 2}, rules=[("w", P("tensor"))])
    placed = jaxdl.jit(pure, layout=ruled)
    state = placed.init(0, batch())
    state, _ = placed(state, batch())
    assert state["w"].sharding.spec == P("tensor")
    np.testing.assert_allclose(state["w"][3], batch()["x"].sum(0), rtol=1e-5)


def test_a_state_moves_between_meshes():
    two = jaxdl.jit(PURE, devices=jax.devices()[:2])
    eight = jaxdl.jit(PURE)
    state, _ = two(two.init(0, batch()), batch())
    host = jax.device_get(state.params)
    moved, _ = eight(eight.place(state), batch())
    expected, _ = two(state, batch())
    np.testing.assert_allclose(moved.params["w"], expected.params["w"], rtol=1e-6)
    assert not np.array_equal(host["w"], moved.params["w"])


def test_abstract_state_compiles_without_allocating(step):
    placed = jaxdl.jit(PURE)
    abstract = placed.abstract_state(batch())
    assert isinstance(abstract.params["w"], jax.ShapeDtypeStruct)
    placed.compile(abstract, batch())
    state, _ = placed(placed.init(0, batch()), batch())
    assert int(state.step) == 1


def test_eval_and_predict_are_placed_and_keep_the_state(step):
    state = step.init(0, batch())
    evaluate = jaxdl.jit(jaxdl.make_eval_step(OBJECTIVE), layout=data_parallel())
    predict = jaxdl.jit(jaxdl.make_predict_step(OBJECTIVE))
    expected = batch(13)["x"] @ np.asarray(state.params["w"])
    sums = evaluate(state, batch(13))
    report = jaxdl.report(jax.device_get(sums))
    assert report["loss"] == pytest.approx(np.mean((expected - batch(13)["y"]) ** 2), rel=1e-5)
    outputs = predict(state, batch(13))
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)
    again = predict(state, batch(16))
    assert again.shape == (16,)


def test_layout_that_needs_more_devices():
    with pytest.raises(LayoutError, match=r"do not fit 8 device\(s\)"):
        jaxdl.jit(PURE, layout=layout(mesh={"data": 16}))
