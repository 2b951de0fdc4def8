"""An estimator's memory: joined to the optimizer's state, parted from it, and handed on by name."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdl
from jaxdl import gradients
from jaxdl.gradients.remembering import WithMemory, bind, joined, parted, warn_unscaled
from jaxdl.objectives import from_mean, with_precision
from jaxdl.protocols import Aux, Objective


class Counting:
    """An estimator that counts the steps that were taken and those that were not."""

    def __call__(self, objective):
        def gradient(params, model_state, batch, key, *, memory):
            return jax.grad(
                lambda p: objective.loss(p, model_state, batch, key, train=True), has_aux=True
            )(params)

        return gradient

    def begin(self):
        return {"good": jnp.int32(0), "bad": jnp.int32(0)}

    def after(self, memory, finite):
        return {
            "good": memory["good"] + finite.astype(jnp.int32),
            "bad": memory["bad"] + (~finite).astype(jnp.int32),
        }

    def sums(self, memory):
        return {"good_before": memory["good"]}


def test_joined_and_parted_are_inverse():
    counting, plain = Counting(), gradients.mean()
    assert isinstance(counting, gradients.Remembering)
    assert joined(plain, "state") == "state"
    assert parted(plain, "state") == ("state", None)
    begun = joined(counting, "state")
    assert begun == WithMemory("state", counting.begin())
    assert joined(counting, "state", "memory") == WithMemory("state", "memory")
    assert parted(counting, WithMemory("state", "memory")) == ("state", "memory")


def test_a_memory_moves_on_from_good_steps_and_from_skipped_ones():
    objective = from_mean(lambda p, b: jnp.mean(p * b["x"]), lambda k, b: jnp.ones(()))
    step = jaxdl.make_train_step(objective, optax.sgd(0.5), gradient=Counting())
    good, bad = {"x": np.ones(4, np.float32)}, {"x": np.full(4, np.nan, np.float32)}
    state, seen = step.init(jax.random.key(0), good), []
    for batch in (good, bad, good):
        state, sums = step.update(state, batch)
        seen.append((int(sums["good_before"]), int(sums["skipped"]), float(state.params)))
    assert seen == [(0, 0, 0.5), (1, 1, 0.5), (1, 0, 0.0)]
    assert jax.device_get(state.opt_state.gradient) == {"good": 2, "bad": 1}


def test_a_gradient_is_handed_what_it_asks_for():
    def asking(params, model_state, batch, key, *, memory, shards=0):
        return memory, shards

    def silent(params, model_state, batch, key):
        return "nothing"

    assert bind(asking, "memory", None)(1, 2, 3, 4) == ("memory", 1)
    assert bind(silent, "memory", None)(1, 2, 3, 4) == "nothing"
    sizes = jax.vmap(lambda _: bind(asking, 0, "data")(1, 2, 3, 4)[1], axis_name="data")
    np.testing.assert_array_equal(sizes(jnp.zeros(3)), [3, 3, 3])


@pytest.mark.parametrize(
    ("precision", "gradient", "warned"),
    [
        ("f16", gradients.mean(), True),
        ("f16", gradients.scaled(), False),
        ("f16", gradients.scaled(scale=8.0), False),
        ("bf16", gradients.mean(), False),
        (None, gradients.mean(), False),
    ],
    ids=["f16", "f16-scaled", "f16-fixed", "bf16", "f32"],
)
def test_float16_without_a_scale_is_warned_of(precision, gradient, warned):
    objective = from_mean(lambda p, b: jnp.mean(p * b["x"]), lambda k, b: jnp.ones(()))
    chosen = objective if precision is None else with_precision(objective, precision)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_unscaled(chosen, gradient)
    assert len(caught) == warned
    assert all("without a loss scale" in str(w.message) for w in caught)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        jaxdl.make_train_step(chosen, optax.sgd(0.1), gradient=gradient)
    assert len(caught) == warned


def test_a_fixed_scale_of_a_batch_of_one_number():
    """A batch may be a number: it has room for one example."""

    def loss(params, model_state, batch, key, *, train):
        return params * batch, Aux(1.0, model_state, {})

    gradient = gradients.scaled(scale=64.0)(Objective(None, loss))
    grads, aux = gradient(jnp.float32(2.0), {}, jnp.float32(3.0), None)
    assert float(grads) == 3.0
    assert aux.weight == 1.0


@pytest.mark.parametrize(
    ("rows", "shards", "mask", "room"),
    [(8, 1, None, 8), (4, 2, None, 8), (3, 1, None, 4), (4, 1, (4, 6), 32), (2, 2, (2, 8), 32)],
    ids=["whole", "half", "rounded", "tokens", "tokens-half"],
)
def test_the_scale_is_that_of_the_mean_over_all_that_the_batch_has_room_for(
    rows, shards, mask, room
):
    seen = []

    def loss(params, model_state, batch, key, *, train):
        weight = float(rows) if mask is None else jnp.sum(batch["mask"])
        return params * jnp.float32(3.0), Aux(weight, model_state, {})

    def watching(objective):
        def gradient(params, model_state, batch, key):
            seen.append(float(objective.loss(params, model_state, batch, key, train=True)[0]))
            return gradients.mean()(objective)(params, model_state, batch, key)

        return gradient

    batch = {"x": jnp.ones((rows, 2))} | ({} if mask is None else {"mask": jnp.ones(mask)})
    gradient = gradients.scaled(watching, scale=1024.0)(Objective(None, loss))
    grads, _ = gradient(jnp.float32(1.0), {}, batch, None, shards=shards)
    assert seen == [3.0 * 1024.0 / room]
    assert float(grads) == 3.0
