"""Axes of collectives, and the FLOPs of causal attention's own products."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import optax
import pytest
from steps_to_plan import gpt, like, mlp, rows, tokens

import jaxdl
from jaxdl import gradients, losses, models, tpu
from jaxdl.objectives import language_model
from jaxdl.tpu.programs.attention_flops import count_attention
from jaxdl.tpu.programs.hlo import Collective


def group(*devices):
    return Collective("all-reduce", 8, len(devices), 1, 8, "", devices, ())


@pytest.mark.parametrize(
    ("devices", "axes"),
    [
        ((0, 1, 2, 3), ("tensor",)),
        ((1, 5, 9), ("fsdp",)),
        ((0, 12), ("data",)),
        ((0, 4, 12, 16), ("data", "fsdp")),
        (tuple(range(24)), ("data", "fsdp", "tensor")),
        ((3,), ()),
        ((), ()),
        ((0, 24), ()),
    ],
)
def test_axes_of_a_collective(devices, axes):
    assert tpu.axes_of(group(*devices), {"data": 2, "fsdp": 3, "tensor": 4}) == axes


def attention_of(step, batch):
    state = jax.eval_shape(step.init, jax.eval_shape(jax.random.key, 0), batch)
    return count_attention(jax.make_jaxpr(step.update)(state, batch))


@pytest.mark.parametrize("remat", [None, "full", "dots"])
@pytest.mark.parametrize("scan_layers", [False, True])
def test_attention_flops_of_a_gpt_follow_the_formula(scan_layers, remat):
    step = gpt(scan_layers=scan_layers, remat=remat)
    # Two products forwards and four backwards, each 2 B T T D; recomputation is not counted.
    assert attention_of(step, tokens(4)) == 3 * 12 * 4 * 32 * 32 * 64


def test_attention_flops_of_microbatches_and_of_each_example():
    model = models.GPT(vocab_size=64, num_layers=2, num_heads=2, hidden_dim=16, max_length=8)
    made = functools.partial(jaxdl.make_train_step, language_model(model), optax.adam(1e-3))
    wanted = 2 * 12 * 4 * 8 * 8 * 16
    assert attention_of(made(), tokens(4, 8)) == wanted
    assert attention_of(made(gradient=gradients.accumulate(2)), tokens(4, 8)) == wanted


def test_gradients_of_single_examples_are_no_attention():
    """Mapped over examples, a projection's gradient has a batch dimension; so has attention."""
    model = models.GPT(vocab_size=64, num_layers=1, num_heads=2, hidden_dim=16, max_length=8)
    objective = language_model(model)
    params, _ = jax.eval_shape(objective.init, jax.eval_shape(jax.random.key, 0), tokens(1, 8))

    def loss(params, row):
        batch = {"tokens": row[None]}
        return objective.loss(params, {}, batch, jax.random.key(0), train=True)[0]

    each = jax.vmap(jax.grad(loss), (None, 0))
    program = jax.make_jaxpr(each)(params, tokens(4, 8)["tokens"])
    assert count_attention(program) == 12 * 4 * 8 * 8 * 16


def test_other_models_have_no_attention_flops():
    assert attention_of(mlp(), rows(16)) == 0
    model = models.CNN(num_classes=4)
    objective = jaxdl.supervised(model, losses.softmax_cross_entropy)
    images = {"image": like(2, 28, 28, 1), "label": like(2, dtype=jnp.int32)}
    assert attention_of(jaxdl.make_train_step(objective, optax.sgd(0.1)), images) == 0


@pytest.mark.parametrize("implementation", ["plain", "xla"])
@pytest.mark.parametrize("causal", [False, True])
def test_only_causal_attention_counts(causal, implementation):
    """BERT's and ViT's looks both ways: no mask halves it."""
    layer = models.SelfAttention(2, causal=causal, implementation=implementation)
    x, key = like(3, 8, 16), jax.eval_shape(jax.random.key, 0)
    params = jax.eval_shape(layer.init, key, x)
    program = jax.make_jaxpr(jax.grad(lambda params, x: jnp.sum(layer.apply(params, x))))
    assert count_attention(program(params, x)) == causal * 12 * 3 * 8 * 8 * 16


@pytest.mark.parametrize(("scope", "counts"), [("my_causal_attention", 1), ("my_attention", 0)])
def test_attention_of_ones_own_with_a_single_head(scope, counts):
    def attention(q, k, v):
        with jax.named_scope(scope):
            scores = jnp.einsum("btd,bsd->bts", q, k)
            return jnp.einsum("bts,bsd->btd", jax.nn.softmax(scores), v)

    x = like(2, 8, 4)
    found = count_attention(jax.make_jaxpr(attention)(x, x, x))
    assert found == counts * 2 * 2 * 2 * 8 * 8 * 4
