"""What the edges of placement do: odd batches, the words of a refusal, and who waits for whom."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import jaxdl
from jaxdl.errors import BatchError, DonationError, LayoutError, RecompileError
from jaxdl.layouts import single
from jaxdl.placement.guard import leaf_bytes
from jaxdl.protocols import Aux, Mean, Objective
from jaxdl.reductions import masked_sum


def loss(params, model_state, batch, key, *, train):
    total, weight = masked_sum(batch["x"] @ params, batch.get("mask"))
    return total, Aux(weight, model_state, {}, batch["x"] @ params)


OBJECTIVE = Objective(lambda key, batch: (jax.random.normal(key, (3,)), {}), loss)
PURE = jaxdl.make_train_step(OBJECTIVE, optax.sgd(0.1))


def batch(rows: int = 8) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(rows).normal(size=(rows, 3)).astype(np.float32)}


def two():
    return jax.devices()[:2]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"s": np.array(["a"] * 8)}, "field 's' is <U1"),
        ({"s": np.array([None] * 8)}, "field 's' is object"),
        ({"s": np.float32(1.0)}, r"field 's' is float32\[\]"),
        ({"s": np.ones(9)}, r"\{'s': 9, 'x': 8\}"),
    ],
    ids=["text", "object", "scalar", "longer"],
)
def test_one_wrong_field_among_good_ones_is_named(more, message):
    with pytest.raises(BatchError, match=message):
        jaxdl.jit(PURE, devices=two()).put({**batch(), **more})


def test_booleans_and_whole_numbers_are_placed():
    given = {**batch(), "mask": np.ones(8, bool), "label": np.arange(8)}
    put = jaxdl.jit(PURE, devices=two()).put(given)
    assert [put[name].dtype.kind for name in given] == ["f", "b", "i"]


def test_a_host_batch_stays_where_it_is_for_one_cpu_device():
    given = batch()
    assert jaxdl.jit(PURE, layout=single()).put(given) is given
    placed = jaxdl.jit(PURE, devices=two()).put(given)
    assert len(placed["x"].sharding.device_set) == 2


def test_a_batch_of_which_a_part_lies_there_is_moved_whole():
    placed = jaxdl.jit(PURE, devices=two())
    there = placed.put(batch())["x"]
    both = placed.put({"x": there, "label": np.arange(8)})
    assert all(leaf.sharding == there.sharding for leaf in both.values())
    np.testing.assert_array_equal(both["x"], there)


def test_shapes_of_a_batch_are_those_of_all_hosts(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    placed = jaxdl.jit(PURE)
    shapes = {"x": jax.ShapeDtypeStruct((8, 3), np.float32)}
    assert placed.put(shapes)["x"].shape == (8, 3)
    with pytest.raises(LayoutError, match="12 rows does not divide over 8 devices"):
        placed.put({"x": jax.ShapeDtypeStruct((12, 3), np.float32)})


def test_a_size_once_masked_is_kept_and_may_grow():
    placed = jaxdl.jit(PURE, devices=two())
    shapes = [jax.tree.map(jnp.shape, placed.put(batch(rows))) for rows in (7, 4, 1, 8, 9)]
    assert [shape["x"][0] for shape in shapes] == [8, 8, 8, 8, 10]
    assert all(shape["mask"] == shape["x"][:1] for shape in shapes)


def test_a_size_that_divides_is_no_reason_for_a_mask():
    placed = jaxdl.jit(PURE, devices=two())
    assert [set(placed.put(batch(rows))) for rows in (8, 4)] == [{"x"}, {"x"}]
    with pytest.raises(LayoutError, match=r"multiple of 2, such as 4 or 6"):
        jaxdl.jit(PURE, devices=two(), pad=False).put(batch(5))


@pytest.mark.parametrize("place", [jaxdl.jit, jaxdl.pmap])
@pytest.mark.parametrize("seed", [0, 2**32 - 1, np.int64(7)])
def test_a_seed_is_the_key_of_that_seed(place, seed):
    step = place(PURE, devices=two())
    seeded, keyed = step.init(seed, batch()), step.init(jax.random.key(int(seed)), batch())
    np.testing.assert_array_equal(seeded.params, keyed.params)


def test_a_state_in_its_place_is_not_copied_and_any_other_is():
    step = jaxdl.jit(PURE, devices=two())
    state = step.init(0, batch())
    again = step.place(state)
    assert all(a is b for a, b in zip(*map(jax.tree.leaves, (again, state)), strict=True))
    one = jaxdl.jit(PURE, layout=single(), devices=jax.devices()[:1])
    moved = one.place(state)
    one(moved, batch())
    np.testing.assert_array_equal(step.place(jax.device_get(state)).params, state.params)
    assert not state.params.is_deleted()


def slowly(x):
    """Long enough to be seen at work."""
    return jax.lax.fori_loop(0, 3_000_000, lambda i, x: jnp.sin(x), x)


@pytest.mark.parametrize("place", [jaxdl.jit, jaxdl.pmap])
def test_calls_on_several_cpu_devices_wait_for_their_results(place):
    """Queued programs of virtual devices starve each other, which ends the process."""

    def update(state, batch, *, axis_name=None):
        total = slowly(jnp.sum(batch["x"]))
        total = total if axis_name is None else jax.lax.psum(total, axis_name)
        return {"w": state["w"] + total}, {"n": Mean(total, jnp.float32(1.0))}

    def measure(state, batch, *, axis_name=None):
        return update(state, batch, axis_name=axis_name)[1]

    pure = jaxdl.TrainStep(lambda key, batch: {"w": slowly(jax.random.uniform(key))}, update)
    step, evaluate = place(pure, devices=two()), place(measure, devices=two())
    state = step.init(0, batch())
    assert state["w"].is_ready()
    assert evaluate(state, batch())["n"].total.is_ready()
    assert step(state, batch())[1]["n"].total.is_ready()


def test_words_for_a_state_that_changed_and_for_a_batch_that_did():
    step = jaxdl.jit(PURE, devices=two())
    state, _ = step(step.init(0, batch()), batch())
    with pytest.raises(RecompileError, match="state/params: float32.* became") as caught:
        step(state.replace(params=jnp.ones(4)), batch())
    assert "step.place(state)" in caught.value.do
    with pytest.raises(RecompileError, match="batch/x: float32.* became") as caught:
        step(state, batch(16))
    assert "make every batch like the first" in caught.value.do
    assert "recompile='allow'" in caught.value.do
    with pytest.raises(RecompileError) as caught:
        step(state, {**batch(), "mask": np.ones(8, np.float32)})
    assert "batch/mask: not there before" in str(caught.value)
    assert "data.pad_batch(batch, size)" in caught.value.do
    assert "batch/x" not in str(caught.value), "what did not change is not named"


def test_a_state_that_lies_elsewhere_is_named_by_its_places():
    step = jaxdl.jit(PURE, devices=two())
    state, _ = step(step.init(0, batch(6)), batch(6))
    wrong = state.replace(params=jax.device_put(jnp.ones((3,)), jax.devices()[1]))
    with pytest.raises(RecompileError, match=r"state/params: was placed as .* on 2 device\(s\)"):
        step(wrong, batch(6))


def test_a_state_by_hand_that_was_consumed_is_named_by_its_first_leaf():
    pure = jaxdl.TrainStep(
        init=lambda key, batch: {"w": jnp.ones(3)},
        update=lambda state, batch, *, axis_name=None: (
            {"w": state["w"] + jnp.sum(batch["x"])},
            {"n": Mean(jnp.sum(batch["x"]), 1.0)},
        ),
    )
    step = jaxdl.jit(pure, devices=two())
    state = step.init(0, batch())
    step(state, batch())
    with pytest.raises(DonationError, match="consumed by an earlier step: w is gone"):
        step(state, batch())


def test_warnings_of_the_trace_reach_the_user_once():
    def warning(params, model_state, batch, key, *, train):
        warnings.warn("from inside", UserWarning, stacklevel=1)
        return loss(params, model_state, batch, key, train=train)

    pure = jaxdl.make_train_step(OBJECTIVE._replace(loss=warning), optax.sgd(0.1))
    step = jaxdl.jit(pure, devices=two())
    state = step.init(0, batch())
    with pytest.warns(UserWarning, match="from inside"):
        step.compile(state, batch())


def test_bytes_of_a_leaf_are_those_of_one_device():
    key = jax.random.key(0)
    assert leaf_bytes(key) == jax.random.key_data(key).nbytes == 8
    assert leaf_bytes(jax.random.split(key, 6)) == 48
    assert leaf_bytes(np.ones((4, 3), np.float32)) == 48
    step = jaxdl.jit(PURE, devices=two())
    assert leaf_bytes(step.put(batch())["x"]) == 4 * 3 * 4
    abstract = jax.ShapeDtypeStruct((8,), np.int8, sharding=NamedSharding(step.mesh, P("data")))
    assert leaf_bytes(abstract) == 4


def test_an_eval_step_refuses_other_arguments_or_compiles_them():
    evaluate = jaxdl.make_eval_step(OBJECTIVE)
    state = jaxdl.jit(PURE, devices=two()).init(0, batch())
    strict = jaxdl.jit(evaluate, devices=two())
    assert strict.program is None
    strict(state, batch())
    assert strict.program is not None
    with pytest.raises(RecompileError, match=r"batch/x: float32\[8, 3\] became float32\[16, 3\]"):
        strict(state, batch(16))
    loose = jaxdl.jit(evaluate, devices=two(), recompile="allow")
    for rows in (8, 16, 8):
        assert float(loose(state, batch(rows))["loss"].weight) == rows


def test_a_step_passes_its_options_on():
    for place in (jaxdl.jit, jaxdl.pmap):
        loose = place(PURE, devices=two(), recompile="allow")
        state = loose.init(0, batch())
        for rows in (8, 16):
            state, sums = loose(state, batch(rows))
            assert float(sums["loss"].weight) == rows
        with pytest.raises(LayoutError, match="5 rows does not divide over 2"):
            place(PURE, devices=two(), pad=False).put(batch(5))


def test_a_mapped_state_is_stored_as_one_copy_with_its_key():
    step = jaxdl.pmap(PURE, devices=two())
    state, _ = step(step.init(0, batch()), batch())
    stored, one = step.logical(state), jaxdl.from_pmap_state(state)
    assert jax.random.key_data(stored.key).tolist() == jax.random.key_data(one.key).tolist()
    jax.tree.map(
        np.testing.assert_array_equal,
        stored.replace(key=None),
        jax.device_get(one.replace(key=None)),
    )
    abstract = step.abstract_state(batch())
    assert jax.tree.map(jnp.shape, abstract) == jax.tree.map(jnp.shape, stored)
    assert abstract.params.sharding.device_set == {jax.devices()[0]}
    back, _ = step(step.place(stored), batch())
    assert back.params.shape == (2, 3)
    assert step.put(batch())["x"].shape == (2, 4, 3)
    with pytest.raises(LayoutError, match="leading axis of 2 devices"):
        step.logical(stored)
