"""Broken steps: other numbers on more devices, with padding, in microbatches."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from zoo import animal, batches, descend, logits, losses, mean, plain_loss, sgd, state


def total(params, rows):
    """The sum of losses, and its weight."""
    values = losses(logits(params, rows["x"]), rows["label"]) * rows["mask"]
    return jnp.sum(values), jnp.sum(rows["mask"]).astype(jnp.float32)


def over(axis_name, tree):
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)


def averaged(axis_name, tree):
    return tree if axis_name is None else jax.lax.pmean(tree, axis_name)


@animal("mapped-differs")
def a_mean_of_means_over_uneven_devices(mended):
    def step(old, rows, axis_name=None):
        if mended:
            (value, weight), grads = jax.value_and_grad(total, has_aux=True)(old["params"], rows)
            value, weight, grads = over(axis_name, (value, weight, grads))
            weight = jnp.maximum(weight, 1.0)
            value, grads = jax.tree.map(lambda x: x / weight, (value, grads))
        else:
            value, grads = jax.value_and_grad(plain_loss)(old["params"], rows)
            value, grads = averaged(axis_name, (value, grads))
        new = {**old, "params": descend(old["params"], grads), "step": old["step"] + 1}
        return new, {"loss": value}

    return {"step": step, "batches": batches(), "state": state()}


def summed_step(old, rows, axis_name, *, of_grads=over, of_metric=over):
    (value, weight), grads = jax.value_and_grad(total, has_aux=True)(old["params"], rows)
    whole = jnp.maximum(over(axis_name, weight), 1.0)
    grads = jax.tree.map(lambda g: g / whole, of_grads(axis_name, grads))
    new = {**old, "params": descend(old["params"], grads), "step": old["step"] + 1}
    return new, {"loss": of_metric(axis_name, value) / whole}


@animal("mapped-differs")
def gradients_are_not_summed_over_devices(mended):
    def step(old, rows, axis_name=None):
        of = over if mended else (lambda axis, tree: tree)
        return summed_step(old, rows, axis_name, of_grads=of)

    return {"step": step, "batches": batches(), "state": state()}


@animal("mapped-differs")
def a_metric_is_that_of_one_device(mended):
    def step(old, rows, axis_name=None):
        of = over if mended else (lambda axis, tree: tree)
        return summed_step(old, rows, axis_name, of_metric=of)

    return {"step": step, "batches": batches(), "state": state()}


@animal("mapped-differs")
def gradients_are_summed_twice(mended):
    def step(old, rows, axis_name=None):
        def twice(axis, tree):
            return over(axis, over(axis, tree))

        return summed_step(old, rows, axis_name, of_grads=over if mended else twice)

    return {"step": step, "batches": batches(), "state": state()}


@animal("mapped-differs")
def statistics_are_those_of_one_device(mended):
    def step(old, rows, axis_name=None):
        real = rows["mask"].astype(jnp.float32)[:, None]
        axis = axis_name if mended else None
        count = jnp.maximum(over(axis, jnp.sum(real)), 1.0)
        centre = over(axis, jnp.sum(rows["x"] * real, axis=0, keepdims=True)) / count
        return summed_step(old, {**rows, "x": rows["x"] - centre}, axis_name)

    return {"step": step, "batches": batches(), "state": state()}


@animal("padding-counts")
def batch_statistics_of_padded_rows(mended):
    def loss(params, rows, key):
        real = rows["mask"].astype(jnp.float32)[:, None]
        real = real if mended else jnp.ones_like(real)
        count = jnp.maximum(jnp.sum(real), 1.0)
        centre = jnp.sum(rows["x"] * real, axis=0, keepdims=True) / count
        return plain_loss(params, {**rows, "x": rows["x"] - centre})

    return {"step": sgd(loss), "batches": batches(), "state": state()}


@animal("padding-counts")
def the_loss_ignores_the_mask(mended):
    def loss(params, rows, key):
        mask = rows["mask"] if mended else jnp.ones_like(rows["mask"])
        return plain_loss(params, {**rows, "mask": mask})

    return {"step": sgd(loss), "batches": batches(), "state": state()}


@animal("padding-counts")
def a_metric_ignores_the_mask(mended):
    def step(old, rows):
        right = jnp.argmax(logits(old["params"], rows["x"]), axis=1) == rows["label"]
        new, sums = sgd(plain_loss)(old, rows)
        mask = rows["mask"] if mended else jnp.ones_like(rows["mask"])
        return new, {**sums, "accuracy": mean(right, mask)}

    return {"step": step, "batches": batches(), "state": state()}


@animal("padding-counts")
def the_loss_is_divided_by_all_rows(mended):
    def loss(params, rows, key):
        value, weight = total(params, rows)
        return value / (jnp.maximum(weight, 1.0) if mended else rows["mask"].shape[0])

    return {"step": sgd(loss), "batches": batches(), "state": state()}


def in_parts(old, rows, *, mended):
    """Four microbatches."""
    parts = jax.tree.map(lambda x: x.reshape(4, -1, *x.shape[1:]), rows)

    def add(carry, part):
        if mended:
            (value, weight), grads = jax.value_and_grad(total, has_aux=True)(old["params"], part)
        else:
            value, grads = jax.value_and_grad(plain_loss)(old["params"], part)
            weight = jnp.ones(())
        return jax.tree.map(jnp.add, carry, (value, weight, grads)), None

    zero = (jnp.zeros(()), jnp.zeros(()), jax.tree.map(jnp.zeros_like, old["params"]))
    (value, weight, grads), _ = jax.lax.scan(add, zero, parts)
    value, grads = jax.tree.map(lambda x: x / jnp.maximum(weight, 1.0), (value, grads))
    new = {**old, "params": descend(old["params"], grads), "step": old["step"] + 1}
    return new, {"loss": value}


@animal("variant-differs")
def accumulation_averages_unequal_microbatches(mended):
    def parts(old, rows):
        return in_parts(old, rows, mended=mended)

    variants = {"4 microbatches": parts}
    return {"step": sgd(plain_loss), "batches": batches(), "state": state(), "variants": variants}


@animal("row-order-counts")
def unequal_microbatches_without_a_whole(mended):
    def step(old, rows):
        return in_parts(old, rows, mended=mended)

    return {"step": step, "batches": batches(), "state": state()}


@animal("row-order-counts")
def each_row_sees_its_neighbour(mended):
    def loss(params, rows, key):
        x = rows["x"]
        x = x if mended else x + 0.5 * jnp.roll(x, 1, axis=0)
        return plain_loss(params, {**rows, "x": x})

    return {"step": sgd(loss), "batches": batches(), "state": state()}


@animal("jit-differs-from-eager")
def a_branch_on_whether_it_is_traced(mended):
    def loss(params, rows, key):
        traced = isinstance(rows["x"], jax.core.Tracer)
        scale = 1.0 if mended or traced else 0.5
        return plain_loss(params, {**rows, "x": scale * rows["x"]})

    return {"step": sgd(loss), "batches": batches(), "state": state()}
