"""Correct steps, as those write them who use JAX alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.example_libraries import optimizers, stax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from zoo import CLASSES, FEATURES, batches, correct, unmasked


def init_mlp(key, sizes=(FEATURES, 8, CLASSES)):
    keys = jax.random.split(key, len(sizes) - 1)
    return [
        (jax.random.normal(k, (m, n)) * (2 / m) ** 0.5, jnp.zeros(n))
        for k, m, n in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]


def predict(params, x):
    for w, b in params[:-1]:
        x = jax.nn.relu(x @ w + b)
    w, b = params[-1]
    return x @ w + b


def cross_entropy(params, batch):
    logs = jax.nn.log_softmax(predict(params, batch["x"]))
    return -jnp.mean(jnp.sum(jax.nn.one_hot(batch["label"], CLASSES) * logs, axis=-1))


@correct
def parameters_in_a_list_are_the_whole_state():
    @jax.jit
    def update(params, batch):
        loss, grads = jax.value_and_grad(cross_entropy)(params, batch)
        return [
            (w - 0.1 * dw, b - 0.1 * db) for (w, b), (dw, db) in zip(params, grads, strict=True)
        ], loss

    return {"step": update, "batches": unmasked(), "state": init_mlp(jax.random.PRNGKey(0))}


@correct
def a_dictionary_with_momentum_and_a_raw_key():
    def loss_fn(params, batch, key):
        keep = jax.random.bernoulli(key, 0.8, batch["x"].shape)
        return cross_entropy(params, {**batch, "x": jnp.where(keep, batch["x"] / 0.8, 0)})

    @jax.jit
    def step(state, batch):
        key, dropout_key = jax.random.split(state["key"])
        loss, grads = jax.value_and_grad(loss_fn)(state["params"], batch, dropout_key)
        velocity = jax.tree.map(lambda v, g: 0.9 * v + g, state["velocity"], grads)
        params = jax.tree.map(lambda p, v: p - 0.05 * v, state["params"], velocity)
        return {"params": params, "velocity": velocity, "key": key}, {"loss": loss}

    params = init_mlp(jax.random.PRNGKey(0))
    zeros = jax.tree.map(jnp.zeros_like, params)
    start = {"params": params, "velocity": zeros, "key": jax.random.PRNGKey(1)}
    return {"step": step, "batches": unmasked(), "state": start}


class State(NamedTuple):
    weights: Any
    iteration: Any
    rng: Any


@correct
def a_named_tuple_whose_key_is_folded_with_the_iteration():
    def step(state, batch):
        rng = jax.random.fold_in(state.rng, state.iteration)
        noise = 0.1 * jax.random.normal(rng, batch["x"].shape)
        loss, grads = jax.value_and_grad(cross_entropy)(
            state.weights, {**batch, "x": batch["x"] + noise}
        )
        weights = jax.tree.map(lambda w, g: w - 0.1 * g, state.weights, grads)
        return State(weights, state.iteration + 1, state.rng), {"train_loss": loss}

    start = State(init_mlp(jax.random.key(0)), jnp.zeros((), jnp.int32), jax.random.key(1))
    return {"step": step, "batches": unmasked(), "state": start}


@partial(jax.tree_util.register_dataclass, data_fields=["params", "step"], meta_fields=["lr"])
@dataclass
class Training:
    params: Any
    step: Any
    lr: float


@correct
def a_registered_dataclass_with_a_decaying_rate():
    @partial(jax.jit, donate_argnums=0)
    def step(training, batch):
        loss, grads = jax.value_and_grad(cross_entropy)(training.params, batch)
        rate = training.lr / jnp.sqrt(1.0 + training.step)
        params = jax.tree.map(lambda p, g: p - rate * g, training.params, grads)
        metrics = {"loss": loss, "rate": rate}
        return Training(params, training.step + 1, training.lr), metrics

    start = Training(init_mlp(jax.random.key(0)), jnp.zeros((), jnp.int32), 0.1)
    return {"step": step, "batches": unmasked(), "state": start}


@correct
def the_example_optimizers_and_stax():
    init_fun, apply_fun = stax.serial(
        stax.Dense(8), stax.Relu, stax.Dense(CLASSES), stax.LogSoftmax
    )
    opt_init, opt_update, get_params = optimizers.momentum(0.05, mass=0.9)

    def loss(params, batch):
        targets = jax.nn.one_hot(batch["label"], CLASSES)
        return -jnp.mean(jnp.sum(apply_fun(params, batch["x"]) * targets, axis=1))

    @jax.jit
    def update(state, batch):
        i, opt_state = state
        value, grads = jax.value_and_grad(loss)(get_params(opt_state), batch)
        return (i + 1, opt_update(i, grads, opt_state)), value

    _, params = init_fun(jax.random.PRNGKey(0), (-1, FEATURES))
    return {"step": update, "batches": unmasked(), "state": (0, opt_init(params))}


@correct
def microbatches_in_a_scan_summed_by_their_masks():
    def sums(params, part):
        logs = jax.nn.log_softmax(predict(params, part["x"]))
        picked = jnp.take_along_axis(logs, part["label"][:, None], axis=1)[:, 0]
        return -jnp.sum(picked * part["mask"]), jnp.sum(part["mask"])

    def step(state, batch):
        parts = jax.tree.map(lambda x: x.reshape(4, -1, *x.shape[1:]), batch)

        def body(carry, part):
            (loss, count), grads = jax.value_and_grad(sums, has_aux=True)(state["params"], part)
            return jax.tree.map(jnp.add, carry, (loss, count, grads)), None

        zeros = jax.tree.map(jnp.zeros_like, state["params"])
        start = (jnp.zeros(()), jnp.zeros((), jnp.int32), zeros)
        (loss, count, grads), _ = jax.lax.scan(body, start, parts)
        count = jnp.maximum(count, 1)
        params = jax.tree.map(lambda p, g: p - 0.1 * g / count, state["params"], grads)
        return {"params": params}, {"loss": loss / count}

    start = {"params": init_mlp(jax.random.key(0))}
    return {"step": step, "batches": batches(), "state": start}


@correct
def a_vmapped_ensemble_with_a_key_for_each_member():
    def member(params, key, batch):
        keep = jax.random.bernoulli(key, 0.8, batch["x"].shape)
        x = jnp.where(keep, batch["x"] / 0.8, 0)
        loss, grads = jax.value_and_grad(cross_entropy)(params, {**batch, "x": x})
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), loss

    @jax.jit
    def step(state, batch):
        keys = jax.vmap(jax.random.split)(state["keys"])
        params, losses = jax.vmap(member, in_axes=(0, 0, None))(state["params"], keys[:, 1], batch)
        return {"params": params, "keys": keys[:, 0]}, {"loss": losses.mean()}

    params = jax.vmap(init_mlp)(jax.random.split(jax.random.key(0), 3))
    start = {"params": params, "keys": jax.random.split(jax.random.key(1), 3)}
    return {"step": step, "batches": unmasked(), "state": start}


@correct
def computing_in_bfloat16_with_masters_in_float32():
    def loss_fn(params, batch):
        half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
        logits = predict(half, batch["x"].astype(jnp.bfloat16)).astype(jnp.float32)
        logs = jax.nn.log_softmax(logits)
        losses = -jnp.take_along_axis(logs, batch["label"][:, None], axis=1)[:, 0]
        return jnp.sum(losses * batch["mask"]) / jnp.maximum(jnp.sum(batch["mask"]), 1)

    def step(state, batch):
        loss, grads = jax.value_and_grad(loss_fn)(state["params"], batch)
        params = jax.tree.map(lambda p, g: p - 0.1 * g, state["params"], grads)
        return {"params": params}, {"loss": loss}

    start = {"params": init_mlp(jax.random.key(0))}
    return {"step": step, "batches": batches(), "state": start}


@jax.custom_vjp
def clipped(x):
    return x


clipped.defvjp(lambda x: (x, None), lambda _, g: (jnp.clip(g, -0.1, 0.1),))


@correct
def dropout_inside_remat_and_a_custom_gradient():
    @jax.checkpoint
    def block(w, x, key):
        h = jnp.tanh(x @ w)
        return jnp.where(jax.random.bernoulli(key, 0.9, h.shape), h / 0.9, 0)

    def loss_fn(params, batch, key):
        one, two = jax.random.split(key)
        h = block(params["two"], block(params["one"], batch["x"], one), two)
        return cross_entropy(params["head"], {**batch, "x": clipped(h)})

    def step(state, batch):
        key = jax.random.fold_in(state["key"], state["step"])
        loss, grads = jax.value_and_grad(loss_fn)(state["params"], batch, key)
        params = jax.tree.map(lambda p, g: p - 0.1 * g, state["params"], grads)
        return {**state, "params": params, "step": state["step"] + 1}, {"loss": loss}

    keys = jax.random.split(jax.random.key(0), 3)
    shape = (FEATURES, FEATURES)
    params = {
        "one": jax.random.normal(keys[0], shape),
        "two": jax.random.normal(keys[1], shape),
        "head": init_mlp(keys[2], (FEATURES, CLASSES)),
    }
    start = {"params": params, "step": jnp.zeros((), jnp.int32), "key": jax.random.key(1)}
    return {"step": step, "batches": unmasked(), "state": start}


@correct
def a_shard_mapped_step_that_averages_gradients():
    mesh = Mesh(np.array(jax.devices()[:2]), ("data",))
    whole, rows = PartitionSpec(), PartitionSpec("data")

    @jax.jit
    @partial(jax.shard_map, mesh=mesh, in_specs=(whole, rows), out_specs=(whole, whole))
    def step(params, batch):
        def loss_fn(params):
            return jax.lax.pmean(cross_entropy(params, batch), "data")

        loss, grads = jax.value_and_grad(loss_fn)(params)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), {"loss": loss}

    params = jax.device_put(init_mlp(jax.random.key(0)), NamedSharding(mesh, whole))
    return {"step": step, "batches": unmasked(), "state": params}


def averaging(params, batch, axis_name=None):
    loss, grads = jax.value_and_grad(cross_entropy)(params, batch)
    if axis_name is not None:
        loss, grads = jax.lax.pmean((loss, grads), axis_name)
    return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), {"loss": loss}


@correct
def gradients_averaged_over_a_mapped_axis_of_even_batches():
    return {"step": averaging, "batches": unmasked(), "state": init_mlp(jax.random.key(0))}


@correct
def dropout_of_each_device_under_a_mapped_axis():
    def step(state, batch, axis_name=None):
        key, dropout_key = jax.random.split(state["key"])
        if axis_name is not None:
            dropout_key = jax.random.fold_in(dropout_key, jax.lax.axis_index(axis_name))
        keep = jax.random.bernoulli(dropout_key, 0.8, batch["x"].shape)
        dropped = {**batch, "x": jnp.where(keep, batch["x"] / 0.8, 0)}
        params, metrics = averaging(state["params"], dropped, axis_name)
        return {"params": params, "key": key}, metrics

    start = {"params": init_mlp(jax.random.key(0)), "key": jax.random.key(1)}
    return {"step": step, "batches": unmasked(), "state": start}


@correct
def a_pmapped_step_on_a_replicated_state():
    devices = jax.devices()[:2]
    update = partial(averaging, axis_name="batch")
    step = jax.pmap(update, axis_name="batch", devices=devices)
    # flax.jax_utils.replicate names its axis otherwise: the second call would compile again.
    init = jax.pmap(init_mlp, axis_name="batch", devices=devices)
    replicated = init(jnp.stack([jax.random.PRNGKey(0)] * 2))
    rows = [jax.tree.map(lambda x: x.reshape(2, -1, *x.shape[1:]), each) for each in unmasked()]
    return {"step": step, "batches": rows, "state": replicated}


@correct
def a_recurrent_network_over_a_scan():
    def loss_fn(params, batch):
        def cell(h, token):
            return jnp.tanh(params["embed"][token] + h @ params["w"]), None

        h, _ = jax.lax.scan(cell, jnp.zeros((len(batch["tokens"]), 6)), batch["tokens"].T)
        return cross_entropy(params["head"], {"x": h, "label": batch["label"]})

    def step(params, batch):
        loss, grads = jax.value_and_grad(loss_fn)(params, batch)
        norm = jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(grads)))
        scale = jnp.minimum(1.0, 1.0 / (norm + 1e-6))
        return jax.tree.map(lambda p, g: p - scale * g, params, grads), {"loss": loss, "norm": norm}

    keys = jax.random.split(jax.random.key(0), 3)
    params = {
        "embed": jax.random.normal(keys[0], (11, 6)),
        "w": 0.3 * jax.random.normal(keys[1], (6, 6)),
        "head": init_mlp(keys[2], (6, CLASSES)),
    }
    rng = np.random.default_rng(0)
    rows = [
        {"tokens": np.arange(88).reshape(8, 11)[:, :5] % 11, "label": rng.integers(0, CLASSES, 8)}
        for _ in range(3)
    ]
    rows = [jax.tree.map(lambda x: x.astype(np.int32), each) for each in rows]
    return {"step": step, "batches": rows, "state": params}
