"""Broken steps, in the idioms of Linen, NNX, Optax and Equinox."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from correct_equinox import Normed, cross_entropy
from correct_nnx import Model, loss_fn
from flax import nnx
from flax.training import train_state
from zoo import CLASSES, FEATURES, animal, batches, descend, plain_loss, sgd, state, unmasked


class MLP(nn.Module):
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x, train=True):
        x = nn.Dense(8)(x)
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9, axis_name=self.axis_name)(x)
        return nn.Dense(CLASSES)(nn.relu(x))


class TrainState(train_state.TrainState):
    batch_stats: Any = None
    ema: Any = None


def started(**more):
    model = MLP()
    variables = model.init(jax.random.key(0), jnp.ones((1, FEATURES)))
    params, stats = variables["params"], variables["batch_stats"]
    tx = optax.adam(1e-2)
    return TrainState.create(apply_fn=model.apply, params=params, tx=tx, batch_stats=stats, **more)


def mean_loss(logits, batch):
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()


def normed(old, batch, model=None, **options):
    """Loss, new statistics and gradients of a model with BatchNorm."""
    apply = old.apply_fn if model is None else model.apply

    def loss(params):
        variables = {"params": params, "batch_stats": old.batch_stats}
        logits, new = apply(variables, batch["x"], mutable=["batch_stats"], **options)
        return mean_loss(logits, batch), new["batch_stats"]

    (value, stats), grads = jax.value_and_grad(loss, has_aux=True)(old.params)
    return value, stats, grads


@animal("statistics-not-updated")
def batch_norm_uses_running_averages_in_training(mended):
    def step(old, batch):
        value, stats, grads = normed(old, batch, train=mended)
        return old.apply_gradients(grads=grads, batch_stats=stats), {"loss": value}

    return {"step": jax.jit(step), "batches": unmasked(), "state": started()}


@animal("statistics-not-updated")
def new_batch_statistics_are_dropped(mended):
    def step(old, batch):
        value, stats, grads = normed(old, batch)
        more = {"batch_stats": stats} if mended else {}
        return old.apply_gradients(grads=grads, **more), {"loss": value}

    return {"step": jax.jit(step), "batches": unmasked(), "state": started()}


@animal("mapped-differs")
def batch_norm_knows_no_mapped_axis(mended):
    def step(old, batch, axis_name=None):
        model = MLP(axis_name=axis_name if mended else None)
        value, stats, grads = normed(old, batch, model)
        if axis_name is not None:
            value, grads = jax.lax.pmean((value, grads), axis_name)
        return old.apply_gradients(grads=grads, batch_stats=stats), {"loss": value}

    return {"step": step, "batches": unmasked(), "state": started()}


@animal("step-not-counted")
def a_state_is_replaced_and_its_step_is_not(mended):
    def step(old, batch):
        value, stats, grads = normed(old, batch)
        updates, opt_state = old.tx.update(grads, old.opt_state, old.params)
        params = optax.apply_updates(old.params, updates)
        new = old.replace(params=params, opt_state=opt_state, batch_stats=stats)
        return new.replace(step=old.step + 1) if mended else new, {"loss": value}

    return {"step": jax.jit(step), "batches": unmasked(), "state": started()}


@animal("average-not-updated")
def an_average_is_started_and_left(mended):
    def step(old, batch):
        value, stats, grads = normed(old, batch)
        new = old.apply_gradients(grads=grads, batch_stats=stats)
        if mended:
            new = new.replace(ema=optax.incremental_update(new.params, old.ema, 0.1))
        return new, {"loss": value}

    start = started()
    return {"step": jax.jit(step), "batches": unmasked(), "state": start.replace(ema=start.params)}


def fitted(update):
    """A pair of parameters and Adam's state, moved by ``update(tx, grads, opt_state, params)``."""
    tx = optax.adam(1e-2)

    def step(old, batch):
        params, opt_state = old
        value, grads = jax.value_and_grad(plain_loss)(params, batch)
        updates, opt_state = update(tx, grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), {"loss": value}

    params = state()["params"]
    return {"step": jax.jit(step), "batches": batches(), "state": (params, tx.init(params))}


@animal("optimizer-state-forgotten")
def the_optimizer_is_initialised_in_the_step(mended):
    def update(tx, grads, opt_state, params):
        return tx.update(grads, opt_state if mended else tx.init(params), params)

    return fitted(update)


@animal("optimizer-updated-twice")
def the_optimizer_is_updated_twice(mended):
    def update(tx, grads, opt_state, params):
        if not mended:
            _, opt_state = tx.update(grads, opt_state, params)
        return tx.update(grads, opt_state, params)

    return fitted(update)


@animal("params-not-carried")
def the_parameters_of_a_closure_are_trained(mended):
    first = state()["params"]

    def step(old, batch):
        params = old["params"] if mended else first
        value, grads = jax.value_and_grad(plain_loss)(params, batch)
        return {"params": descend(params, grads)}, {"loss": value}

    return {"step": step, "batches": batches(), "state": {"params": first}}


@animal("key-reused")
def the_key_that_was_used_is_kept(mended):
    def step(old, batch):
        key, sub = jax.random.split(old["key"])
        used = sub if mended else key
        x = batch["x"] + 0.1 * jax.random.normal(used, batch["x"].shape)
        value, grads = jax.value_and_grad(plain_loss)(old["params"], {**batch, "x": x})
        return {"params": descend(old["params"], grads), "key": key}, {"loss": value}

    start = {"params": state()["params"], "key": jax.random.PRNGKey(0)}
    return {"step": step, "batches": batches(), "state": start}


@animal("state-not-fixed")
def a_chosen_rate_has_no_dtype(mended):
    def step(old, batch):
        value, grads = jax.value_and_grad(plain_loss)(old["params"], batch)
        rate = jnp.where(value > 1.0, 0.1, 0.01)
        rate = rate.astype(jnp.float32) if mended else rate
        return {"params": descend(old["params"], grads, old["rate"]), "rate": rate}, {"loss": value}

    start = {"params": state()["params"], "rate": jnp.full((), 0.1, jnp.float32)}
    return {"step": jax.jit(step), "batches": batches(), "state": start}


@animal("key-not-folded")
def the_counts_of_random_streams_are_dropped(mended):
    graphdef, params, rest = nnx.split(Model(nnx.Rngs(0), dropout=0.5), nnx.Param, ...)

    @jax.jit
    def step(old, batch):
        def loss(params):
            model = nnx.merge(graphdef, params, old["rest"], copy=True)
            value, _ = loss_fn(model, batch)
            return value, nnx.state(model, nnx.Not(nnx.Param))

        (value, rest), grads = jax.value_and_grad(loss, has_aux=True)(old["params"])
        params = jax.tree.map(lambda p, g: p - 0.1 * g, old["params"], grads)
        return {"params": params, "rest": rest if mended else old["rest"]}, {"loss": value}

    return {"step": step, "batches": unmasked(), "state": {"params": params, "rest": rest}}


@animal("recompiles")
def a_filtered_step_counts_in_python(mended):
    tx = optax.sgd(0.1, momentum=0.9)

    @eqx.filter_jit
    def step(old, batch):
        model, opt_state, count = old
        value, grads = eqx.filter_value_and_grad(cross_entropy)(model, batch)
        updates, opt_state = tx.update(grads, opt_state)
        return (eqx.apply_updates(model, updates), opt_state, count + 1), {"loss": value}

    model = eqx.nn.MLP(FEATURES, CLASSES, 4, 1, key=jax.random.key(0))
    count = jnp.zeros((), jnp.int32) if mended else 0
    start = (model, tx.init(eqx.filter(model, eqx.is_array)), count)
    return {"step": step, "batches": unmasked(), "state": start}


@animal("statistics-not-updated")
def the_state_of_a_module_s_batch_norm_is_dropped(mended):
    tx = optax.sgd(0.1)

    def loss(model, stats, batch):
        over = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
        logits, stats = over(batch["x"], stats)
        return mean_loss(logits, batch), stats

    @eqx.filter_jit
    def step(old, batch):
        model, stats = old
        grads_of = eqx.filter_value_and_grad(loss, has_aux=True)
        (value, new), grads = grads_of(model, stats, batch)
        updates, _ = tx.update(grads, tx.init(eqx.filter(model, eqx.is_array)))
        return (eqx.apply_updates(model, updates), new if mended else stats), {"loss": value}

    start = eqx.nn.make_with_state(Normed)(jax.random.key(0))
    return {"step": step, "batches": unmasked(), "state": start}


@animal("key-shared-by-devices")
def every_device_drops_the_same(mended):
    def step(old, batch, axis_name=None):
        key, sub = jax.random.split(old["key"])
        if axis_name is not None and mended:
            sub = jax.random.fold_in(sub, jax.lax.axis_index(axis_name))
        rows = {**batch, "x": batch["x"] * jax.random.bernoulli(sub, 0.5, batch["x"].shape)}
        value, grads = jax.value_and_grad(plain_loss)(old["params"], rows)
        if axis_name is not None:
            value, grads = jax.lax.pmean((value, grads), axis_name)
        return {"params": descend(old["params"], grads), "key": key}, {"loss": value}

    start = {"params": state()["params"], "key": jax.random.key(0)}
    return {"step": step, "batches": batches(), "state": start}


@animal("leaked-tracer")
def positions_are_cached_while_traced(mended):
    table = {}

    def positions():
        if mended:
            return jnp.sin(jnp.arange(FEATURES, dtype=jnp.float32))
        if "sin" not in table:
            table["sin"] = jnp.sin(jnp.arange(FEATURES, dtype=jnp.float32))
        return table["sin"]

    def loss(params, rows, key):
        return plain_loss(params, {**rows, "x": rows["x"] + positions()[None]})

    return {"step": sgd(loss), "batches": batches(), "state": state()}


@animal("never-trained")
def updates_are_made_and_not_applied(mended):
    tx = optax.adam(1e-2)

    @eqx.filter_jit
    def step(old, batch):
        model, opt_state = old
        value, grads = eqx.filter_value_and_grad(cross_entropy)(model, batch)
        updates, opt_state = tx.update(grads, opt_state)
        new = eqx.apply_updates(model, updates)
        return (new if mended else model, opt_state), {"loss": value}

    model = eqx.nn.MLP(FEATURES, CLASSES, 4, 1, key=jax.random.key(0))
    start = (model, tx.init(eqx.filter(model, eqx.is_array)))
    return {"step": step, "batches": unmasked(), "state": start}
