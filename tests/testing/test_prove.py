"""``prove`` itself: correct steps, its report, its errors, and the assertions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from zoo import batch, batches, plain_loss, sgd, state

import jaxdl
from jaxdl import losses, models
from jaxdl.errors import ConfigError, ProofError
from jaxdl.testing import (
    assert_compiles_once,
    assert_donated,
    assert_learns,
    assert_pure,
    assert_resumes_exactly,
    assert_same_program,
    prove,
)


def jaxdl_step(**options):
    objective = jaxdl.supervised(
        models.MLP((8, 3), **options), losses.softmax_cross_entropy, inputs="x"
    )
    return jaxdl.make_train_step(objective, optax.adam(1e-3), ema_decay=0.9)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "options"),
    [
        (jaxdl_step(), {}),
        (jaxdl_step(dropout_rate=0.3), {}),
        (jaxdl.jit(jaxdl_step(), devices=jax.devices()[:1]), {}),
        (sgd(plain_loss), {"state": state()}),
        (jax.jit(sgd(plain_loss)), {"state": state()}),
    ],
    ids=["jaxdl", "dropout", "placed", "dictionary", "jitted"],
)
def test_a_correct_step_has_no_findings(step, options):
    report = prove(step, batches(), devices=(1, 2), **options)
    assert report.ok, str(report)


def test_the_report_names_every_check_and_raises():
    def step(old, rows):
        new, sums = sgd(plain_loss)(old, rows)
        print(sums)
        return new, sums

    report = prove(step, [batch()], state=state(), fast=True)
    assert report.names == {"host-print"}
    text = str(report)
    assert "purity" in text
    assert "1 finding" in text
    with pytest.raises(ProofError, match="host-print"):
        report.check()


def test_what_is_no_step_or_has_no_start_is_told_so():
    with pytest.raises(ConfigError, match="no first state"):
        prove(sgd(plain_loss), [batch()])
    with pytest.raises(ConfigError, match="no batch"):
        prove(sgd(plain_loss), [], state=state())
    with pytest.raises(ConfigError, match="purity"):
        prove(sgd(plain_loss), [batch()], state=state(), skip=["purty"])
    with pytest.raises(ConfigError, match="returned"):
        prove(lambda old, rows: old, [batch()], state=state(), fast=True)


def test_assertions_pass_on_a_correct_step():
    step, start = sgd(plain_loss), {"state": state()}
    assert_pure(step, batches(), **start)
    assert_compiles_once(step, batches(), **start)
    assert_donated(step, batches(), **start)
    assert_learns(step, [batch()], below=0.9, steps=60, **start)
    assert_resumes_exactly(step, batches(), **start)
    assert_same_program(lambda x: x * 2, lambda y: y * 2, np.float32(1))


def test_assertions_say_what_is_wrong():
    def short(rows):
        return {name: value[:5] for name, value in rows.items()}

    step, start = sgd(plain_loss), {"state": state()}
    with pytest.raises(ProofError, match="batch/x"):
        assert_compiles_once(step, [batch(), short(batch())], **start)
    with pytest.raises(ProofError, match="below 0"):
        assert_learns(step, [batch()], below=0.0, steps=2, **start)
    with pytest.raises(ProofError, match="different programs"):
        assert_same_program(lambda x: x * 2, jnp.sin, np.float32(1))
