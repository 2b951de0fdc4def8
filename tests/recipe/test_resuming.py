"""A recipe that is cut and gone on with, that goes back, or that will not go on and says why."""

from __future__ import annotations

import dataclasses
import json
import warnings

import jax
import numpy as np
import optax
import pytest

import jaxdl
from jaxdl import checkpoints, data, losses, metrics, models
from jaxdl.checkpoints import Checkpoints, Keep
from jaxdl.errors import CheckpointError, ConfigError, LossSpikeError, NonFiniteError
from jaxdl.hooks import EarlyStop, LossSpike
from jaxdl.protocols import Hook
from jaxdl.recipe import Recipe, place, train

STEPS = 30


class Crash(Hook):
    """Fails at one step, as a bug or a lost device would; once."""

    def __init__(self, at: int) -> None:
        self.left = at

    def tick(self, step):
        if step == self.left:
            self.left = None
            raise OSError("crashed")


def make_batches(rows, **options):
    x = np.random.default_rng(rows).normal(size=(rows, 4)).astype(np.float32)
    source = data.arrays({"x": x, "label": (x[:, 0] > 0).astype(np.int32)})
    return data.Batches(source, 8, **options)


def make_recipe(**changes):
    options = {
        "name": "cut",
        "objective": jaxdl.supervised(
            models.MLP((6, 2), dropout_rate=0.3),
            losses.softmax_cross_entropy,
            metrics={"accuracy": metrics.accuracy()},
            inputs="x",
        ),
        "optimizer": optax.adam(0.03),
        "train": make_batches(45, seed=2),
        "validation": make_batches(21),
        "steps": STEPS,
        "log_every": 4,
        "eval_every": 6,
        "checkpoint_every": 5,
        "layout": jaxdl.single(),
    }
    return Recipe(**{**options, **changes})


def log(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in x.items() if k not in ("time", "stall") and "_per_sec" not in k}
        for x in lines
    ]


def run(recipe, folder, placed=None):
    return train(recipe, folder, placed=placed, progress=False)


@pytest.fixture(scope="module")
def placed():
    return place(make_recipe())


@pytest.fixture(scope="module")
def whole(tmp_path_factory, placed):
    folder = tmp_path_factory.mktemp("whole")
    return run(make_recipe(), folder, placed), folder


def assert_equal_states(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


@pytest.mark.parametrize("at", [1, 4, 6, 7, 13, 24, 29, 30])
def test_cut_anywhere_it_ends_as_if_it_had_not_been(tmp_path, placed, whole, at):
    recipe = make_recipe(hooks=[Crash(at)])
    with pytest.raises(OSError, match="crashed"):
        run(recipe, tmp_path, placed)
    outcome = run(recipe, tmp_path, placed)
    assert outcome.started == max([0, *range(5, at, 5)])
    assert_equal_states(outcome.result.state, whole[0].result.state)
    assert log(tmp_path) == log(whole[1])
    assert outcome.scores == whole[0].scores


def test_a_finished_run_is_measured_again_and_nothing_else(tmp_path, placed, whole):
    run(make_recipe(), tmp_path, placed)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    again = run(make_recipe(), tmp_path, placed)
    assert (again.started, again.result.step, again.result.records) == (STEPS, STEPS, ())
    assert again.scores == whole[0].scores
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("at", [7, 12, 16, 18])
def test_an_early_stop_is_remembered(tmp_path, at):
    def make():
        stop = EarlyStop("validation/loss", patience=2, mode="max")
        return make_recipe(early_stop=stop, hooks=[Crash(at)])

    plain = dataclasses.replace(make(), hooks=[])
    (tmp_path / "whole").mkdir()
    unbroken = run(plain, tmp_path / "whole")
    assert unbroken.result.step == 18
    with pytest.raises(OSError, match="crashed"):
        run(make(), tmp_path / "cut")
    outcome = run(dataclasses.replace(make(), hooks=[Crash(-1)]), tmp_path / "cut")
    assert outcome.result.stopped == unbroken.result.stopped
    assert_equal_states(outcome.result.state, unbroken.result.state)
    assert log(tmp_path / "cut") == log(tmp_path / "whole")
    again = run(make(), tmp_path / "cut")
    assert (again.started, again.result.stopped) == (18, unbroken.result.stopped)


def poisoned(k_bad, value):
    """Batches of which one holds a value that spoils the step."""

    def spoil(batch, rng):
        bad = int(batch["number"][0]) == k_bad
        return {**batch, "x": np.where(bad, np.float32(value), batch["x"])}

    rows = 8 * 40
    x = np.random.default_rng(0).normal(size=(rows, 4)).astype(np.float32)
    columns = {"x": x, "label": (x[:, 0] > 0).astype(np.int32)}
    source = data.arrays({**columns, "number": np.arange(rows, dtype=np.int32) // 8})
    plain = data.Batches(source, 8, shuffle=False)
    return data.Batches(source, 8, shuffle=False, transform=spoil), plain


def test_going_back_leaves_the_bad_batches_out(tmp_path):
    train_on, plain = poisoned(13, np.nan)
    recipe = make_recipe(
        train=train_on, train_eval=plain, validation=None, nonfinite="rollback", checkpoint_every=5
    )
    with pytest.warns(UserWarning, match=r"nan at step 14 .*going back to step 10 and leaving out"):
        outcome = run(recipe, tmp_path)
    assert outcome.result.step == STEPS
    assert np.isfinite(outcome.scores["train"]["loss"])
    # The same run whose bad window was never there: steps 14 to 16 are that log window's rest.
    left_out = data.Skipping(train_on, [(13, 16)])
    placed = place(recipe)
    expected = jaxdl.fit(placed.train, left_out, steps=STEPS, seed=recipe.seed)
    assert_equal_states(outcome.result.state.params, expected.state.params)
    (*_, last) = Checkpoints(tmp_path / "checkpoints").steps()
    assert checkpoints.open_step(tmp_path / "checkpoints", last)[1]["skipped"] == [[13, 16]]
    assert [x["step"] for x in log(tmp_path)] == [4, 8, 12, 16, 20, 24, 28, 30]


def test_a_run_that_went_back_and_was_cut_goes_on_to_the_bit(tmp_path):
    train_on, plain = poisoned(13, np.nan)

    def make(*hooks):
        options = {"train": train_on, "train_eval": plain, "validation": None}
        return make_recipe(**options, nonfinite="rollback", hooks=hooks)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        unbroken = run(make(), tmp_path / "whole")
        for at in (12, 23):
            with pytest.raises(OSError, match="crashed"):
                run(make(Crash(at)), tmp_path / str(at))
            outcome = run(make(Crash(-1)), tmp_path / str(at))
            assert_equal_states(outcome.result.state, unbroken.result.state)
            assert log(tmp_path / str(at)) == log(tmp_path / "whole")


def test_without_going_back_it_stops_and_the_last_good_state_is_kept(tmp_path):
    train_on, plain = poisoned(13, np.nan)
    with pytest.raises(NonFiniteError, match="nan at step 14"):
        run(make_recipe(train=train_on, train_eval=plain, validation=None), tmp_path)
    steps = Checkpoints(tmp_path / "checkpoints").steps()
    assert steps == [5, 10]


def test_every_step_bad_ends_in_the_error_after_some_tries(tmp_path):
    recipe = make_recipe(
        optimizer=optax.scale(np.inf), nonfinite="rollback", log_every=1, validation=None
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(NonFiniteError):
            run(recipe, tmp_path)


def test_a_spike_ends_the_run_or_goes_back(tmp_path):
    train_on, plain = poisoned(21, 1e4)
    options = {
        "train": train_on, "train_eval": plain, "validation": None, "log_every": 2,
        "spike": LossSpike(window=8, deviations=10.0),
    }  # fmt: skip
    with pytest.raises(LossSpikeError, match="the loss of steps 21 to 22 is"):
        run(make_recipe(**options), tmp_path / "stop")
    with pytest.warns(UserWarning, match="going back to step 20"):
        outcome = run(make_recipe(**options, nonfinite="rollback"), tmp_path / "back")
    assert outcome.result.step == STEPS
    assert outcome.scores["train"]["loss"] < 1


def test_skipped_steps_are_counted_and_too_many_in_a_row_end_the_run(tmp_path):
    train_on, plain = poisoned(13, np.nan)
    options = {"train": train_on, "train_eval": plain, "validation": None, "nonfinite": "skip"}
    outcome = run(make_recipe(**options), tmp_path)
    assert sum(record.values["skipped"] for record in outcome.result.records) == 1
    broken = make_recipe(nonfinite="skip", steps=200, objective=never_finite())
    with pytest.raises(NonFiniteError, match="the last 52 steps up to 52 were all skipped"):
        run(broken, None)


def never_finite():
    return jaxdl.supervised(
        models.MLP((2, 2)), lambda y, t: losses.softmax_cross_entropy(y, t) * np.nan, inputs="x"
    )


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"train": make_batches(45, seed=3)}, "data_seed: 2 became 3"),
        ({"train": make_batches(44, seed=2)}, "examples: 45 became 44"),
        ({"seed": 9}, "seed: 0 became 9"),
        ({"log_every": 5}, "log_every: 4 became 5"),
        ({"optimizer": optax.sgd(0.1)}, "opt_state"),
    ],
)
def test_another_run_is_refused_and_nothing_is_touched(tmp_path, placed, changes, told):
    run(make_recipe(steps=10), tmp_path, placed)
    before = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    with pytest.raises(CheckpointError, match=told):
        run(make_recipe(**changes), tmp_path)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == before


def test_a_run_may_be_made_longer_but_not_shorter(tmp_path, placed, whole):
    run(make_recipe(steps=20), tmp_path, placed)
    longer = run(make_recipe(), tmp_path, placed)
    assert longer.started == 20
    assert_equal_states(longer.result.state, whole[0].result.state)
    with pytest.raises(ConfigError, match="the run has done 30 steps"):
        run(make_recipe(steps=10), tmp_path, placed)


def test_other_versions_are_said(tmp_path, placed, monkeypatch):
    run(make_recipe(steps=5), tmp_path, placed)
    import importlib.metadata

    real = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "9.9" if name == "optax" else real(name)
    )
    with pytest.warns(UserWarning, match=r"perhaps not to the same bits: optax .* is now 9\.9"):
        assert run(make_recipe(steps=8), tmp_path, placed).started == 5


def test_all_checkpoints_damaged_is_never_a_start_from_zero(tmp_path, placed):
    run(make_recipe(steps=5), tmp_path, placed)
    for part in (tmp_path / "checkpoints").glob("*/manifest/process*"):
        part.write_text("{}")
    told = pytest.raises(CheckpointError, match="no checkpoint in .* is whole")
    with pytest.warns(UserWarning, match="passed over"), told:
        run(make_recipe(), tmp_path, placed)


def test_it_keeps_the_best(tmp_path, placed):
    recipe = make_recipe(checkpoint_every=6, keep=Keep(latest=1, best=1, mode="max"))
    run(recipe, tmp_path, placed)
    losses_at = {x["step"]: x["loss"] for x in log(tmp_path) if x["split"] == "validation"}
    best = max(losses_at, key=losses_at.get)
    assert Checkpoints(tmp_path / "checkpoints").steps() == sorted({best, STEPS})


@pytest.mark.parametrize(
    "changes",
    [
        {"eval_every": 7, "checkpoint_every": 5},
        {"eval_every": 5, "checkpoint_every": 7},
        {"eval_every": 6, "checkpoint_every": 3, "early_stop": True},
        {"eval_every": 6, "checkpoint_every": 4, "early_stop": True, "log_every": 5},
    ],
)
def test_the_last_checkpoint_comes_after_all_that_is_said(tmp_path, changes):
    """Otherwise a run that is killed right after it would lack its last records."""
    if changes.pop("early_stop", False):
        changes["early_stop"] = EarlyStop("validation/loss", patience=2, mode="max")
    run(make_recipe(**changes), tmp_path)
    folder = tmp_path / "checkpoints"
    (*_, last) = Checkpoints(folder).steps()
    memory = checkpoints.open_step(folder, last)[1]["memory"]
    lines = log(tmp_path)
    assert memory["hooks"]["JsonLines:0"] == len(lines)
    assert memory["due"] == []
    assert {x["split"] for x in lines if x["step"] == last} == {"train", "validation"}
    assert len({(x["split"], x["step"]) for x in lines}) == len(lines)
