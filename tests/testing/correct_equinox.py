"""Correct steps, in the idioms of Equinox."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from zoo import CLASSES, FEATURES, correct, unmasked


def cross_entropy(model, batch):
    logits = jax.vmap(model)(batch["x"])
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()


@correct
def a_filtered_step_on_model_and_optimizer_state():
    optim = optax.adam(1e-2)

    @eqx.filter_jit
    def make_step(state, batch):
        model, opt_state = state
        loss, grads = eqx.filter_value_and_grad(cross_entropy)(model, batch)
        updates, opt_state = optim.update(grads, opt_state, eqx.filter(model, eqx.is_array))
        return (eqx.apply_updates(model, updates), opt_state), loss

    model = eqx.nn.MLP(FEATURES, CLASSES, 8, 2, key=jax.random.PRNGKey(0))
    start = (model, optim.init(eqx.filter(model, eqx.is_array)))
    return {"step": make_step, "batches": unmasked(), "state": start}


class Dropping(eqx.Module):
    first: eqx.nn.Linear
    norm: eqx.nn.LayerNorm
    dropout: eqx.nn.Dropout
    second: eqx.nn.Linear

    def __init__(self, key):
        one, two = jax.random.split(key)
        self.first = eqx.nn.Linear(FEATURES, 8, key=one)
        self.norm = eqx.nn.LayerNorm(8)
        self.dropout = eqx.nn.Dropout(p=0.3)
        self.second = eqx.nn.Linear(8, CLASSES, key=two)

    def __call__(self, x, key):
        return self.second(self.dropout(jax.nn.gelu(self.norm(self.first(x))), key=key))


def dropping_loss(model, batch, key):
    logits = jax.vmap(model)(batch["x"], jax.random.split(key, len(batch["x"])))
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()


@correct
def dropout_with_a_key_for_each_row():
    optim = optax.adamw(1e-2)

    @eqx.filter_jit(donate="all")
    def make_step(state, batch):
        model, opt_state, key = state
        key, subkey = jax.random.split(key)
        loss, grads = eqx.filter_value_and_grad(dropping_loss)(model, batch, subkey)
        updates, opt_state = optim.update(grads, opt_state, eqx.filter(model, eqx.is_inexact_array))
        return (eqx.apply_updates(model, updates), opt_state, key), {"loss": loss}

    model = Dropping(jax.random.key(0))
    start = (model, optim.init(eqx.filter(model, eqx.is_inexact_array)), jax.random.key(1))
    return {"step": make_step, "batches": unmasked(), "state": start}


class Normed(eqx.Module):
    first: eqx.nn.Linear
    norm: eqx.nn.BatchNorm
    second: eqx.nn.Linear

    def __init__(self, key):
        one, two = jax.random.split(key)
        self.first = eqx.nn.Linear(FEATURES, 8, key=one)
        self.norm = eqx.nn.BatchNorm(8, axis_name="batch", mode="batch")
        self.second = eqx.nn.Linear(8, CLASSES, key=two)

    def __call__(self, x, state):
        x, state = self.norm(self.first(x), state)
        return self.second(jax.nn.relu(x)), state


@correct
def batch_norm_with_the_state_of_the_model():
    optim = optax.adam(1e-2)

    def compute_loss(model, state, batch):
        over = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
        logits, state = over(batch["x"], state)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()
        return loss, state

    @eqx.filter_jit
    def make_step(carried, batch):
        model, state, opt_state = carried
        grads_of = eqx.filter_value_and_grad(compute_loss, has_aux=True)
        (loss, state), grads = grads_of(model, state, batch)
        updates, opt_state = optim.update(grads, opt_state)
        return (eqx.apply_updates(model, updates), state, opt_state), {"loss": loss}

    model, state = eqx.nn.make_with_state(Normed)(jax.random.key(0))
    start = (model, state, optim.init(eqx.filter(model, eqx.is_inexact_array)))
    return {"step": make_step, "batches": unmasked(), "state": start}


@correct
def partitioned_around_plain_jit_with_a_frozen_layer():
    optim = optax.adam(1e-2)
    model = eqx.nn.MLP(FEATURES, CLASSES, 8, 1, key=jax.random.key(0))
    chosen = jax.tree.map(lambda _: False, model)
    chosen = eqx.tree_at(
        lambda m: (m.layers[-1].weight, m.layers[-1].bias), chosen, replace=(True, True)
    )
    trained, fixed = eqx.partition(model, chosen)

    @jax.jit
    def step(state, batch):
        def loss_fn(trained):
            return cross_entropy(eqx.combine(trained, fixed), batch)

        loss, grads = jax.value_and_grad(loss_fn)(state["params"])
        updates, opt_state = optim.update(grads, state["opt_state"])
        params = eqx.apply_updates(state["params"], updates)
        return {"params": params, "opt_state": opt_state}, {"loss": loss}

    start = {"params": trained, "opt_state": optim.init(trained)}
    return {"step": step, "batches": unmasked(), "state": start}


class TrainState(eqx.Module):
    model: eqx.Module
    opt_state: optax.OptState
    step: jax.Array
    key: jax.Array


@correct
def a_module_is_the_whole_state():
    optim = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1))

    @eqx.filter_jit
    def train_step(state, batch):
        key = jax.random.fold_in(state.key, state.step)
        loss, grads = eqx.filter_value_and_grad(dropping_loss)(state.model, batch, key)
        params = eqx.filter(state.model, eqx.is_inexact_array)
        updates, opt_state = optim.update(grads, state.opt_state, params)
        model = eqx.apply_updates(state.model, updates)
        return TrainState(model, opt_state, state.step + 1, state.key), {"loss": loss}

    model = Dropping(jax.random.key(0))
    opt_state = optim.init(eqx.filter(model, eqx.is_inexact_array))
    start = TrainState(model, opt_state, jnp.asarray(0), jax.random.key(1))
    return {"step": train_step, "batches": unmasked(), "state": start}


@correct
def an_ensemble_of_modules():
    optim = optax.adam(1e-2)

    @eqx.filter_vmap
    def make(key):
        return eqx.nn.MLP(FEATURES, CLASSES, 4, 1, key=key)

    @eqx.filter_jit
    def make_step(state, batch):
        models, opt_state = state

        @eqx.filter_value_and_grad
        def loss_fn(models):
            return eqx.filter_vmap(cross_entropy, in_axes=(eqx.if_array(0), None))(
                models, batch
            ).sum()

        loss, grads = loss_fn(models)
        updates, opt_state = optim.update(grads, opt_state)
        return (eqx.apply_updates(models, updates), opt_state), {"loss": loss}

    models = make(jax.random.split(jax.random.key(0), 3))
    start = (models, optim.init(eqx.filter(models, eqx.is_array)))
    return {"step": make_step, "batches": unmasked(), "state": start}
