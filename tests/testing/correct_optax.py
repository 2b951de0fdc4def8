"""Correct steps, in the idioms of Optax."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from zoo import CLASSES, FEATURES, batch, correct, unmasked


def init(seed=0, hidden=8, out=CLASSES):
    one, two = jax.random.split(jax.random.key(seed))
    return {
        "hidden": 0.5 * jax.random.normal(one, (FEATURES, hidden)),
        "output": 0.5 * jax.random.normal(two, (hidden, out)),
    }


def net(params, x):
    return jax.nn.relu(x @ params["hidden"]) @ params["output"]


def loss_fn(params, rows):
    logits = net(params, rows["x"])
    return optax.softmax_cross_entropy_with_integer_labels(logits, rows["label"]).mean()


def fitting(optimizer, loss=loss_fn, **more):
    """The three lines of Optax's first page, and its state as a pair."""

    @jax.jit
    def step(state, rows):
        params, opt_state = state
        value, grads = jax.value_and_grad(loss)(params, rows)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), value

    params = init()
    return {"step": step, "batches": unmasked(), "state": (params, optimizer.init(params)), **more}


@correct
def adam_of_the_first_page():
    return fitting(optax.adam(1e-2))


@correct
def sgd_with_momentum_on_a_schedule():
    schedule = optax.warmup_cosine_decay_schedule(0.0, 0.1, 2, 10)
    return fitting(optax.sgd(schedule, momentum=0.9, nesterov=True))


@correct
def a_chain_that_clips_and_decays_weights():
    return fitting(
        optax.chain(
            optax.clip_by_global_norm(1.0),
            optax.scale_by_adam(),
            optax.add_decayed_weights(1e-4),
            optax.scale_by_learning_rate(1e-2),
        )
    )


@correct
def gradients_kept_over_four_steps():
    return fitting(optax.MultiSteps(optax.adam(1e-2), every_k_schedule=4))


@correct
def rates_injected_by_a_schedule():
    schedule = optax.exponential_decay(1e-2, 10, 0.9)
    return fitting(optax.inject_hyperparams(optax.adamw)(learning_rate=schedule, weight_decay=1e-4))


@correct
def a_rate_injected_as_a_number():
    return fitting(optax.inject_hyperparams(optax.adam)(learning_rate=1e-2))


@correct
def bad_updates_are_left_out():
    return fitting(optax.apply_if_finite(optax.adam(1e-2), max_consecutive_errors=5))


@correct
def an_average_inside_the_optimizer():
    return fitting(optax.chain(optax.adam(1e-2), optax.ema(0.9)))


@correct
def the_first_layer_is_frozen_by_labels():
    labels = {"hidden": "frozen", "output": "trained"}
    transforms = {"trained": optax.adam(1e-2), "frozen": optax.set_to_zero()}
    return fitting(
        optax.multi_transform(transforms, labels),
        params=lambda state: state[0],
        frozen=["^hidden"],
    )


@correct
def lookahead_around_slow_and_fast_parameters():
    optimizer = optax.lookahead(optax.sgd(0.1), sync_period=5, slow_step_size=0.5)

    @jax.jit
    def step(state, rows):
        params, opt_state = state
        value, grads = jax.value_and_grad(loss_fn)(params.fast, rows)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), value

    params = optax.LookaheadParams.init_synced(init())
    return {"step": step, "batches": unmasked(), "state": (params, optimizer.init(params))}


@correct
def lbfgs_with_its_line_search():
    search = optax.scale_by_zoom_linesearch(max_linesearch_steps=4)
    optimizer = optax.lbfgs(memory_size=2, linesearch=search)

    @jax.jit
    def step(state, rows):
        params, opt_state = state

        def fun(params):
            return loss_fn(params, rows)

        value, grad = optax.value_and_grad_from_state(fun)(params, state=opt_state)
        updates, opt_state = optimizer.update(
            grad, opt_state, params, value=value, grad=grad, value_fn=fun
        )
        return (optax.apply_updates(params, updates), opt_state), value

    params = init()
    # Some numbers of Optax's first state have no dtype: the second call would compile again.
    opt_state = jax.tree.map(lambda x: jnp.asarray(x, x.dtype), optimizer.init(params))
    # A line search keeps the value and gradient of the batch before: one batch, as L-BFGS wants.
    return {"step": step, "batches": unmasked(1) * 2, "state": (params, opt_state)}


class Averaged(NamedTuple):
    params: Any
    ema_params: Any
    opt_state: Any


@correct
def an_average_of_the_new_parameters():
    optimizer = optax.adam(1e-2)

    def step(state, rows):
        value, grads = jax.value_and_grad(loss_fn)(state.params, rows)
        updates, opt_state = optimizer.update(grads, state.opt_state)
        params = optax.apply_updates(state.params, updates)
        ema = optax.incremental_update(params, state.ema_params, step_size=0.01)
        return Averaged(params, ema, opt_state), {"loss": value}

    params = init()
    start = Averaged(params, params, optimizer.init(params))
    return {"step": jax.jit(step, donate_argnums=0), "batches": unmasked(), "state": start}


def info_nce(params, rows):
    def embed(x):
        z = net(params, x)
        return z / jnp.sqrt(jnp.sum(z**2, axis=-1, keepdims=True) + 1e-6)

    logits = embed(rows["first"]) @ embed(rows["second"]).T / 0.5
    return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.arange(len(logits))).mean()


@correct
def infonce_that_compares_every_row_with_all_others():
    pairs = [
        {"first": batch(seed)["x"], "second": batch(seed)["x"] + 0.1 * batch(seed + 9)["x"]}
        for seed in range(3)
    ]
    return fitting(optax.adam(1e-2), info_nce, batches=pairs)


@correct
def a_generator_and_a_discriminator_with_an_optimizer_each():
    gen_tx, disc_tx = optax.adam(1e-3, b1=0.5), optax.adam(1e-3, b1=0.5)

    def disc_loss(disc, gen, real, z):
        fake = net(gen, z)
        on_real, on_fake = net(disc, real), net(disc, fake)
        ones = optax.sigmoid_binary_cross_entropy(on_real, jnp.ones_like(on_real))
        return jnp.mean(ones + optax.sigmoid_binary_cross_entropy(on_fake, jnp.zeros_like(on_fake)))

    def gen_loss(gen, disc, z):
        on_fake = net(disc, net(gen, z))
        return optax.sigmoid_binary_cross_entropy(on_fake, jnp.ones_like(on_fake)).mean()

    @jax.jit
    def step(state, rows):
        rng, gen_rng, disc_rng = jax.random.split(state["rng"], 3)
        z = jax.random.normal(disc_rng, rows["x"].shape)
        d_loss, d_grads = jax.value_and_grad(disc_loss)(state["disc"], state["gen"], rows["x"], z)
        updates, disc_opt = disc_tx.update(d_grads, state["disc_opt"])
        disc = optax.apply_updates(state["disc"], updates)
        z = jax.random.normal(gen_rng, rows["x"].shape)
        g_loss, g_grads = jax.value_and_grad(gen_loss)(state["gen"], disc, z)
        updates, gen_opt = gen_tx.update(g_grads, state["gen_opt"])
        gen = optax.apply_updates(state["gen"], updates)
        new = {"gen": gen, "disc": disc, "gen_opt": gen_opt, "disc_opt": disc_opt, "rng": rng}
        return new, {"d_loss": d_loss, "g_loss": g_loss}

    gen, disc = init(1, out=FEATURES), init(2, out=1)
    start = {
        "gen": gen,
        "disc": disc,
        "gen_opt": gen_tx.init(gen),
        "disc_opt": disc_tx.init(disc),
        "rng": jax.random.PRNGKey(0),
    }
    return {"step": step, "batches": unmasked(), "state": start}


class Agent(NamedTuple):
    params: Any
    target_params: Any
    opt_state: Any
    count: Any


@correct
def q_learning_with_a_target_network_copied_now_and_then():
    optimizer = optax.adam(1e-3)

    def td_error(params, target, rows):
        q = jnp.take_along_axis(net(params, rows["obs"]), rows["action"][:, None], axis=1)[:, 0]
        best = jnp.max(net(target, rows["next_obs"]), axis=1)
        goal = rows["reward"] + 0.99 * (1.0 - rows["done"]) * best
        return optax.huber_loss(q, jax.lax.stop_gradient(goal)).mean()

    @jax.jit
    def step(agent, rows):
        loss, grads = jax.value_and_grad(td_error)(agent.params, agent.target_params, rows)
        updates, opt_state = optimizer.update(grads, agent.opt_state)
        params = optax.apply_updates(agent.params, updates)
        target = optax.periodic_update(params, agent.target_params, agent.count, 100)
        return Agent(params, target, opt_state, agent.count + 1), {"loss": loss}

    def transitions(seed):
        rng = np.random.default_rng(seed)
        return {
            "obs": rng.normal(size=(16, FEATURES)).astype(np.float32),
            "action": rng.integers(0, CLASSES, 16).astype(np.int32),
            "reward": rng.normal(size=16).astype(np.float32),
            "next_obs": rng.normal(size=(16, FEATURES)).astype(np.float32),
            "done": (rng.random(16) < 0.1).astype(np.float32),
        }

    params = init()
    start = Agent(params, params, optimizer.init(params), jnp.zeros((), jnp.int32))
    return {"step": step, "batches": [transitions(s) for s in range(3)], "state": start}
