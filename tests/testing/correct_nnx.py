"""Correct steps, in the idioms of Flax NNX."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from zoo import CLASSES, FEATURES, correct, unmasked


class Model(nnx.Module):
    def __init__(self, rngs: nnx.Rngs, dropout: float = 0.0, norm: bool = False):
        self.first = nnx.Linear(FEATURES, 8, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs) if norm else None
        self.dropout = nnx.Dropout(dropout, rngs=rngs) if dropout else None
        self.second = nnx.Linear(8, CLASSES, rngs=rngs)

    def __call__(self, x):
        x = self.first(x)
        x = nnx.relu(x if self.norm is None else self.norm(x))
        return self.second(x if self.dropout is None else self.dropout(x))


def loss_fn(model, batch):
    logits = model(batch["x"])
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()
    return loss, logits


def functional(*models, tx, step):
    """``nnx.split`` and ``nnx.merge`` around a ``jax.jit``, as in the performance guide."""
    optimizer = nnx.Optimizer(models[0], tx, wrt=nnx.Param)
    graphdef, state = nnx.split((*models, optimizer))

    @jax.jit
    def train_step(state, batch):
        parts = nnx.merge(graphdef, state)
        metrics = step(*parts, batch)
        return nnx.state(parts), metrics

    return {"step": train_step, "batches": unmasked(), "state": state}


def plain(model, optimizer, batch):
    (loss, logits), grads = nnx.value_and_grad(loss_fn, has_aux=True)(model, batch)
    optimizer.update(model, grads)
    return {"loss": loss, "accuracy": jnp.mean(jnp.argmax(logits, -1) == batch["label"])}


@correct
def split_and_merge_around_jit():
    return functional(Model(nnx.Rngs(0)), tx=optax.adam(1e-2), step=plain)


@correct
def dropout_whose_stream_counts():
    return functional(Model(nnx.Rngs(0, dropout=1), dropout=0.5), tx=optax.adam(1e-2), step=plain)


@correct
def batch_norm_in_training():
    return functional(Model(nnx.Rngs(0), norm=True), tx=optax.sgd(0.1, momentum=0.9), step=plain)


@correct
def metrics_that_add_up_in_the_state():
    def step(model, metrics, optimizer, batch):
        (loss, logits), grads = nnx.value_and_grad(loss_fn, has_aux=True)(model, batch)
        metrics.update(loss=loss, logits=logits, labels=batch["label"])
        optimizer.update(model, grads)
        return {"loss": loss}

    metrics = nnx.MultiMetric(accuracy=nnx.metrics.Accuracy(), loss=nnx.metrics.Average("loss"))
    return functional(Model(nnx.Rngs(0)), metrics, tx=optax.adam(1e-2), step=step)


@correct
def a_graph_definition_within_the_state():
    @jax.jit
    def train_step(state, batch):
        model, optimizer = nnx.merge(*state)
        metrics = plain(model, optimizer, batch)
        return nnx.split((model, optimizer)), metrics

    model = Model(nnx.Rngs(0), dropout=0.2)
    state = nnx.split((model, nnx.Optimizer(model, optax.adamw(1e-3), wrt=nnx.Param)))
    return {"step": train_step, "batches": unmasked(), "state": state}


@correct
def parameters_and_the_rest_split_by_filters():
    model = Model(nnx.Rngs(0), norm=True)
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    tx = optax.adam(1e-2)

    def loss_of(params, rest, batch):
        model = nnx.merge(graphdef, params, rest, copy=True)
        loss, _ = loss_fn(model, batch)
        return loss, nnx.state(model, nnx.Not(nnx.Param))

    @jax.jit
    def train_step(state, batch):
        grads_of = jax.value_and_grad(loss_of, has_aux=True)
        (loss, rest), grads = grads_of(state["params"], state["rest"], batch)
        updates, opt_state = tx.update(grads, state["opt_state"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        return {"params": params, "rest": rest, "opt_state": opt_state}, {"loss": loss}

    start = {"params": params, "rest": rest, "opt_state": tx.init(params)}
    return {"step": train_step, "batches": unmasked(), "state": start}


@correct
def a_function_around_nnx_jit():
    @nnx.jit
    def train(model, optimizer, batch):
        loss, grads = nnx.value_and_grad(lambda m: loss_fn(m, batch)[0])(model)
        optimizer.update(model, grads)
        return loss

    model = Model(nnx.Rngs(0))
    graphdef, start = nnx.split((model, nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)))

    def step(state, batch):
        # Without jax.jit around it, the step would write into the variables of the old state.
        model, optimizer = nnx.merge(graphdef, state, copy=True)
        loss = train(model, optimizer, batch)
        return nnx.state((model, optimizer)), {"loss": loss}

    return {"step": step, "batches": unmasked(), "state": start}
