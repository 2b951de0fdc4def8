"""Correct steps, in the idioms of Flax Linen and its ``TrainState``."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.training import dynamic_scale as dynamic_scale_lib
from flax.training import train_state
from zoo import CLASSES, batches, correct, unmasked


class MLP(nn.Module):
    dropout: float = 0.0
    norm: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train=True):
        x = nn.Dense(8, dtype=self.dtype)(x)
        if self.norm:
            x = nn.BatchNorm(use_running_average=not train, momentum=0.9, dtype=self.dtype)(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(nn.relu(x))
        return nn.Dense(CLASSES, dtype=self.dtype)(x)


class CNN(nn.Module):
    """That of Flax's MNIST example, in small."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(features=2, kernel_size=(3, 3))(x)
        x = nn.relu(x)
        x = nn.avg_pool(x, window_shape=(2, 2), strides=(2, 2))
        x = x.reshape((x.shape[0], -1))
        x = nn.Dense(features=8)(x)
        x = nn.relu(x)
        return nn.Dense(features=CLASSES)(x)


def images(count=2):
    rng = np.random.default_rng(0)
    return [
        {
            "image": rng.random((8, 4, 4, 1)).astype(np.float32),
            "label": rng.integers(0, CLASSES, 8).astype(np.int32),
        }
        for _ in range(count)
    ]


@correct
def the_mnist_example():
    @jax.jit
    def train_step(state, batch):
        def loss_fn(params):
            logits = state.apply_fn({"params": params}, batch["image"])
            one_hot = jax.nn.one_hot(batch["label"], CLASSES)
            return jnp.mean(optax.softmax_cross_entropy(logits=logits, labels=one_hot)), logits

        (loss, logits), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        state = state.apply_gradients(grads=grads)
        accuracy = jnp.mean(jnp.argmax(logits, -1) == batch["label"])
        return state, {"loss": loss, "accuracy": accuracy}

    cnn = CNN()
    params = cnn.init(jax.random.key(0), jnp.ones([1, 4, 4, 1]))["params"]
    tx = optax.sgd(0.1, 0.9)
    state = train_state.TrainState.create(apply_fn=cnn.apply, params=params, tx=tx)
    return {"step": train_step, "batches": images(), "state": state}


class DropoutState(train_state.TrainState):
    key: jax.Array


def dropout_step(state, batch):
    dropout_key = jax.random.fold_in(key=state.key, data=state.step)

    def loss_fn(params):
        logits = state.apply_fn(
            {"params": params}, batch["x"], train=True, rngs={"dropout": dropout_key}
        )
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()

    loss, grads = jax.value_and_grad(loss_fn)(state.params)
    return state.apply_gradients(grads=grads), {"loss": loss}


def dropout_state(key):
    model = MLP(dropout=0.5)
    params = model.init(jax.random.key(0), jnp.ones((1, 4)), train=False)["params"]
    return DropoutState.create(apply_fn=model.apply, params=params, tx=optax.adam(1e-2), key=key)


@correct
def dropout_of_the_guide():
    state = dropout_state(jax.random.key(2))
    return {"step": jax.jit(dropout_step), "batches": unmasked(), "state": state}


@correct
def dropout_with_a_raw_key():
    state = dropout_state(jax.random.PRNGKey(2))
    return {"step": jax.jit(dropout_step), "batches": unmasked(), "state": state}


class NormState(train_state.TrainState):
    batch_stats: Any


def norm_step(state, batch):
    def loss_fn(params):
        logits, new = state.apply_fn(
            {"params": params, "batch_stats": state.batch_stats},
            batch["x"],
            mutable=["batch_stats"],
        )
        one_hot = jax.nn.one_hot(batch["label"], CLASSES)
        loss = jnp.mean(optax.softmax_cross_entropy(logits, one_hot))
        penalty = sum(jnp.sum(x**2) for x in jax.tree_util.tree_leaves(params) if x.ndim > 1)
        return loss + 1e-4 * 0.5 * penalty, (new, logits)

    (loss, (new, logits)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    new_state = state.apply_gradients(grads=grads, batch_stats=new["batch_stats"])
    return new_state, {"loss": loss, "accuracy": jnp.mean(jnp.argmax(logits, -1) == batch["label"])}


@correct
def batch_statistics_of_the_imagenet_example():
    model = MLP(norm=True)
    variables = model.init(jax.random.key(0), jnp.ones((1, 4)))
    state = NormState.create(
        apply_fn=model.apply,
        params=variables["params"],
        tx=optax.sgd(0.1, momentum=0.9, nesterov=True),
        batch_stats=variables["batch_stats"],
    )
    return {"step": jax.jit(norm_step), "batches": unmasked(), "state": state}


class ScaledState(train_state.TrainState):
    dynamic_scale: dynamic_scale_lib.DynamicScale


@correct
def the_dynamic_scale_of_the_imagenet_example_in_float16():
    def train_step(state, batch):
        def loss_fn(params):
            logits = state.apply_fn({"params": params}, batch["x"]).astype(jnp.float32)
            return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()

        grad_fn = state.dynamic_scale.value_and_grad(loss_fn)
        dynamic_scale, is_fin, loss, grads = grad_fn(state.params)
        new = state.apply_gradients(grads=grads)

        def select(x, y):
            return jax.tree_util.tree_map(lambda a, b: jnp.where(is_fin, a, b), x, y)

        new = new.replace(
            opt_state=select(new.opt_state, state.opt_state),
            params=select(new.params, state.params),
            dynamic_scale=dynamic_scale,
        )
        return new, {"loss": loss, "scale": dynamic_scale.scale}

    model = MLP(dtype=jnp.float16)
    params = model.init(jax.random.key(0), jnp.ones((1, 4)))["params"]
    state = ScaledState.create(
        apply_fn=model.apply,
        params=params,
        tx=optax.sgd(0.1),
        # Its default, a number of Python, comes back as an array: the step would compile twice.
        dynamic_scale=dynamic_scale_lib.DynamicScale(scale=jnp.float32(65536.0)),
    )
    return {"step": jax.jit(train_step), "batches": unmasked(), "state": state}


@correct
def masked_statistics_and_a_masked_loss():
    class Masked(nn.Module):
        @nn.compact
        def __call__(self, x, mask):
            x = nn.Dense(8)(x)
            # Linen's mean of no rows is NaN.
            real = (mask > 0) | ~jnp.any(mask > 0)
            x = nn.BatchNorm(use_running_average=False)(x, mask=real[:, None])
            return nn.Dense(CLASSES)(nn.relu(x))

    model = Masked()

    def train_step(state, batch):
        def loss_fn(params):
            variables = {"params": params, "batch_stats": state.batch_stats}
            logits, new = model.apply(variables, batch["x"], batch["mask"], mutable=["batch_stats"])
            each = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
            weight = jnp.maximum(batch["mask"].sum(), 1)
            return (each * batch["mask"]).sum() / weight, new["batch_stats"]

        (loss, stats), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        return state.apply_gradients(grads=grads, batch_stats=stats), {"loss": loss}

    variables = model.init(jax.random.key(0), jnp.ones((2, 4)), jnp.ones(2))
    state = NormState.create(
        apply_fn=model.apply,
        params=variables["params"],
        tx=optax.adam(1e-2),
        batch_stats=variables["batch_stats"],
    )
    return {"step": train_step, "batches": batches(), "state": state}


class Block(nn.Module):
    @nn.compact
    def __call__(self, carry, _):
        h = nn.Dropout(0.1, deterministic=False)(nn.relu(nn.Dense(4)(carry)))
        return carry + h, None


@correct
def a_scanned_and_rematerialised_stack_with_dropout():
    class Stack(nn.Module):
        @nn.compact
        def __call__(self, x):
            layers = nn.scan(
                nn.remat(Block),
                variable_axes={"params": 0},
                split_rngs={"params": True, "dropout": True},
                length=3,
            )
            x, _ = layers()(x, None)
            return nn.Dense(CLASSES)(x)

    model = Stack()
    params = model.init(
        {"params": jax.random.key(0), "dropout": jax.random.key(1)}, jnp.ones((1, 4))
    )
    state = DropoutState.create(
        apply_fn=lambda variables, x, train, rngs: model.apply(variables, x, rngs=rngs),
        params=params["params"],
        tx=optax.adamw(1e-2),
        key=jax.random.key(2),
    )
    return {"step": jax.jit(dropout_step), "batches": unmasked(), "state": state}
