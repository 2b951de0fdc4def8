"""Correct steps: jaxdl's own; test_shelf_proved.py and test_recipes_proved.py prove its models."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from zoo import CLASSES, batches, correct

import jaxdl
from jaxdl import gradients, losses, metrics, models


def classifier(model=None, *, optimizer=None, **options):
    objective = jaxdl.supervised(
        models.MLP((8, CLASSES)) if model is None else model,
        losses.softmax_cross_entropy,
        metrics={"accuracy": metrics.accuracy()},
        inputs="x",
    )
    return jaxdl.make_train_step(objective, optimizer or optax.adam(1e-3), **options)


@correct
def dropout_with_an_average():
    step = classifier(models.MLP((8, CLASSES), dropout_rate=0.3), ema_decay=0.9)
    return {"step": step, "batches": batches()}


@correct
def a_frozen_layer_microbatches_and_a_clipped_gradient_placed_on_two_devices():
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    gradient = gradients.accumulate(4)
    step = classifier(optimizer=optimizer, gradient=gradient, freeze="dense_0")
    placed = jaxdl.jit(step, devices=jax.devices()[:2])
    return {"step": placed, "batches": batches(), "frozen": ["dense_0"]}


@correct
def a_pmapped_step():
    return {"step": jaxdl.pmap(classifier(), devices=jax.devices()[:2]), "batches": batches()}


@correct
def bfloat16_under_masters_of_float32():
    step = classifier(models.MLP((8, CLASSES), dtype=jnp.bfloat16))
    return {"step": step, "batches": batches()}


@correct
def float16_with_a_dynamic_loss_scale():
    model = models.MLP((8, CLASSES), dtype=jnp.float16)
    return {"step": classifier(model, gradient=gradients.scaled()), "batches": batches()}
