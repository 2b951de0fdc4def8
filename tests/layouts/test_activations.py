"""Where activations lie: what a model says, what a layout makes of it, and where it is silent."""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.extend.core import jaxprs_in_params
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

import jaxdl
from jaxdl import gradients, losses, models
from jaxdl.layouts import (
    Layout,
    activation_rules,
    data_parallel,
    fsdp,
    layout,
    sequence,
    single,
    tensor_parallel,
)
from jaxdl.models import constrain
from jaxdl.models.activations import activations_on
from jaxdl.models.mlp import tensor_rules
from jaxdl.objectives import from_mean, from_nnx, language_model
from jaxdl.tpu import read_collectives

U = P.UNCONSTRAINED
HIDDEN_RULE = ((r"kernel$", P(None, "tensor")),)
VOCABULARY, TIME = 32, 16


def specs(function: Any, *shapes: tuple[int, ...]) -> list[P]:
    """The spec of each constraint in a function's program."""
    return specs_of(jax.make_jaxpr(function)(*(jnp.zeros(shape) for shape in shapes)).jaxpr)


def specs_of(program: Any) -> list[P]:
    found: list[P] = []

    def walk(jaxpr: Any) -> None:
        for eqn in jaxpr.eqns:
            if eqn.primitive.name == "sharding_constraint":
                found.append(eqn.params["sharding"].spec)
            for inner in jaxprs_in_params(eqn.params):
                walk(inner)

    walk(program)
    return found


def named(chosen: Layout, *names: str | None, shape: tuple[int, ...]) -> list[P]:
    mesh = chosen.make_mesh(jax.devices())

    def function(x: Any) -> Any:
        with activations_on(mesh, activation_rules(chosen, mesh)):
            return constrain(x, names)

    return specs(function, shape)


def test_names_become_axes(devices):
    chosen = layout(mesh={"data": 2, "sequence": 2, "tensor": 2}, rules=HIDDEN_RULE)
    assert named(chosen, "batch", "time", "features", shape=(4, 6, 3)) == [
        P("data", "sequence", None)
    ]
    assert named(chosen, "batch", "keys", "heads", None, shape=(4, 6, 2, 5)) == [
        P("data", None, "tensor", U)
    ]


def test_what_does_not_divide_is_left_to_the_compiler(devices):
    chosen = layout(mesh={"data": 2, "sequence": 2, "tensor": 2}, rules=HIDDEN_RULE)
    assert named(chosen, "batch", "time", "hidden", shape=(3, 4, 5)) == [P(U, "sequence", U)]
    # An axis divides one dimension of an array.
    assert named(chosen, "hidden", "heads", shape=(4, 4)) == [P("tensor", U)]
    # Nothing to say: no constraint at all.
    assert named(chosen, "batch", "unheard of", None, shape=(3, 4, 4)) == []
    assert named(chosen, shape=()) == []


@settings(max_examples=10)
@given(
    shape=st.lists(st.integers(0, 9), min_size=1, max_size=4),
    names=st.lists(st.sampled_from(["batch", "time", "hidden", "heads", "keys", None]), min_size=4),
)
def test_any_shape_with_any_names_keeps_its_values(shape, names):
    chosen = layout(mesh={"data": 2, "sequence": 2, "tensor": 2}, rules=HIDDEN_RULE)
    mesh = chosen.make_mesh(jax.devices())
    x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)

    def function(x: Any) -> Any:
        with activations_on(mesh, activation_rules(chosen, mesh)):
            return constrain(x, names[: len(shape)])

    np.testing.assert_array_equal(jax.jit(function)(x), x)


def test_a_name_for_each_dimension():
    with pytest.raises(ValueError, match=r"2 names for shape \[3\]"):
        constrain(jnp.zeros(3), ("batch", "time"))


def test_identity_outside_of_a_placed_step():
    x = jnp.zeros((8, 4))
    assert constrain(x, ("batch", "features")) is x
    assert specs(lambda x: constrain(x, ("batch", "features")), (8, 4)) == []
    assert named(single(), "batch", "features", shape=(8, 4)) == []


def test_identity_where_axes_are_mapped(devices):
    chosen = data_parallel()
    mesh = chosen.make_mesh(devices)

    def function(x: Any) -> Any:
        with activations_on(mesh, activation_rules(chosen, mesh)):
            inner = partial(constrain, names=("batch", "features"))
            return jax.shard_map(inner, mesh=mesh, in_specs=P("data"), out_specs=P("data"))(x)

    assert specs(function, (16, 4)) == []
    np.testing.assert_array_equal(jax.jit(function)(jnp.ones((16, 4))), jnp.ones((16, 4)))


def test_a_mapped_dimension_is_left_to_the_compiler(devices):
    chosen = data_parallel()
    mesh = chosen.make_mesh(devices)

    def function(x: Any) -> Any:
        with activations_on(mesh, activation_rules(chosen, mesh)):
            return jax.vmap(lambda row: constrain(row, ("batch", "features")))(x)

    assert specs(function, (3, 8, 4)) == [P(U, "data", None)]
    # One row at a time, as a gradient of each example is taken: nothing to divide.
    assert specs(function, (8, 1, 4)) == [P(U, U, None)]


@jax.jit
def jitted_once(x: Any) -> Any:
    return constrain(x, ("batch", "features")) * 2.0


def test_a_function_jitted_once_is_traced_for_each_place(devices):
    """JAX keeps the program of an inner ``jit``: it must not carry a mesh out of the step."""

    def loss(params: Any, batch: Any) -> Any:
        return jnp.mean(jitted_once(batch["x"]) @ params["w"])

    def init(key: Any, batch: Any) -> Any:
        return {"w": jnp.ones((4,))}

    pure = jaxdl.make_train_step(from_mean(loss, init), optax.sgd(0.1))
    batch = {"x": np.ones((8, 4), np.float32)}
    for chosen in (data_parallel(), fsdp(data=2), single()):
        step = jaxdl.jit(pure, layout=chosen)
        state, _ = step(step.init(0, batch), batch)
        np.testing.assert_allclose(state.params["w"], 0.8, rtol=1e-6)
        assert jitted_once(jnp.ones((2, 4))).sharding.device_set == {jax.devices()[0]}


def test_a_step_may_map_over_a_mesh_of_its_own(devices):
    """Its mesh is other than the layout's, which JAX's context mesh would not allow."""
    own = Mesh(np.asarray(devices).reshape(2, 4), ("x", "y"))

    def total(x: Any) -> Any:
        return jax.lax.psum(jnp.sum(x), ("x", "y"))

    def loss(params: Any, batch: Any) -> Any:
        x = constrain(batch["x"], ("batch", "features"))
        mapped = jax.shard_map(total, mesh=own, in_specs=P(("x", "y")), out_specs=P())
        return mapped(x) * jnp.mean(params["w"])

    def init(key: Any, batch: Any) -> Any:
        return {"w": jnp.ones((4,))}

    pure = jaxdl.make_train_step(from_mean(loss, init), optax.sgd(1.0))
    step = jaxdl.jit(pure, layout=data_parallel())
    batch = {"x": np.ones((8, 4), np.float32)}
    state, _ = step(step.init(0, batch), batch)
    np.testing.assert_allclose(state.params["w"], 1.0 - 32.0 / 4)


class Own(nn.Module):
    """A user's module that says where its hidden features lie, or does not."""

    says: bool

    @nn.compact
    def __call__(self, x: Any, *, train: bool = False) -> Any:
        x = nn.relu(nn.Dense(64, name="dense_0")(x))
        if self.says:
            x = constrain(x, ("batch", "hidden"))
        x = nn.Dense(64, name="dense_1")(x)
        if self.says:
            x = constrain(x, ("batch", "features"))
        return nn.Dense(4, name="dense_2")(x)


def images(rows: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "image": rng.normal(size=(rows, 64)).astype(np.float32),
        "label": rng.integers(0, 4, rows).astype(np.int32),
    }


def compiled(objective: Any, chosen: Layout, batch: Any, **options: Any) -> tuple[Any, Any]:
    pure = jaxdl.make_train_step(objective, optax.sgd(0.1, momentum=0.9), **options)
    step = jaxdl.jit(pure, layout=chosen)
    state = step.init(0, batch)
    return step, step(state, batch)[0]


def program_of(objective: Any, chosen: Layout, batch: Any) -> Any:
    """The update's program, with nothing allocated."""
    step = jaxdl.jit(jaxdl.make_train_step(objective, optax.sgd(0.1, momentum=0.9)), layout=chosen)
    return step.compile(step.abstract_state(batch), batch)


def gathered(program: Any) -> int:
    found = read_collectives(program.as_text())
    return sum(each.bytes * each.times for each in found if each.kind == "all-gather")


def test_a_users_module_opts_in(devices):
    batch = images(8)
    seen = {}
    for says in (False, True):
        objective = jaxdl.supervised(Own(says), losses.softmax_cross_entropy)
        seen[says] = compiled(objective, fsdp(min_size=64), batch)
    assert_near(seen[False][1].params, seen[True][1].params)
    # One row on each device: left alone, the compiler moves activations and not weights.
    weights = (64 * 64 + 64 * 64 + 64 * 4 + 64 + 64) * 4
    assert gathered(seen[True][0].program) == weights
    assert gathered(seen[False][0].program) != weights


def assert_near(got: Any, expected: Any, tolerance: float = 1e-6) -> None:
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        scale = max(float(jnp.abs(b).max()), 1e-3)
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=0, atol=tolerance * scale)


@pytest.mark.slow
def test_an_nnx_module_opts_in_as_well(devices):
    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.first = nnx.Linear(64, 64, rngs=rngs)
            self.last = nnx.Linear(64, 4, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            return self.last(constrain(nnx.relu(self.first(x)), ("batch", "features")))

    objective = from_nnx(Net(nnx.Rngs(0)), losses.softmax_cross_entropy)
    batch = images(16)
    _, expected = compiled(objective, single(), batch)
    _, got = compiled(objective, fsdp(min_size=64), batch)
    assert_near(got.params, expected.params)


def decoder(**options: Any) -> Any:
    sizes: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "num_layers": 2,
        "num_heads": 2,
        "hidden_dim": 16,
        "max_length": TIME,
    }
    return models.GPT(**{**sizes, **options})


def tokens(rows: int, time: int = TIME) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {"tokens": rng.integers(0, VOCABULARY, (rows, time + 1)).astype(np.int32)}


@pytest.mark.slow
@pytest.mark.parametrize("estimator", [gradients.accumulate(2), gradients.reproducible(shards=8)])
def test_estimators_that_cut_the_batch(devices, estimator):
    objective = language_model(decoder(num_layers=1))
    _, expected = compiled(objective, single(), tokens(16), gradient=estimator)
    _, got = compiled(objective, sequence(2), tokens(16), gradient=estimator)
    assert_near(got.params, expected.params)


@pytest.mark.parametrize(
    ("estimator", "constrained"),
    [
        (gradients.mean(), True),
        (gradients.accumulate(2), True),
        # Its shards are one and the same program wherever they run: no word of a mesh in it.
        (gradients.reproducible(shards=8), False),
    ],
)
def test_a_step_is_constrained_but_for_one_that_is_mapped(devices, estimator, constrained):
    pure = jaxdl.make_train_step(
        language_model(decoder(num_layers=1)), optax.sgd(0.1), gradient=estimator
    )
    step = jaxdl.jit(pure, layout=data_parallel())
    state = step.abstract_state(tokens(16))
    assert bool(specs_of(step.trace(state, tokens(16)).jaxpr.jaxpr)) == constrained


@pytest.mark.slow
@pytest.mark.parametrize("time", [15, 13])
def test_rows_that_do_not_divide_along_time_are_computed_whole(devices, time):
    objective = language_model(decoder(num_layers=1))
    _, expected = compiled(objective, single(), tokens(4, time))
    step, got = compiled(objective, sequence(4), tokens(4, time))
    assert_near(got.params, expected.params)
    assert gathered(step.program) == 0


def test_sequence_gathers_keys_and_values_and_nothing_else(devices):
    rows, time, width, layers = 2, 128, 32, 2
    model = decoder(num_layers=layers, hidden_dim=width, max_length=time)
    program = program_of(language_model(model), sequence(4), tokens(rows, time))
    found = [c for c in read_collectives(program.as_text()) if c.kind == "all-gather"]
    whole = rows // 2 * time * width * 4
    # And the gradient of the positions, once, which is as large with one row on a device.
    assert len(found) == 2 * layers + 1
    assert {each.bytes for each in found} == {whole}
    attention = [each for each in found if "attention/sharding_constraint" in each.op_name]
    assert len(attention) == 2 * layers


@pytest.mark.slow
def test_sequence_divides_the_memory_of_activations(devices):
    """Two rows on eight devices: divided by rows, six devices compute padding."""
    model = decoder(hidden_dim=32, max_length=256)
    objective, batch = language_model(model), tokens(2, 256)
    temporary = {
        name: program_of(objective, chosen, batch).memory_analysis().temp_size_in_bytes
        for name, chosen in {"data": data_parallel(), "sequence": sequence(4)}.items()
    }
    assert temporary["sequence"] < 0.4 * temporary["data"]


@pytest.mark.slow
def test_predictions_along_a_divided_row(devices):
    model = decoder()
    batch = {"tokens": tokens(4)["tokens"][:, :-1]}
    variables = model.init(jax.random.key(0), batch["tokens"])

    def logits(state: Any, batch: Any) -> Any:
        return model.apply({"params": state}, batch["tokens"])

    expected = logits(variables["params"], batch)
    placed = jaxdl.jit(logits, layout=sequence(4))
    got = placed(variables["params"], batch)
    np.testing.assert_allclose(np.asarray(got), np.asarray(expected), atol=1e-6)
    assert "all-gather" in placed.program.as_text()


def test_a_tensor_parallel_pair_is_not_gathered_between_its_layers(devices):
    features = (64, 64, 4)
    objective = jaxdl.supervised(models.MLP(features), losses.softmax_cross_entropy)
    chosen = tensor_parallel(tensor_rules(features), tensor=4)
    assert gathered(program_of(objective, chosen, images(16))) == 0
