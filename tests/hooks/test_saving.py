"""A loop of one's own around ``fit``: saved by a hook, gone on with by hand, under jit and pmap."""

from __future__ import annotations

import json

import jax
import numpy as np
import optax
import pytest

import jaxdl
from jaxdl import data, losses, models
from jaxdl.checkpoints import Checkpoints
from jaxdl.errors import CheckpointError
from jaxdl.hooks import Checkpoint, EarlyStop, Every, LossSpike, memory_of
from jaxdl.protocols import Hook, Memory, Record


@pytest.fixture(scope="module")
def batches():
    x = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    return data.Batches(data.arrays({"x": x, "label": (x[:, 0] > 0).astype(np.int32)}), 16)


@pytest.fixture(scope="module", params=["jit", "pmap"])
def placed(request):
    objective = jaxdl.supervised(
        models.MLP((4, 2), dropout_rate=0.2), losses.softmax_cross_entropy, inputs="x"
    )
    return getattr(jaxdl, request.param)(jaxdl.make_train_step(objective, optax.adam(0.05)))


def losses_of(result):
    return {record.step: record.values["loss"] for record in result.records}


def test_going_on_by_hand_is_going_on_to_the_bit(placed, batches, tmp_path):
    whole = jaxdl.fit(placed, batches, steps=14, log_every=4)
    store = Checkpoints(tmp_path)
    first = jaxdl.fit(
        placed, batches, steps=14, log_every=4, hooks=[stop_at(11), Checkpoint(5, store, placed)]
    )
    assert first.stopped == "enough"
    store.close()
    restored = Checkpoints(tmp_path).restore(placed.abstract_state(batches[0]), step=10)
    state = placed.place(restored.state)
    memory = memory_of(restored)
    assert len(memory.window[0]) == 2  # steps 9 and 10, which no record holds yet
    rest = jaxdl.fit(
        placed,
        batches,
        steps=14,
        log_every=4,
        state=state,
        memory=memory._replace(hooks={}, stopped=None),
    )
    told = losses_of(whole)
    assert losses_of(rest) == {step: told[step] for step in (12, 14)}
    a, b = placed.logical(rest.state), placed.logical(whole.state)
    for x, y in zip(jax.tree.leaves(a.params), jax.tree.leaves(b.params), strict=True):
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def stop_at(step):
    """Ends the run after a step, as an early stop does."""

    class Stop(Hook):
        every = 1

        def at(self, moment):
            if moment.step == step:
                moment.log(Record(step, "end", {}))

        def record(self, record):
            return "enough" if record.split == "end" else None

    return Stop()


def test_other_hooks_than_those_that_were_saved_are_refused(placed, batches):
    memory = Memory(hooks={"EarlyStop:0": [0.5, 3, 1]})
    with pytest.raises(CheckpointError, match="saved with the hooks EarlyStop:0"):
        jaxdl.fit(placed, batches, steps=2, memory=memory, hooks=[Every(1, print)])


def test_other_sums_than_those_that_were_saved_are_refused(placed, batches):
    with pytest.raises(CheckpointError, match="the sums that were saved"):
        jaxdl.fit(placed, batches, steps=2, memory=Memory(window=(np.zeros(3),)))


def test_what_hooks_remember_is_what_json_gives_back():
    stop, spike = EarlyStop("a/b"), LossSpike()
    for hook in (stop, spike):
        hook.open(0, 10)
        told = json.loads(json.dumps(hook.remember()))
        hook.recall(told)
        assert hook.remember() == told
