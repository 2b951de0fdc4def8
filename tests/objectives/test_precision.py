"""The precision policy: what is cast, what is not, and what the program then computes in."""

from __future__ import annotations

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxdl
from jaxdl import gradients, losses, metrics, models
from jaxdl.errors import ConfigError, PathError
from jaxdl.objectives import (
    Precision,
    from_mean,
    from_nnx,
    language_model,
    precision,
    supervised,
    with_precision,
)
from jaxdl.protocols import Aux, Mean, Objective

RNG = np.random.default_rng(0)
IMAGES = {
    "image": RNG.integers(0, 256, (16, 12, 12, 1)).astype(np.uint8),
    "label": RNG.integers(0, 10, 16).astype(np.int32),
}
TOKENS = {"tokens": RNG.integers(0, 19, (8, 9)).astype(np.int32)}


def classifier(model, **options):
    return supervised(model, losses.softmax_cross_entropy, **options)


def gpt(**options):
    return models.GPT(
        vocab_size=19, num_layers=2, num_heads=2, hidden_dim=16, max_length=8, **options
    )


PAIRS = {
    "mlp": lambda: (classifier(models.MLP((32, 10), activation=nn.tanh)), IMAGES),
    "cnn": lambda: (classifier(models.CNN(norm="batch")), IMAGES),
    "gpt": lambda: (language_model(gpt()), TOKENS),
    "chunked": lambda: (language_model(gpt(scan_layers=True), chunk_size=4), TOKENS),
}


def started(objective, batch):
    return jax.jit(objective.init)(jax.random.key(0), batch)


def differentiated(objective, params, state, batch):
    def run(params, state, batch):
        return gradients.mean()(objective)(params, state, batch, jax.random.key(1))

    return jax.jit(run), (params, state, batch)


def norm(tree):
    return jnp.sqrt(sum(jnp.vdot(x, x) for x in jax.tree.leaves(tree)))


def products(text):
    found = re.findall(r"(?:dot_general|convolution).*: \((tensor<\S+>), (tensor<\S+>)\)", text)
    assert found
    return {tuple(re.search(r"x(b?f\d+)>", side)[1] for side in pair) for pair in found}


@pytest.mark.parametrize("name", PAIRS)
def test_products_are_half(name):
    plain, batch = PAIRS[name]()
    half = with_precision(plain, "bf16")
    params, state = jax.eval_shape(plain.init, jax.random.key(0), batch)
    forward = jax.jit(functools.partial(half.loss, train=True))
    text = forward.lower(params, state, batch, jax.random.key(1)).as_text()
    assert products(text) == {("bf16", "bf16")}
    run, args = differentiated(half, params, state, batch)
    # A transformer's scores and logits come out of their product in float32: so does its gradient.
    wide = {("f32", "f32"), ("f32", "bf16"), ("bf16", "f32")} if "tokens" in batch else set()
    assert products(run.lower(*args).as_text()) - wide == {("bf16", "bf16")}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n == "mlp" else pytest.mark.slow) for n in PAIRS]
)
def test_half_precision_is_close(name):
    plain, batch = PAIRS[name]()
    params, state = started(plain, batch)
    run, args = differentiated(plain, params, state, batch)
    exact, _ = run(*args)
    run, args = differentiated(with_precision(plain, "bf16"), params, state, batch)
    rounded, aux = run(*args)
    error = norm(jax.tree.map(jnp.subtract, rounded, exact))
    # A unit near the corner of a ReLU may fall to the other side, and its gradient with it.
    assert 1e-5 < float(error / norm(exact)) < (0.15 if name == "cnn" else 0.05)
    assert {g.dtype.name for g in jax.tree.leaves(rounded)} == {"float32"}
    assert all(m.dtype == jnp.float32 for m in jax.tree.leaves(aux.metrics))


def test_float32_policy_is_the_same_program():
    for plain, batch in (pair() for pair in PAIRS.values()):
        texts = []
        for objective in (plain, with_precision(plain, "f32")):
            step = jaxdl.make_train_step(objective, optax.adam(1e-3), ema_decay=0.9)
            start = jax.eval_shape(step.init, jax.random.key(0), batch)
            texts.append(jax.jit(step.update).lower(start, batch).as_text())
        assert texts[0] == texts[1]


def test_a_thousand_tiny_updates_are_kept():
    objective = from_mean(lambda p, b: p * jnp.mean(b["x"]), lambda key, batch: jnp.ones(()))
    batch = {"x": jnp.ones(4)}
    ends = {}
    for policy in ("bf16", "params=bf16,compute=bf16,output=bf16"):
        step = jaxdl.make_train_step(with_precision(objective, policy), optax.sgd(1e-4))
        state = step.init(jax.random.key(0), batch)

        def body(state, _, step=step):
            return step.update(state, batch)[0], None

        ends[policy], _ = jax.jit(lambda s, body=body: jax.lax.scan(body, s, length=1000))(state)
    master, half = (end.params for end in ends.values())
    np.testing.assert_allclose(master, 0.9, atol=1e-4)
    assert half.dtype == jnp.bfloat16
    assert float(half) == 1.0  # 1 - 1e-4 is no bfloat16.


def test_sums_of_many_half_losses_are_exact():
    def loss(params, state, batch, key, *, train):
        each = batch["x"] * params
        total, weight = jaxdl.reductions.masked_sum(each, batch["mask"])
        return total, Aux(jnp.sum(batch["mask"]), state, {"n": Mean(total, weight)})

    rows = 10_001
    batch = {"x": jnp.ones(rows), "mask": jnp.ones(rows)}
    total, aux = with_precision(Objective(None, loss), "bf16").loss(
        jnp.ones(()), {}, batch, None, train=True
    )
    assert float(total) == float(aux.weight) == float(aux.metrics["n"].total) == rows
    assert float(total.astype(jnp.bfloat16)) != rows  # What a sum kept in bfloat16 would say.


def test_what_is_cast_and_what_is_not():
    seen = {}

    def loss(params, state, batch, key, *, train):
        seen.update(jax.tree.map(lambda x: x.dtype.name, {"params": params, **batch, **state}))
        half = jnp.sum(batch["x"] * params["w"])
        return half, Aux(half, {"mean": half, "n": state["n"]}, {"m": half}, {"y": half})

    params = {"w": jnp.ones(3), "n": jnp.arange(3), "head": jnp.ones(3)}
    batch = {
        "x": jnp.ones(3),
        "wide": np.ones(3, np.float32),
        "mask": jnp.ones(3),
        "target": jnp.ones(3),
        "id": jnp.arange(3),
        "flag": jnp.ones(3, bool),
        "key": jax.random.split(jax.random.key(0), 3),
    }
    state = {"mean": jnp.zeros(()), "n": jnp.zeros((), jnp.int32)}
    objective = with_precision(Objective(None, loss), "c=f16,o=f16", keep="^head$")
    total, aux = objective.loss(params, state, batch, None, train=True)
    assert seen == {
        "params": {"w": "float16", "n": "int32", "head": "float32"},
        "x": "float16",
        "wide": "float16",
        "mask": "float32",
        "target": "float32",
        "id": "int32",
        "flag": "bool",
        "key": batch["key"].dtype.name,
        "mean": "float32",
        "n": "int32",
    }
    types = jax.tree.map(lambda x: x.dtype.name, (total, aux))
    weighed = Aux("float32", {"mean": "float32", "n": "int32"}, {"m": "float32"}, {"y": "float16"})
    assert types == ("float32", weighed)
    narrow = with_precision(Objective(None, loss), "bf16", exact=("x",))
    narrow.loss(params, state, batch, None, train=True)
    assert (seen["x"], seen["mask"]) == ("float32", "bfloat16")
    with pytest.raises(PathError, match="nothing_of_it"):
        lost = with_precision(Objective(None, loss), "bf16", keep="nothing_of_it")
        lost.loss(params, state, batch, None, train=True)


class Own(nn.Module):
    """A layer in the dtype of the policy, and one that says its own."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(4, name="free")(x)
        self.sow("intermediates", "after_free", x)
        x = nn.Dense(3, dtype=jnp.float32, name="own")(x)
        self.sow("intermediates", "after_own", x)
        return nn.Dense(2, dtype=jnp.float16, name="narrow")(x)


def test_modules_with_a_dtype_of_their_own_keep_it():
    seen = {}

    def mean_loss(params, batch):
        out, kept = Own().apply({"params": params}, batch["x"], mutable=["intermediates"])
        seen.update({k: v[0].dtype.name for k, v in kept["intermediates"].items()})
        seen["out"] = out.dtype.name
        return jnp.mean(out)

    batch = {"x": jnp.ones((4, 3))}
    objective = from_mean(mean_loss, lambda key, b: Own().init(key, b["x"])["params"])
    params, _ = objective.init(jax.random.key(0), batch)
    with_precision(objective, "bf16").loss(params, {}, batch, None, train=True)
    assert seen == {"after_free": "bfloat16", "after_own": "float32", "out": "float32"}
    mean_loss(params, batch)
    assert seen == {"after_free": "float32", "after_own": "float32", "out": "float16"}


def test_nnx_and_parameters_of_another_master():
    objective = from_nnx(
        lambda rngs: nnx.Linear(3, 2, rngs=rngs), losses.mean_squared_error, inputs="x"
    )
    batch = {"x": np.ones((4, 3), np.float32), "label": np.ones((4, 2), np.float32)}
    mixed = with_precision(objective, "params=bf16,compute=f32")
    step = jaxdl.make_train_step(mixed, optax.adam(1e-2), ema_decay=0.9)
    state = jax.jit(step.init)(jax.random.key(0), batch)
    floats = jax.tree.leaves((state.params, state.opt_state[0].mu, state.ema))
    assert {x.dtype.name for x in floats} == {"bfloat16"}
    state, sums = jax.jit(step.update)(state, batch)
    assert sums["loss"].total.dtype == jnp.float32
    half = jaxdl.make_eval_step(
        with_precision(objective, "bf16"), {"mse": metrics.mean_squared_error()}
    )
    assert np.isfinite(jaxdl.report(half(state, batch))["loss"])


PLACED = {
    "jit": jaxdl.jit,
    "fsdp": functools.partial(jaxdl.jit, layout=jaxdl.fsdp(min_size=1)),
    "pmap": jaxdl.pmap,
}


HOW = {"accumulate": gradients.accumulate(2), "reproducible": gradients.reproducible(shards=8)}


@pytest.mark.parametrize(
    ("model", "placement", "how"),
    [
        ("mlp", "fsdp", "accumulate"),
        *(pytest.param("cnn", p, h, marks=pytest.mark.slow) for p in PLACED for h in HOW),
    ],
)
def test_the_state_is_a_fixed_point_wherever_it_lies(model, placement, how):
    objective, batch = PAIRS[model]()
    pure = jaxdl.make_train_step(
        with_precision(objective, "bf16"),
        optax.adam(1e-2),
        gradient=HOW[how],
        ema_decay=0.9,
        freeze="(conv|dense)_0",
    )
    step = PLACED[placement](pure)
    state = step.init(jax.random.key(0), batch)
    before = jax.tree.map(lambda x: x.dtype, state)
    for _ in range(2):
        state, sums = step(state, batch)
    assert jax.tree.map(lambda x: x.dtype, state) == before
    floats = jax.tree.leaves((state.params, state.ema, state.model_state))
    assert {x.dtype.name for x in floats} == {"float32"}
    assert np.isfinite(jaxdl.report(sums)["loss"])


def test_spellings():
    assert precision("bf16") == precision("bfloat16") == Precision() == precision(Precision())
    assert precision("p=f32, c=float16") == precision("f16") == Precision(compute=np.float16)
    assert hash(Precision("f32")) == hash(Precision(jnp.float32))
    for policy in (precision("f32"), Precision("f64", "f16", "bf16")):
        assert Precision.parse(str(policy)) == policy
    assert Precision.parse("f32") == precision("f32")


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("bf61", "did you mean 'bf16'"),
        ("compute=bfloat61", "did you mean 'bfloat16'"),
        ("comptue=bf16", "did you mean 'compute'"),
        ("compute=bf16,c=f16", "at most once"),
        ("compute=int32", "no dtype to compute in"),
        ("compute=", "no dtype to compute in"),
        ("", "there is no precision ''"),
        ("params=f64", "jax_enable_x64"),
    ],
)
def test_what_is_no_policy(policy, message):
    with pytest.raises(ConfigError, match=message):
        with_precision(Objective(None, None), policy)


def test_no_dtype_is_no_dtype():
    with pytest.raises(ConfigError, match="compute is None"):
        Precision(compute=None)


def test_float16_without_a_scale_is_warned_of():
    objective = with_precision(PAIRS["mlp"]()[0], "f16")
    with pytest.warns(UserWarning, match="gradients.scaled"):
        jaxdl.make_train_step(objective, optax.sgd(0.1))
    jaxdl.make_train_step(objective, optax.sgd(0.1), gradient=gradients.scaled())
