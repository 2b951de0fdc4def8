"""The loop: what it computes, when it reads, how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import jax
import numpy as np
import optax
import pytest

import jaxdl
from jaxdl import data, losses, metrics, models
from jaxdl.errors import ConfigError, NonFiniteError
from jaxdl.hooks import Every
from jaxdl.protocols import Hook, Record, TrainStep

ROWS, FEATURES, CLASSES = 20, 3, 2


@pytest.fixture(scope="module")
def batches():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, FEATURES)).astype(np.float32)
    source = data.arrays({"x": x, "label": (x[:, 0] > 0).astype(np.int32)})
    return data.Batches(source, 8, seed=1)


@pytest.fixture(scope="module")
def step():
    objective = jaxdl.supervised(
        models.MLP((4, CLASSES)),
        losses.softmax_cross_entropy,
        metrics={"accuracy": metrics.accuracy()},
        inputs="x",
    )
    return jaxdl.make_train_step(objective, optax.sgd(0.5, momentum=0.9))


@pytest.fixture(scope="module")
def placed(step):
    return jaxdl.jit(step, layout=jaxdl.single())


class Remember(Hook):
    """Keeps what it is told."""

    def __init__(self):
        self.calls: list[str] = []

    def open(self, start, steps):
        self.calls.append(f"open {start} {steps}")

    def tick(self, step):
        self.calls.append(f"tick {step}")

    def record(self, record):
        self.calls.append(f"record {record.split} {record.step}")

    def close(self):
        self.calls.append("close")


def by_hand(placed, batches, steps, log_every):
    """The synchronous loop, which reads every step at once."""
    state, window, reports = placed.init(0, batches[0]), [], {}
    for k in range(steps):
        state, sums = placed(state, batches[k])
        window.append(jax.device_get(sums))
        if (k + 1) % log_every == 0 or k + 1 == steps:
            reports[k + 1] = metrics.report(metrics.total(window))
            window = []
    return state, reports


def test_records_and_state_are_those_of_a_synchronous_loop(placed, batches):
    state, reports = by_hand(placed, batches, 11, 4)
    result = jaxdl.fit(placed, batches, steps=11, seed=0, log_every=4)
    assert [record.step for record in result.records] == [4, 8, 11]
    for record in result.records:
        values = {k: v for k, v in record.values.items() if k != "stall" and "second" not in k}
        assert record.split == "train"
        assert values == reports[record.step]
    jax.tree.map(np.testing.assert_array_equal, result.state.params, state.params)
    assert (result.step, result.stopped) == (11, None)


def test_sums_are_sent_ahead_where_the_backend_is_not_the_cpu(placed, batches, monkeypatch):
    here = jaxdl.fit(placed, batches, steps=6, log_every=2).records
    sent = []
    array = type(jax.numpy.zeros(()))
    real = array.copy_to_host_async
    monkeypatch.setattr(array, "copy_to_host_async", lambda x: sent.append(1) or real(x))
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    there = jaxdl.fit(placed, batches, steps=6, log_every=2).records
    assert len(sent) == 6 * len(jax.tree.leaves(placed(placed.init(0, batches[0]), batches[0])[1]))
    for one, other in zip(here, there, strict=True):
        assert one.values["loss"] == other.values["loss"]


@pytest.mark.parametrize("place", [jaxdl.jit, jaxdl.pmap])
def test_the_loop_is_the_same_wherever_the_step_lies(step, placed, batches, place):
    one = jaxdl.fit(placed, batches, steps=6, log_every=2)
    first = jaxdl.fit(place(step), batches, steps=3, log_every=2)
    many = jaxdl.fit(place(step), batches, steps=6, state=first.state, log_every=2)
    assert [record.step for record in many.records] == [4, 6]
    for record, other in zip(many.records[1:], one.records[2:], strict=True):
        assert record.values["loss"] == pytest.approx(other.values["loss"], rel=1e-5)
        assert record.values["accuracy"] == other.values["accuracy"]


def test_a_run_in_two_parts_is_the_run_in_one(placed, batches):
    whole = jaxdl.fit(placed, batches, steps=9).state
    first = jaxdl.fit(placed, batches, steps=4)
    rest = jaxdl.fit(placed, batches, steps=9, state=first.state)
    jax.tree.map(np.testing.assert_array_equal, rest.state.params, whole.params)
    assert int(whole.step) == int(rest.state.step) == rest.step == 9


def watch_reads(monkeypatch, reads):
    """Counts every way by which the host can read or wait for an array."""

    def counted(owner, name):
        real = getattr(owner, name)

        def wrapped(*args, **kwargs):
            reads.append(name)
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, wrapped)

    array = type(jax.numpy.zeros(()))
    for name in ("__array__", "__float__", "__int__", "__bool__", "item", "tolist"):
        counted(array, name)
    for name in ("device_get", "block_until_ready"):
        counted(jax, name)
    counted(array, "block_until_ready")
    float(jax.numpy.zeros(()))
    jax.device_get(jax.numpy.zeros(()))
    assert {"__float__", "device_get"} <= set(reads), "the watch sees what it should"


def test_reports_come_one_log_point_late_and_nothing_is_read_between(placed, batches, monkeypatch):
    reads = []
    remember = Remember()
    watch_reads(monkeypatch, reads)

    class Count(Hook):
        def tick(self, step):
            remember.calls.append(f"reads {len(reads)}")

    jaxdl.fit(placed, batches, steps=9, log_every=4, hooks=[remember, Count()])
    events = [call for call in remember.calls if not call.startswith("reads")]
    assert events[0] == "open 0 9"
    assert events[-1] == "close"
    # The record of steps 1 to 4 is made when step 8 was handed over, the others at the end.
    at = {call: i for i, call in enumerate(events)}
    assert at["tick 7"] < at["record train 4"] < at["tick 8"]
    assert at["tick 8"] < at["record train 8"] < at["record train 9"] < at["tick 9"]
    counted = [int(call.split()[1]) for call in remember.calls if call.startswith("reads")]
    assert counted[:7] == [counted[0]] * 7


def test_a_hook_with_a_period_sees_each_state_and_the_last(placed, batches):
    seen = []
    hook = Every(4, lambda moment: seen.append((moment.step, int(moment.state.step))))
    jaxdl.fit(placed, batches, steps=10, hooks=[hook])
    assert seen == [(4, 4), (8, 8), (10, 10)]


def test_the_last_step_of_a_period_is_not_visited_twice(placed, batches):
    seen = []
    jaxdl.fit(placed, batches, steps=8, hooks=[Every(4, lambda m: seen.append(m.step))])
    assert seen == [4, 8]


def test_a_hook_ends_the_run_and_everything_is_reported(placed, batches):
    class Stop(Hook):
        def record(self, record):
            return "enough" if record.split == "probe" else None

    probe = Every(3, lambda moment: moment.log(Record(moment.step, "probe", {})))
    remember = Remember()
    result = jaxdl.fit(placed, batches, steps=50, log_every=2, hooks=[probe, Stop(), remember])
    assert (result.stopped, result.step, int(result.state.step)) == ("enough", 3, 3)
    assert "record train 3" in remember.calls
    assert remember.calls[-1] == "close"


def test_hooks_are_closed_when_a_batch_cannot_be_made(placed, batches):
    class Torn:
        def __getitem__(self, k):
            if k == 3:
                raise OSError("disk gone")
            return batches[k]

    remember = Remember()
    before = threading.active_count()
    with pytest.raises(OSError, match="disk gone"):
        jaxdl.fit(placed, Torn(), steps=9, hooks=[remember])
    assert remember.calls[-1] == "close"
    assert threading.active_count() == before


def test_rates_count_examples(placed, batches):
    record = jaxdl.fit(placed, batches, steps=6, log_every=6).records[0]
    rate = record.values["steps_per_second"]
    assert rate > 0
    assert record.values["examples_per_second"] == pytest.approx(8 * rate)


def test_a_slow_source_shows_as_stall(placed, batches):
    class Slow:
        def __getitem__(self, k):
            time.sleep(0.05)
            return batches[k]

    slow = jaxdl.fit(placed, Slow(), steps=9, log_every=8, hooks=[]).records
    assert 0.5 < slow[0].values["stall"] <= 1
    quick = jaxdl.fit(placed, [batches[0]] * 9, steps=9, log_every=8, hooks=[]).records
    assert 0 <= quick[0].values["stall"] < slow[0].values["stall"]


def make_blowing_step(at: int, nonfinite="propagate"):
    """A step whose loss is infinite at one step; the batches say at which."""
    objective = jaxdl.from_mean(
        lambda params, batch: params * batch["x"].mean(),
        init=lambda key, batch: np.float32(1.0),
    )
    step = jaxdl.make_train_step(objective, optax.sgd(0.0), nonfinite=nonfinite)
    rows = [{"x": np.full(2, np.inf if k + 1 == at else 0.25, np.float32)} for k in range(20)]
    return jaxdl.jit(step, layout=jaxdl.single()), rows


def test_a_loss_that_is_not_finite_is_named_by_its_step():
    placed, rows = make_blowing_step(at=7)
    remember = Remember()
    with pytest.raises(NonFiniteError) as caught:
        jaxdl.fit(placed, rows, steps=20, log_every=5, hooks=[remember])
    assert "inf at step 7" in caught.value.what
    assert "last finite loss was 0.25 at step 6" in caught.value.what
    assert "learning rate" in caught.value.do
    assert remember.calls[-1] == "close"


def test_a_first_loss_that_is_not_finite():
    placed, rows = make_blowing_step(at=1)
    with pytest.raises(NonFiniteError, match=r"at step 1 .*no step had a finite loss"):
        jaxdl.fit(placed, rows, steps=3, log_every=1)


def test_a_skipped_step_is_counted_and_the_run_goes_on():
    placed, rows = make_blowing_step(at=7, nonfinite="skip")
    result = jaxdl.fit(placed, rows, steps=10, log_every=5)
    assert [record.values["skipped"] for record in result.records] == [0, 1]
    assert [record.values["loss"] for record in result.records] == [0.25, 0.25]


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"steps": 5, "start": 5}, "starts after step 5 and ends with step 5"),
        ({"steps": 5, "start": -1}, "starts after step -1"),
        ({"steps": 5, "log_every": 0}, "period is below 1"),
        ({"steps": 5, "hooks": [Every(0, print)]}, "period is below 1"),
    ],
)
def test_settings_out_of_range(placed, batches, options, what):
    with pytest.raises(ConfigError, match=what):
        jaxdl.fit(placed, batches, **options)


def test_too_few_batches(placed, batches):
    with pytest.raises(ConfigError, match="1 batches for 2 steps"):
        jaxdl.fit(placed, [batches[0]], steps=2)


def test_a_step_that_is_not_placed(batches, untyped):
    with pytest.raises(ConfigError, match="fit got a TrainStep") as caught:
        jaxdl.fit(TrainStep(print, print), batches, steps=2)
    assert "jaxdl.jit" in caught.value.do


INTERRUPTED = textwrap.dedent(
    """
    import os, signal, sys, time
    import jax, numpy as np, optax, jaxdl
    from jaxdl.hooks import Every

    objective = jaxdl.from_mean(lambda p, b: p * b["x"].mean(), init=lambda k, b: np.float32(1.0))
    placed = jaxdl.jit(jaxdl.make_train_step(objective, optax.sgd(0.1)), layout=jaxdl.single())

    class Rows:
        def __getitem__(self, k):
            return {"x": np.ones(2, np.float32)}

    def press(moment):
        os.kill(os.getpid(), signal.SIGINT)

    class Told(jaxdl.protocols.Hook):
        def close(self):
            print("closed", flush=True)

    result = jaxdl.fit(placed, Rows(), steps=10**6, hooks=[Told(), Every(5, press)])
    print(result.step, int(result.state.step), result.stopped)
    """
)


def test_ctrl_c_ends_after_the_running_step():
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "XLA_FLAGS": ""},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["closed", "5 5 interrupted by Ctrl-C"]
    assert done.stderr.count("again to stop at once") == 1


def test_the_handler_of_ctrl_c_is_given_back(placed, batches):
    before = signal.getsignal(signal.SIGINT)
    jaxdl.fit(placed, batches, steps=1)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_raises_at_once(placed, batches):
    def press(moment):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    remember = Remember()
    with pytest.raises(KeyboardInterrupt):
        jaxdl.fit(placed, batches, steps=5, hooks=[remember, Every(2, press)])
    assert remember.calls[-1] == "close"


def test_it_runs_in_another_thread(placed, batches):
    results = []
    thread = threading.Thread(target=lambda: results.append(jaxdl.fit(placed, batches, steps=2)))
    thread.start()
    thread.join()
    assert results[0].step == 2
