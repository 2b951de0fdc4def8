"""The steps that do not train: which parameters they read, what they measure, what they return."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdl
from jaxdl import metrics
from jaxdl.errors import ObjectiveError
from jaxdl.protocols import Aux, Mean, Objective

X = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
BATCH = {"x": X, "label": X[:, 0]}


class Noisy(nn.Module):
    """Dense behind a dropout, so that training and predicting differ."""

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.BatchNorm(use_running_average=not train)(x)
        return nn.Dense(1)(nn.Dropout(0.5, deterministic=not train)(x))[:, 0]


MODEL = Noisy()
OBJECTIVE = jaxdl.supervised(MODEL, lambda out, y: (out - y) ** 2, inputs="x")


@pytest.fixture(scope="module")
def state():
    step = jaxdl.make_train_step(OBJECTIVE, optax.sgd(0.1), ema_decay=0.5)
    state = jax.jit(step.init)(jax.random.key(0), BATCH)
    return jax.jit(step.update)(state, BATCH)[0]


def expected(params, state):
    return MODEL.apply({"params": params, **state.model_state}, X)


def by_hand(params, model_state, batch):
    return MODEL.apply({"params": params, **model_state}, batch["x"])


@pytest.mark.parametrize("source", [MODEL, OBJECTIVE, by_hand], ids=["module", "objective", "own"])
def test_predictions_are_the_models_without_noise(state, source):
    predict = jaxdl.make_predict_step(source, inputs="x")
    np.testing.assert_allclose(predict(state, BATCH), expected(state.params, state), rtol=1e-6)
    averaged = jaxdl.make_predict_step(source, inputs="x", use_ema=True)(state, BATCH)
    np.testing.assert_allclose(averaged, expected(state.ema, state), rtol=1e-6)
    assert not np.allclose(averaged, expected(state.params, state), rtol=1e-3)


def test_a_module_reads_the_image_unless_told():
    class Plain(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(1)(x)

    params = Plain().init(jax.random.key(0), X)["params"]
    state = jaxdl.TrainState(jnp.int32(0), params, (), {}, jax.random.key(0))
    outputs = jaxdl.make_predict_step(Plain())(state, {"image": X})
    np.testing.assert_allclose(outputs, X @ params["Dense_0"]["kernel"], rtol=1e-5)


@pytest.mark.parametrize("use_ema", [False, True])
def test_evaluation_measures_the_loss_and_what_is_asked(state, use_ema):
    evaluate = jaxdl.make_eval_step(
        OBJECTIVE, {"mse": metrics.mean_squared_error()}, use_ema=use_ema
    )
    params = state.ema if use_ema else state.params
    error = np.mean((np.asarray(expected(params, state)) - BATCH["label"]) ** 2)
    report = jaxdl.report(evaluate(state, BATCH))
    assert list(report) == ["loss", "mse"]
    assert report["loss"] == pytest.approx(error, rel=1e-5)
    assert report["mse"] == pytest.approx(error, rel=1e-5)


def test_a_function_has_no_loss_and_its_metrics_are_summed_over_an_axis(state):
    evaluate = jaxdl.make_eval_step(by_hand, {"mse": metrics.mean_squared_error()})
    whole = evaluate(state, BATCH)
    assert list(whole) == ["mse"]
    parts = jax.tree.map(lambda x: x.reshape(3, 2, *x.shape[1:]), BATCH)
    summed = jax.vmap(lambda batch: evaluate(state, batch, axis_name="data"), axis_name="data")
    for part in range(3):
        got = jax.tree.map(lambda x, part=part: x[part], jax.jit(summed)(parts))
        assert jaxdl.report(got) == pytest.approx(jaxdl.report(whole), rel=1e-5)


def without_outputs(params, model_state, batch, key, *, train):
    assert not train
    return jnp.sum(params * batch["x"]), Aux(6.0, model_state, {"n": Mean(1.0, 2.0)})


BARE = Objective(lambda key, batch: (jnp.ones(()), {}), without_outputs)


def bare_state():
    return jaxdl.TrainState(jnp.int32(0), jnp.ones(()), (), {}, jax.random.key(0))


def test_an_objective_without_outputs_is_measured_by_its_own_metrics_alone():
    report = jaxdl.report(jaxdl.make_eval_step(BARE)(bare_state(), BATCH))
    assert report == {"loss": pytest.approx(X.sum() / 6, rel=1e-5), "n": 0.5}
    for step in (
        jaxdl.make_eval_step(BARE, {"a": metrics.accuracy()}),
        jaxdl.make_predict_step(BARE),
    ):
        with pytest.raises(ObjectiveError, match=r"no Aux.outputs"):
            step(bare_state(), BATCH)


@pytest.mark.parametrize("make", [jaxdl.make_eval_step, jaxdl.make_predict_step])
def test_a_state_without_an_average_has_none_to_read(make):
    with pytest.raises(ObjectiveError, match="keeps no moving average"):
        make(BARE, use_ema=True)(bare_state(), BATCH)
