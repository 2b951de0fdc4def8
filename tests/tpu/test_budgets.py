"""Budgets of a step: how they are read, what exceeds them, and whom the excess comes from."""

from __future__ import annotations

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from planned import AVAILABLE, GIB, planned
from real_compiler import needs_libtpu, printed

import jaxdl
from jaxdl import layouts, losses, models
from jaxdl.errors import ConfigError, JaxdlError
from jaxdl.tpu.budget import budgets, measured
from jaxdl.tpu.budget.budgets import BudgetError, assert_budget
from jaxdl.tpu.budget.limits import TrafficLimit, parse_size, read_limits
from jaxdl.tpu.budget.measured import measured_of, read_measured, write_measured
from jaxdl.tpu.plans.facts import Buffer
from jaxdl.tpu.programs.hlo import Collective

BATCH = {"x": jax.ShapeDtypeStruct((4096, 64), np.float32)}


def chained(params, x):
    for name in ("block_0", "block_1"):
        with jax.named_scope(name):
            for layer in ("mlp_in", "mlp_out"):
                with jax.named_scope(layer):
                    x = jnp.tanh(x @ params[name][layer]["kernel"])
    return x


def scanned(params, x):
    def body(x, layer):
        with jax.named_scope("blocks"):
            return chained({"block_0": layer, "block_1": layer}, x), None

    return jax.lax.scan(body, x, params["blocks"])[0]


def step_of(forward, params):
    """A step by hand, whose modules have names and whose state has the usual fields."""

    def loss(params, batch):
        return jnp.mean(jnp.square(forward(params, batch["x"])))

    def update(state, batch):
        value, grads = jax.value_and_grad(loss)(state["params"], batch)
        new = jax.tree.map(lambda w, g: w - 0.1 * g, state["params"], grads)
        return {"params": new}, {"loss": value}

    return update, {"params": params}


def kernels(*stack):
    shapes = {"mlp_in": (*stack, 64, 256), "mlp_out": (*stack, 256, 64)}
    return {k: {"kernel": jax.ShapeDtypeStruct(v, jnp.float32)} for k, v in shapes.items()}


@pytest.fixture(scope="module")
def placed():
    """What is measured of three programs on the 8 devices, each compiled once."""
    plain = step_of(chained, {"block_0": kernels(), "block_1": kernels()})
    stack = step_of(scanned, {"blocks": kernels(3)})
    chosen = {
        "data": (plain, layouts.data_parallel()),
        "fsdp": (plain, layouts.fsdp()),
        "scanned": (stack, layouts.fsdp()),
    }
    return {
        name: measured.measure(step, BATCH, layout=layout, state=state)
        for name, ((step, state), layout) in chosen.items()
    }


@pytest.fixture
def known(placed, monkeypatch):
    """``assert_budget`` of a layout, without compiling it again."""
    monkeypatch.setattr(budgets, "measure", lambda step, batch, **options: placed[step])
    return lambda name, **limits: assert_budget(name, BATCH, **limits)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("12GiB", 12 * 2**30),
        ("12 GB", 12 * 10**9),
        ("1.5KiB", 1536),
        ("2kB", 2000),
        ("0B", 0),
        ("3 TiB", 3 * 2**40),
        (5, 5),
    ],
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("12G", "write '12GB' or '12GiB'"),
        ("12", "say of what: '12GiB'"),
        ("12gib", "write '12GiB'"),
        ("12KB", "write '12kB'"),
        ("12 GiBB", "did you mean 'GiB'"),
        ("-3GiB", "write a number and a unit"),
        ("a lot", "write a number and a unit"),
        (-1, "write a number and a unit"),
        (True, "write a number and a unit"),
    ],
)
def test_sizes_that_are_none(text, advice):
    with pytest.raises(ConfigError, match="is no size") as caught:
        parse_size(text, "hbm")
    assert advice in caught.value.do
    assert "'12GiB' (12 * 2**30 bytes)" in caught.value.expected


@pytest.mark.parametrize(
    ("written", "limit", "words"),
    [
        (0, (0, None), "0"),
        ("<=40", (40, None), "40"),
        ("<= 40, 100MiB", (40, 100 * 2**20), "40 sending 100.00 MiB"),
        ("1kB,<=2", (2, 1000), "2 sending 1000 B"),
        ("100MiB", (None, 100 * 2**20), "sending 100.00 MiB"),
    ],
)
def test_limits_of_collectives(written, limit, words):
    read = read_limits(None, {"all-reduce": written}, None, None).collectives["all-reduce"]
    assert read == limit
    assert str(read) == words


@pytest.mark.parametrize("written", ["40", "<40", "==3", "", "<=1, <=2", "1MiB, 2MiB", -1, True])
def test_limits_of_collectives_that_are_none(written):
    with pytest.raises(ConfigError, match="budget of all-gather is"):
        read_limits(None, {"all-gather": written}, None, None)


def test_kinds_and_numbers_are_checked():
    with pytest.raises(ConfigError, match="'all_gather'") as caught:
        read_limits(None, {"all_gather": 0}, None, None)
    assert caught.value.do == "did you mean 'all-gather'?"
    read = read_limits(None, {"all-reduce over dcn": 0, "other": 3}, None, None)
    assert read.collectives["other"] == TrafficLimit(3, None)
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="flops"):
            read_limits(None, {}, wrong, None)
        with pytest.raises(ConfigError, match="step_seconds"):
            read_limits(None, {}, None, wrong)


def test_within_the_budget(known, placed):
    found = known(
        "data",
        hbm="1GiB",
        flops=1e12,
        collectives={"all-gather": 0, "all-to-all": 0, "all-reduce": "<=1, 10MiB"},
    )
    assert found is placed["data"]
    assert found.where == "8 x cpu"
    assert found.seconds is None
    # Exactly as much is not too much.
    sent = sum(each.wire_bytes for each in found.collectives)
    known("data", hbm=found.peak, flops=float(found.flops), collectives={"all-reduce": f"{sent}B"})


def test_all_violations_at_once(known):
    with pytest.raises(BudgetError) as caught:
        known("fsdp", hbm="100KiB", flops=1.0, collectives={"all-gather": 0, "all-reduce": "1kB"})
    assert isinstance(caught.value, AssertionError)
    assert isinstance(caught.value, JaxdlError)
    text = str(caught.value)
    assert "in 4 figure(s)" in text
    for name in ("hbm ", "flops ", "all-gather ", "all-reduce "):
        assert f"\n    {name}" in text
    assert "at most 100.00 KiB" in text
    assert "temporaries" in text
    # JAX 0.11 keeps no name on this gather: both parameters of its shape are named then.
    assert re.search(r"gather \(\w+\) of .*params/block_1/mlp_in/kernel", text)
    assert "at most sending 1000 B" in text


def test_executed_collectives_count_loops_and_name_the_stack(known):
    with pytest.raises(BudgetError) as caught:
        known("scanned", collectives={"all-gather": "<=11"})
    lines = str(caught.value).splitlines()
    named = next(line for line in lines if "(forwards) of params/blocks/mlp_out/kernel" in line)
    # Three layers, one gather each.
    assert named.strip().startswith("3 sending ")
    assert "f32[3,256,64]" in named


def test_other_is_for_the_kinds_without_a_budget(known):
    known("data", collectives={"other": 0, "all-reduce": 1})
    with pytest.raises(BudgetError, match=r"all-gather \(other\)  at most 0"):
        known("fsdp", collectives={"other": 0, "all-reduce": 9})


def test_a_baseline_tells_what_is_new_and_what_is_gone(known, placed, tmp_path):
    path = tmp_path / "baseline.json"
    write_measured(known("data"), path)
    assert read_measured(path) == placed["data"]
    known("data", baseline=path)
    with pytest.raises(BudgetError) as caught:
        known("scanned", baseline=str(path))
    text = str(caught.value)
    assert re.search(r"all-gather \(baseline\) +at most 0 +got 12 sending", text)
    assert "+ 3 sending" in text
    assert "gather (backwards) of params/blocks/mlp_in/kernel f32[3,64,256]" in text
    assert "not above its baseline" in caught.value.expected
    assert "write_measured" in caught.value.do
    # The other way round nothing is more, but for what is kept whole on every device.
    write_measured(placed["fsdp"], path)
    with pytest.raises(BudgetError) as caught:
        known("data", baseline=path)
    assert "all-gather" not in str(caught.value)


def test_a_baseline_in_memory_and_tolerance(monkeypatch, tmp_path):
    path = tmp_path / "baseline.json"
    kernel = Buffer("params/w", "parameters", (8, 8), "float32", "P('fsdp')", 32)
    whole = Buffer("params/w", "parameters", (8, 8), "float32", "P()", 256)
    old = measured_of(planned(1000, buffers=(kernel,), total=100, seconds=(1.0, 2.0)))
    new = measured_of(planned(1100, buffers=(whole,), total=101, seconds=(1.0, 2.1)))
    write_measured(old, path)
    monkeypatch.setattr(budgets, "measure", lambda *given, **options: new)
    with pytest.raises(BudgetError) as caught:
        assert_budget(None, {}, topology="v5e-16", baseline=path)
    text = str(caught.value)
    assert "peak memory (baseline)" in text
    assert "params/w: 256 B, P(), was 32 B, P('fsdp')" in text
    assert "flops (baseline)" in text
    assert "step seconds (baseline)" in text
    assert "temporaries" not in text
    assert_budget(None, {}, topology="v5e-16", baseline=path, tolerance=0.11)
    with pytest.raises(BudgetError) as caught:
        assert_budget(None, {}, topology="v5e-16", baseline=path, tolerance=0.06)
    assert "in 1 figure(s)" in str(caught.value)
    # A collective more is a collective more.
    extra = Collective("all-reduce", 4, 16, 1, 8, "", (0, 1), ("f32[1]",))
    more = measured_of(planned(1000, collectives=(extra,), buffers=(kernel,), total=100))
    monkeypatch.setattr(budgets, "measure", lambda *given, **options: more)
    with pytest.raises(BudgetError, match="all-reduce"):
        assert_budget(None, {}, topology="v5e-16", baseline=path, tolerance=9.0)


def test_a_program_that_is_refused_always_fails(monkeypatch):
    refused = measured_of(planned(AVAILABLE + GIB))
    monkeypatch.setattr(budgets, "measure", lambda *given, **options: refused)
    with pytest.raises(BudgetError, match="memory  at most to fit  got refused"):
        assert_budget(None, {}, topology="v5e-16")
    with pytest.raises(BudgetError) as caught:
        assert_budget(None, {}, topology="v5e-16", hbm="12GiB", collectives={"all-reduce": 0})
    assert "at most 12.00 GiB  got 17.00 GiB" in str(caught.value)


def test_step_seconds_are_of_the_slower_prediction(monkeypatch):
    found = measured_of(planned(10, seconds=(1.0, 2.0)))
    monkeypatch.setattr(budgets, "measure", lambda *given, **options: found)
    assert_budget(None, {}, topology="v5e-16", step_seconds=2.0)
    with pytest.raises(BudgetError, match=r"step_seconds  at most 1\.99  got 2 at slowest"):
        assert_budget(None, {}, topology="v5e-16", step_seconds=1.99)


def test_what_cannot_be_compared(known, placed, tmp_path):
    with pytest.raises(ConfigError, match="step_seconds=1.0 without a topology"):
        known("data", step_seconds=1.0)
    for wrong in (-0.1, float("nan")):
        with pytest.raises(ConfigError, match="tolerance"):
            known("data", tolerance=wrong)
    path = tmp_path / "baseline.json"
    with pytest.raises(ConfigError, match="there is no baseline"):
        known("data", baseline=path)
    for text in ("{", "[]", "3", '{"measured": {}}', json.dumps({"measured": {"where": 1}})):
        path.write_text(text)
        with pytest.raises(ConfigError, match="is no baseline"):
            known("data", baseline=path)
    write_measured(measured_of(planned(1)), path)
    with pytest.raises(ConfigError, match="is of v5e-16, the step was compiled for 8 x cpu"):
        known("data", baseline=path)


def test_bytes_tell_sizes_apart_that_words_do_not(monkeypatch):
    found = measured_of(planned(GIB + 1))
    monkeypatch.setattr(budgets, "measure", lambda *given, **options: found)
    with pytest.raises(BudgetError, match="at most 1,073,741,824 B  got 1,073,741,825 B"):
        assert_budget(None, {}, topology="v5e-16", hbm="1GiB")


def test_steps_of_every_kind():
    def step(state, batch):
        new = jax.tree.map(lambda w: w - 0.1 * jnp.mean(batch["x"]), state)
        return new, {"mean": jnp.mean(batch["x"])}

    state = {"w": jnp.zeros((8,))}
    found = assert_budget(
        step,
        {"x": np.zeros((16, 4), np.float32)},
        state=state,
        collectives={"all-reduce": "<=2", "other": 0},
        hbm="1MiB",
    )
    assert found.flops == 0
    objective = jaxdl.supervised(models.MLP((4,)), losses.softmax_cross_entropy)
    step = jaxdl.make_train_step(objective, optax.sgd(1e-3))
    batch = {"image": np.zeros((16, 4), np.float32), "label": np.zeros(16, np.int32)}
    one = jaxdl.jit(step, devices=jax.devices()[:1])
    assert assert_budget(one, batch, collectives={"other": 0}).where == "1 x cpu"
    assert assert_budget(step, batch, hbm="1MiB", flops=1e6).where == "8 x cpu"


REAL = """
import jax, jax.numpy as jnp, numpy as np, optax
import jaxdl
from jaxdl import layouts, losses, models
from jaxdl.objectives import language_model
from jaxdl.tpu.budget.budgets import BudgetError, assert_budget
from jaxdl.tpu.budget.measured import read_measured, write_measured

def step(layout):
    model = models.GPT(vocab_size=1024, num_layers=2, num_heads=4, hidden_dim=256, max_length=128,
                       dtype=jnp.bfloat16)
    return jaxdl.jit(jaxdl.make_train_step(language_model(model), optax.adamw(1e-3)), layout=layout)

batch = {"tokens": jax.ShapeDtypeStruct((32, 129), np.int32)}
found = assert_budget(step(layouts.data_parallel()), batch, topology="v5e-16", hbm="1GiB",
                      collectives={"other": 0, "all-reduce": "<=4, 20MiB"}, step_seconds=1.0)
write_measured(found, "baseline.json")
assert read_measured("baseline.json") == found
try:
    assert_budget(step(layouts.fsdp()), batch, topology="v5e-16", baseline="baseline.json")
except BudgetError as error:
    print(error)
"""


@needs_libtpu[0]
@needs_libtpu[1]
def test_budgets_of_a_slice(tmp_path):
    shown = printed(REAL, folder=tmp_path, JAXDL_DATA_DIR=str(tmp_path))
    assert "all-gather (baseline)" in shown
    assert "(forwards) of params/block_1/mlp_in/kernel f32[256,1024]" in shown
