"""Whole train steps: what is found in them, and that they are evaluated as ``jit`` does."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdl
from jaxdl import gradients, losses, models
from jaxdl.replay import find_nonfinite
from jaxdl.replay.interpreter import Interpreter, Scope, Value

ROWS = 6
ESTIMATORS = {"mean": gradients.mean(), "accumulate": gradients.accumulate(2)}


class Log(nn.Module):
    @nn.compact
    def __call__(self, x):
        return jnp.log(x)


class Net(nn.Module):
    """A network with a layer of its own that takes a logarithm of its input."""

    layer: type[nn.Module] = Log

    @nn.compact
    def __call__(self, x):
        x = self.layer(name="to_decibel")(x)
        return nn.Dense(3, name="head")(x)


class Root(nn.Module):
    """Finite everywhere; its derivative is not, at 0."""

    @nn.compact
    def __call__(self, x):
        return jnp.sqrt(x)


class Scanned(nn.Module):
    """Attention with a mask and a recurrence: keys, loops and meant infinities."""

    @nn.compact
    def __call__(self, x, *, train: bool = False):
        x = x.reshape(x.shape[0], 2, 2)
        mask = nn.make_causal_mask(jnp.ones(x.shape[:2]))
        attention = nn.MultiHeadDotProductAttention(num_heads=2, dropout_rate=0.2)
        x = attention(x, mask=mask, deterministic=not train)
        x = nn.RNN(nn.GRUCell(4))(nn.remat(nn.LayerNorm)()(x))
        return nn.Dense(3)(x[:, -1])


def batch() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "image": rng.uniform(0.5, 1.5, (ROWS, 4)).astype(np.float32),
        "label": np.arange(ROWS, dtype=np.int32) % 3,
    }


def make(model, estimator="mean", optimizer=None):
    objective = jaxdl.supervised(model, losses.softmax_cross_entropy)
    return jaxdl.make_train_step(
        objective, optimizer or optax.adam(1e-3), gradient=ESTIMATORS[estimator]
    )


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_bad_row_of_the_batch(estimator):
    step, data = make(models.MLP((5, 3), dropout_rate=0.1), estimator), batch()
    state = step.init(jax.random.key(0), data)
    assert find_nonfinite(step.update, state, data, rows=ROWS) is None
    data["image"][4, 1] = np.nan
    finding = find_nonfinite(step.update, state, data, rows=ROWS)
    assert finding is not None
    assert (finding.source, finding.path, finding.rows) == ("input", "batch/image", (4,))


def test_bad_parameter():
    step, data = make(models.MLP((5, 3)), "accumulate"), batch()
    state = step.init(jax.random.key(0), data)
    kernel = state.params["dense_1"]["kernel"]
    bad = {**state.params, "dense_1": {**state.params["dense_1"], "kernel": kernel * jnp.nan}}
    finding = find_nonfinite(step.update, state.replace(params=bad), data, rows=ROWS)
    assert finding is not None
    assert (finding.path, finding.rows) == ("params/dense_1/kernel", tuple(range(ROWS)))


@pytest.mark.parametrize("layer", [Log, nn.remat(Log)], ids=["plain", "remat"])
@pytest.mark.parametrize(("estimator", "iterations"), [("mean", ()), ("accumulate", (1,))])
def test_layer_row_and_microbatch(layer, estimator, iterations):
    """Microbatch ``i`` of ``n`` takes rows ``i, i + n, ...``: row 3 is in the second of two."""
    step, data = make(Net(layer), estimator), batch()
    state = step.init(jax.random.key(0), data)
    data["image"][3, 2] = 0.0
    finding = find_nonfinite(step.update, state, data, rows=ROWS)
    assert finding is not None
    assert (finding.kind, finding.primitive) == ("inf", "log")
    assert (finding.layer, finding.direction) == ("Net/to_decibel", "forward")
    assert (finding.rows, finding.iterations) == ((3,), iterations)
    assert finding.shape == (ROWS // (1 + len(iterations)), 4)
    assert finding.where is not None
    assert "test_steps.py:" in finding.where
    assert finding.operands[0].entry == 0.0


class RootNet(nn.Module):
    """A root after the parameters, so that its derivative is asked for."""

    layer: type[nn.Module]

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(4, name="first", kernel_init=nn.initializers.ones)(x)
        return self.layer(name="root")(x)[:, :3]


@pytest.mark.parametrize("layer", [Root, nn.remat(Root)], ids=["plain", "remat"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_layer_of_a_fault_in_the_backward_pass(layer, estimator):
    step, data = make(RootNet(layer), estimator), batch()
    state = step.init(jax.random.key(0), data)
    data["image"][5] = 0.0
    finding = find_nonfinite(step.update, state, data, rows=ROWS)
    assert finding is not None
    assert (finding.primitive, finding.layer) == ("div", "RootNet/root")
    assert (finding.direction, finding.rows) == ("backward", (5,))


def test_fault_in_the_optimizer():
    step, data = make(models.MLP((5, 3)), optimizer=optax.sgd(3e38)), batch()
    state = step.init(jax.random.key(0), data)
    finding = find_nonfinite(step.update, state, {**data, "image": data["image"] * 100}, rows=ROWS)
    assert finding is not None
    assert (finding.primitive, finding.layer, finding.direction) == ("mul", "", None)


def test_label_that_names_no_class_is_a_row_too():
    """The losses answer a wrong label with NaN, which is a constant of the program."""
    step, data = make(models.MLP((5, 3))), batch()
    state = step.init(jax.random.key(0), data)
    data["label"][2] = 7
    finding = find_nonfinite(step.update, state, data, rows=ROWS)
    assert finding is not None
    assert (finding.primitive, finding.rows) == ("select_n", (2,))
    assert finding.where is not None
    assert "losses/classification.py:" in finding.where


def evaluated(fn, *args):
    program = jax.make_jaxpr(fn)(*args)
    inputs = [
        Value(x if isinstance(x, jax.Array) else jnp.asarray(x)) for x in jax.tree.leaves(args)
    ]
    shape = jax.eval_shape(fn, *args)
    values = Interpreter().run(program, inputs, Scope())
    return jax.tree.unflatten(jax.tree.structure(shape), [v.data for v in values])


def assert_same(ours, theirs):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_step_is_evaluated_as_jit_does(estimator):
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1, momentum=0.9))
    step, data = make(Scanned(), estimator, optimizer), batch()
    state = step.init(jax.random.key(0), data)
    assert_same(evaluated(step.update, state, data), jax.jit(step.update)(state, data))


def draws(key, x):
    more = jax.lax.scan(lambda k, _: (jax.random.split(k)[0], k), key, None, length=3)
    return more, jax.random.gamma(key, x), jax.random.permutation(key, x)


def loop(key, x):
    return jax.lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1] * x), (0, x))


def loop_by_row(key, x):
    return jax.vmap(lambda y: jax.lax.while_loop(lambda c: c < 3, lambda c: c * 1.5, y))(x)


@pytest.mark.parametrize(
    "fn",
    [
        draws,
        loop,
        loop_by_row,
        lambda key, x: jax.lax.scan(lambda c, y: (c * y, c + y), 1.0, x, reverse=True),
        lambda key, x: jax.lax.scan(lambda c, y: (c * 2, y), 1.0, x[:0]),
        lambda key, x: jax.lax.switch(7, [jnp.sin, jnp.cos], x),
        lambda key, x: jax.hessian(lambda x: jnp.sum(jnp.sin(x) ** 2 / x))(x),
        lambda key, x: jnp.linalg.inv(jnp.outer(x, x) + jnp.eye(4)),
    ],
)
def test_programs_are_evaluated_as_jit_does(fn):
    args = jax.random.key(3), jnp.linspace(0.1, 1.0, 4)
    assert_same(evaluated(fn, *args), jax.jit(fn)(*args))
