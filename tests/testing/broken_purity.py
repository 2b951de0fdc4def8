"""Broken steps: what is read and changed beside the arguments."""

from __future__ import annotations

import datetime
import itertools
import random
import time

import jax
import jax.numpy as jnp
import numpy as np
from zoo import animal, batches, descend, folded, logits, losses, mean, plain_loss, sgd, state

CALLS = {"count": 0}
HISTORY = []
COUNTER = itertools.count()


@animal("changed-outside")
def a_global_counts_the_steps(mended):
    def step(old, rows):
        if not mended:
            CALLS["count"] += 1
        return sgd(plain_loss)(old, rows)

    return {"step": step, "batches": batches(), "state": state()}


@animal("changed-outside")
def an_object_counts_the_steps(mended):
    class Trainer:
        def __init__(self):
            self.calls = 0

        def step(self, old, rows):
            if not mended:
                self.calls += 1
            return sgd(plain_loss)(old, rows)

    return {"step": Trainer().step, "batches": batches(), "state": state()}


@animal("leaked-tracer")
def losses_are_appended_to_a_list(mended):
    def step(old, rows):
        new, sums = sgd(plain_loss)(old, rows)
        if not mended:
            HISTORY.append(sums["loss"])
        return new, sums

    HISTORY.clear()
    return {"step": step, "batches": batches(), "state": state()}


@animal("leaked-tracer")
def the_last_gradient_is_kept_on_the_object(mended):
    class Trainer:
        last = None

        def step(self, old, rows):
            grads = jax.grad(plain_loss)(old["params"], rows)
            if not mended:
                self.last = grads
            return {**old, "params": descend(old["params"], grads)}, {"loss": jnp.zeros(())}

    start = {"params": state()["params"]}
    return {"step": Trainer().step, "batches": batches(), "state": start, "skip": ["learning"]}


@animal("host-print")
def print_in_the_step(mended):
    def step(old, rows):
        new, sums = sgd(plain_loss)(old, rows)
        if not mended:
            print("loss", sums["loss"])
        return new, sums

    return {"step": step, "batches": batches(), "state": state()}


@animal("host-randomness")
def numpy_random_in_the_loss(mended):
    def loss(params, rows, key):
        if mended:
            noise = jax.random.normal(key, rows["x"].shape)
        else:
            noise = np.random.normal(size=rows["x"].shape).astype(np.float32)
        scores = logits(params, rows["x"] + 0.1 * noise)
        return mean(losses(scores, rows["label"]), rows["mask"])

    start = state(key=jax.random.key(0)) if mended else state()
    key_of = folded if mended else None
    return {"step": sgd(loss, key_of=key_of), "batches": batches(), "state": start}


@animal("host-randomness")
def a_coin_of_python_s_random(mended):
    def loss(params, rows, key):
        x = rows["x"]
        if mended:
            x = jnp.where(jax.random.bernoulli(key), x, -x)
        elif random.random() < 0.5:
            x = -x
        return mean(losses(logits(params, x), rows["label"]), rows["mask"])

    start = state(key=jax.random.key(0)) if mended else state()
    key_of = folded if mended else None
    return {"step": sgd(loss, key_of=key_of), "batches": batches(), "state": start}


@animal("host-clock")
def the_clock_seeds_the_key(mended):
    def loss(params, rows, key):
        if not mended:
            key = jax.random.key(int(time.time() * 1e3) % 1000)
        noise = jax.random.normal(key, rows["x"].shape)
        scores = logits(params, rows["x"] + 0.1 * noise)
        return mean(losses(scores, rows["label"]), rows["mask"])

    start = state(key=jax.random.key(0)) if mended else state()
    key_of = folded if mended else None
    return {"step": sgd(loss, key_of=key_of), "batches": batches(), "state": start}


@animal("impure-trace")
def an_iterator_numbers_the_steps(mended):
    def loss(params, rows, key):
        weight = 1.0 if mended else 1.0 + next(COUNTER)
        return weight * plain_loss(params, rows)

    return {"step": sgd(loss), "batches": batches(), "state": state()}


@animal("impure-trace")
def the_date_is_a_feature(mended):
    def loss(params, rows, key):
        now = 0.5 if mended else datetime.datetime.now().microsecond / 1e6
        return plain_loss(params, {**rows, "x": rows["x"] + now})

    return {"step": sgd(loss), "batches": batches(), "state": state()}


@animal("mutated-argument")
def the_mask_is_popped_from_the_batch(mended):
    def step(old, rows):
        mask = rows["mask"] if mended else rows.pop("mask")
        return sgd(plain_loss)(old, {**rows, "mask": mask})

    return {"step": step, "batches": batches(), "state": state()}


@animal("mutated-argument")
def the_state_is_assigned_in_place(mended):
    def step(old, rows):
        value, grads = jax.value_and_grad(plain_loss)(old["params"], rows)
        new = dict(old) if mended else old
        new["params"] = descend(old["params"], grads)
        return new, {"loss": value}

    return {"step": step, "batches": batches(), "state": {"params": state()["params"]}}


@animal("not-traceable")
def python_branches_on_the_loss(mended):
    def step(old, rows):
        new, sums = sgd(plain_loss)(old, rows)
        if mended:
            big = jnp.where(sums["loss"] > 3.0, 1.0, 0.0)
        else:
            big = 1.0 if sums["loss"] > 3.0 else 0.0
        return new, {**sums, "big": big}

    return {"step": step, "batches": batches(), "state": state()}


@animal("not-traceable")
def the_loss_is_made_a_float(mended):
    def step(old, rows):
        new, sums = sgd(plain_loss)(old, rows)
        return new, {"loss": sums["loss"] if mended else float(sums["loss"])}

    return {"step": step, "batches": batches(), "state": state()}
