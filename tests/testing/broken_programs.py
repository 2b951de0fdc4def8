"""Broken steps: compiled again, not donated, calling the host, holding the data set."""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from zoo import animal, batch, batches, descend, plain_loss, sgd, state


@animal("weak-type-in-state")
def the_counter_starts_as_a_python_number(mended):
    def step(old, rows):
        new, sums = sgd(plain_loss)(old, rows)
        return {**new, "step": optax.safe_increment(jnp.asarray(old["step"]))}, sums

    start = state()
    start["step"] = jnp.zeros((), jnp.int32) if mended else 0
    return {"step": step, "batches": batches(), "state": start}


@animal("weak-type-in-state")
def the_scale_starts_as_a_python_float(mended):
    def step(old, rows):
        new, sums = sgd(plain_loss)(old, rows)
        return {**new, "scale": jnp.asarray(old["scale"] * 0.5, jnp.float32)}, sums

    start = state(scale=jnp.float32(1.0) if mended else 1.0)
    return {"step": step, "batches": batches(), "state": start}


@flax.struct.dataclass
class Rated:
    params: dict
    rate: object = flax.struct.field(pytree_node=False, default=0.1)


@flax.struct.dataclass
class RatedByArray:
    params: dict
    rate: object = 0.1


@animal("recompiles")
def the_learning_rate_is_a_python_float(mended):
    kind = RatedByArray if mended else Rated

    def step(old, rows):
        value, grads = jax.value_and_grad(plain_loss)(old.params, rows)
        new = descend(old.params, grads, old.rate)
        return old.replace(params=new, rate=old.rate * 0.9), {"loss": value}

    rate = jnp.float32(0.1) if mended else 0.1
    start = kind(params=state()["params"], rate=rate)
    return {"step": jax.jit(step), "batches": batches(), "state": start}


@animal("recompiles")
def the_last_batch_is_shorter(mended):
    last = batch(2, rows=16 if mended else 5)
    return {"step": sgd(plain_loss), "batches": [*batches(2), last], "state": state()}


@animal("recompiles")
def one_file_holds_float16(mended):
    odd = batch(2)
    if not mended:
        odd["x"] = odd["x"].astype(np.float16)
    return {"step": sgd(plain_loss), "batches": [*batches(2), odd], "state": state()}


@animal("recompiles")
def only_padded_batches_have_a_mask(mended):
    rows = batches()
    if not mended:
        rows = [{k: v for k, v in rows[0].items() if k != "mask"}, *rows[1:]]

    def loss(params, one, key):
        return plain_loss(params, {"mask": jnp.ones(one["x"].shape[0]), **one})

    return {"step": sgd(loss), "batches": rows, "state": state()}


@animal("recompiles")
def the_first_state_lies_elsewhere(mended):
    mesh = Mesh(np.array(jax.devices()[:2]), ("data",))
    whole = NamedSharding(mesh, PartitionSpec())
    start = jax.device_put(state(), whole) if mended else state()
    step = jax.jit(sgd(plain_loss), out_shardings=whole)
    return {"step": step, "batches": jax.device_put(batches(), whole), "state": start}


@animal("state-not-fixed")
def parameters_come_back_in_half_precision(mended):
    def step(old, rows):
        new, sums = sgd(plain_loss)(old, rows)
        dtype = jnp.float32 if mended else jnp.bfloat16
        return {**new, "params": jax.tree.map(lambda x: x.astype(dtype), new["params"])}, sums

    return {"step": step, "batches": batches(), "state": state()}


@animal("state-not-fixed")
def the_counter_becomes_a_float(mended):
    def step(old, rows):
        new, sums = sgd(plain_loss)(old, rows)
        return {**new, "step": old["step"] + (1 if mended else 1.0)}, sums

    return {"step": step, "batches": batches(), "state": state()}


@animal("state-not-fixed")
def momentum_appears_after_the_first_step(mended):
    def step(old, rows):
        value, grads = jax.value_and_grad(plain_loss)(old["params"], rows)
        before = old.get("momentum") or jax.tree.map(jnp.zeros_like, grads)
        momentum = jax.tree.map(lambda m, g: 0.9 * m + g, before, grads)
        new = {"params": descend(old["params"], momentum), "momentum": momentum}
        return new, {"loss": value}

    params = state()["params"]
    zeros = jax.tree.map(jnp.zeros_like, params)
    start = {"params": params, "momentum": zeros} if mended else {"params": params}
    return {"step": step, "batches": batches(), "state": start}


@animal("state-not-fixed")
def a_scalar_becomes_a_vector(mended):
    def step(old, rows):
        new, sums = sgd(plain_loss)(old, rows)
        real = jnp.abs(rows["x"]) * rows["mask"][:, None]
        worst = real.max(axis=None if mended else 0)
        return {**new, "largest": jnp.maximum(old["largest"], worst)}, sums

    return {"step": step, "batches": batches(), "state": state(largest=jnp.zeros(()))}


@animal("not-donated")
def the_average_is_dropped_from_the_state(mended):
    def step(old, rows):
        new, sums = sgd(plain_loss)(old, rows)
        if not mended:
            new.pop("ema")
        else:
            new["ema"] = jax.tree.map(lambda e, p: 0.9 * e + 0.1 * p, old["ema"], new["params"])
        return new, sums

    return {"step": step, "batches": batches(), "state": state(ema=state()["params"])}


@animal("donated-buffer-read")
def the_old_parameters_are_read_after_the_update(mended):
    update = jax.jit(sgd(plain_loss), donate_argnums=0)

    def step(old, rows):
        before = jax.tree.map(jnp.copy, old["params"]) if mended else old["params"]
        new, sums = update(old, rows)
        moved = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), new["params"], before)
        return new, {**sums, "moved": moved["w"]}

    return {"step": step, "batches": batches(), "state": state()}


@animal("host-callback")
def the_loss_is_logged_by_a_callback(mended):
    def step(old, rows):
        new, sums = sgd(plain_loss)(old, rows)
        if not mended:
            jax.debug.callback(lambda value: None, sums["loss"])
        return new, sums

    return {"step": step, "batches": batches(), "state": state()}


@animal("host-callback")
def rows_are_normalised_by_numpy(mended):
    def normalised(x):
        x = np.asarray(x)
        return (x / np.maximum(np.abs(x).max(axis=1, keepdims=True), 1e-6)).astype(np.float32)

    def loss(params, rows, key):
        if mended:
            largest = jnp.abs(rows["x"]).max(axis=1, keepdims=True)
            x = rows["x"] / jnp.maximum(largest, 1e-6)
        else:
            shape = jax.ShapeDtypeStruct(rows["x"].shape, jnp.float32)
            x = jax.pure_callback(normalised, shape, rows["x"], vmap_method="sequential")
        return plain_loss(params, {**rows, "x": x})

    return {"step": sgd(loss), "batches": batches(), "state": state()}


@animal("large-constant")
def the_data_set_is_in_the_closure(mended):
    table = np.random.default_rng(0).normal(size=(100_000, 4)).astype(np.float32)

    def loss(params, rows, key):
        x = rows["x"] if mended else rows["x"] + 0 * jnp.asarray(table)[rows["label"]]
        return plain_loss(params, {**rows, "x": x})

    return {"step": sgd(loss), "batches": batches(), "state": state()}
