"""``jaxdl evaluate``: what it says beside the scores, and runs against each other."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import shutil

import numpy as np
import optax
import pytest
from sklearn import metrics as sk

import jaxdl
from jaxdl import data, evaluation, losses, models
from jaxdl.cli import figures
from jaxdl.cli.rows import Restored, is_classifier, rows_of
from jaxdl.errors import ConfigError
from jaxdl.recipe import Recipe, place


@pytest.fixture(scope="module")
def runs(trained_once, tmp_path_factory):
    """The run after step 12, and the same one as it was after step 6."""
    folder = tmp_path_factory.mktemp("runs")
    late, early = folder / "late", folder / "early"
    for each in (late, early):
        shutil.copytree(trained_once, each)
    shutil.rmtree(early / "checkpoints" / "12")
    return late, early


@pytest.fixture(scope="module")
def saved(runs, tmp_path_factory):
    """All that can be said of the run's test split, as JSON, and its rows."""
    from jaxdl.cli import main

    path = tmp_path_factory.mktemp("saved") / "rows.npz"
    words = ["evaluate", str(runs[0]), "--split", "test", "--details", "--by", "label"]
    with pytest.MonkeyPatch.context() as patch:
        lines = []
        patch.setattr("builtins.print", lambda *text, **options: lines.extend(text))
        assert main([*words, "--intervals", "--save", str(path), "--json"]) == 0
    with np.load(path) as rows:
        return json.loads(lines[-1])["test"], dict(rows)


def test_details_are_scikit_learns_of_the_saved_rows(saved):
    found, rows = saved
    label, scores = rows["test/batch/label"], rows["test/outputs"]
    said = scores.argmax(1)
    details = found["details"]
    np.testing.assert_array_equal(details["confusion"], sk.confusion_matrix(label, said))
    expected = sk.precision_recall_fscore_support(label, said, zero_division=0)
    table = details["classes"]
    for name, column in zip(("precision", "recall", "f1", "support"), expected, strict=True):
        assert [row[name] for row in table] == pytest.approx(column.tolist())
    chances = np.exp(scores - scores.max(1, keepdims=True))
    chances /= chances.sum(1, keepdims=True)
    calibration = details["calibration"]
    log_loss = sk.log_loss(label, chances, labels=[0, 1])
    assert calibration["log_loss"] == pytest.approx(log_loss, rel=1e-6)
    assert calibration["log_loss"] == pytest.approx(found["loss"], rel=1e-6)
    brier = sk.brier_score_loss(label, chances[:, 1], pos_label=1)
    assert calibration["brier_score"] == pytest.approx(2 * brier, rel=1e-6)
    assert sum(each["rows"] for each in calibration["bins"]) == 11


def test_slices_and_intervals_are_of_the_saved_rows(saved):
    found, rows = saved
    label, loss = rows["test/batch/label"], rows["test/loss"]
    right = rows["test/outputs"].argmax(1) == label
    assert found["accuracy"] == right.mean()
    assert found["loss"] == pytest.approx(loss.mean(), rel=1e-6)
    parts = found["slices"]["label"]
    assert [part["slice"] for part in parts] == [0, 1]
    for k, part in enumerate(parts):
        mine = label == k
        assert part["rows"] == mine.sum()
        assert part["accuracy"] == pytest.approx(right[mine].mean())
        assert part["loss"] == pytest.approx(loss[mine].mean())
    expected = evaluation.bootstrap(np.mean, loss, seed=0, method="percentile")
    assert found["intervals"]["loss"] == pytest.approx(expected._asdict(), rel=1e-9)
    assert set(found["intervals"]) == {"accuracy", "loss", "f1"}
    f1 = sk.f1_score(label, rows["test/outputs"].argmax(1), average="macro")
    assert found["intervals"]["f1"]["value"] == pytest.approx(f1)
    accuracy = found["intervals"]["accuracy"]
    assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]


def test_tables_say_what_the_data_says(runs, saved, jaxdl_command):
    words = ["evaluate", runs[0], "--split", "test", "--details", "--by", "label", "--intervals"]
    code, out, err = jaxdl_command(*words)
    assert code == 0, err
    found, _ = saved
    for text in ("test by class", "test, calibration", "test by label", "test, 95 % intervals"):
        assert text in out
    low, high = (found["intervals"]["loss"][end] for end in ("low", "high"))
    assert f"{low:.4f} .. {high:.4f}" in out
    assert f"{found['details']['calibration']['calibration_error']:.4f}" in out


def test_two_runs_are_compared_row_by_row(runs, jaxdl_command):
    code, out, err = jaxdl_command("evaluate", *runs, "--json", "--resamples", 200)
    assert code == 0, err
    found = json.loads(out)
    (pair,) = found["pairs"]
    assert (found["split"], found["figure"], found["rows"]) == ("test", "accuracy", 11)
    scores = [
        json.loads(jaxdl_command("evaluate", run, "--split", "test", "--json")[1])["test"]
        for run in runs
    ]
    assert [pair["a"]["value"], pair["b"]["value"]] == [each["accuracy"] for each in scores]
    gap = scores[0]["accuracy"] - scores[1]["accuracy"]
    assert pair["difference"]["value"] == pytest.approx(gap)
    test = pair["mcnemar"]
    assert (test["only_a"] - test["only_b"]) / 11 == pytest.approx(gap)
    # Every exchange can be tried: the tests are one.
    assert pair["permutation_p_value"] == pytest.approx(test["p_value"])
    assert pair["holm_p_value"] == pair["permutation_p_value"]
    code, out, _ = jaxdl_command("evaluate", *runs, "--split", "train", "--resamples", 200)
    assert code == 0
    assert "accuracy on 30 examples of train" in out
    assert re.search(r"(late|early) (has .* than|and) (late|early)", out)


@pytest.mark.slow
def test_three_runs_are_compared_in_pairs_with_a_correction(runs, tmp_path, jaxdl_command):
    shutil.copytree(runs[1], tmp_path / "third")
    three = [*runs, tmp_path / "third"]
    code, out, _ = jaxdl_command("evaluate", *three, "--json", "--resamples", 100)
    assert code == 0
    pairs = json.loads(out)["pairs"]
    names = list(itertools.combinations(("late", "early", "third"), 2))
    assert [(pair["a"]["run"], pair["b"]["run"]) for pair in pairs] == names
    raw = [pair["permutation_p_value"] for pair in pairs]
    assert [pair["holm_p_value"] for pair in pairs] == evaluation.holm(raw).tolist()
    assert pairs[2]["words"] == "early and third have the same accuracy on these 11 examples."
    assert "Holm" in jaxdl_command("evaluate", *three, "--resamples", 100)[1]


def test_runs_that_saw_other_examples_are_not_compared(runs, tmp_path, jaxdl_command):
    other = shutil.copytree(runs[0], tmp_path / "other")
    path = other / "recipe.py"
    path.write_text(path.read_text().replace("test=batches(2, 11)", "test=batches(7, 11)"))
    code, _, err = jaxdl_command("evaluate", runs[0], other)
    assert code == 2
    assert re.search(r"late and other differ in the field 'label' .* first in row \d", err)
    path.write_text(path.read_text().replace("test=batches(7, 11)", "test=batches(2, 10)"))
    code, _, err = jaxdl_command("evaluate", runs[0], other)
    assert code == 2
    assert "of their 11 and 10 rows" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no run was given"),
        (["{run}", "{run}"], "one run is named twice"),
        (["{run}", "{run}", "--details", "--by", "x"], "--details, --by with 2 runs"),
        (["{run}", "--by", "lable"], "did you mean 'label'"),
        (["{run}", "--by", "x"], "the field 'x' has the shape"),
        (["{run}", "--edges", "1", "2"], "--edges with 0 fields"),
        (["{run}", "--save", "rows.csv"], "cannot be saved to rows.csv"),
        (["{run}", "--save", "nowhere/rows.npz"], "in a folder that is there"),
        (["{run}", "--intervals", "--level", "1.5"], "level is 1.5"),
    ],
)
def test_what_cannot_be_done_is_said(words, message, runs, jaxdl_command):
    code, out, err = jaxdl_command("evaluate", *(word.format(run=runs[0]) for word in words))
    assert code == 2
    assert message in err
    assert not out


LOSS_ONLY = '''
import dataclasses

import flax.linen as nn
import numpy as np

import jaxdl
from jaxdl import data, objectives, optimizers


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings."""

    seed: int = 0


class Model(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        return nn.Dense(5)(nn.Embed(5, 3)(tokens))


def recipe(config):
    rng = np.random.default_rng(0)
    rows = {
        "tokens": rng.integers(0, 5, (9, 4)).astype(np.int32),
        "mask": (np.arange(4) < rng.integers(1, 5, (9, 1))).astype(np.int32),
        "length": np.arange(9, dtype=np.float32),
    }
    batches = data.Batches(data.arrays(rows), 4)
    return jaxdl.Recipe(
        name="tokens",
        objective=objectives.language_model(Model()),
        optimizer=optimizers.OptimizerConfig(learning_rate=0.1).build(2),
        train=batches,
        validation=batches,
        steps=2,
        seed=config.seed,
        layout=jaxdl.single(),
    )
'''


@pytest.mark.slow
def test_runs_without_classes_are_compared_by_loss(tmp_path, monkeypatch, jaxdl_command):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tokens.py").write_text(LOSS_ONLY)
    for seed in (0, 1):
        words = ["train", "tokens.py", "--seed", seed, "--run-dir", f"r{seed}", "--quiet"]
        assert jaxdl_command(*words)[0] == 0
    code, out, err = jaxdl_command("evaluate", "r0", "r1", "--resamples", 50, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert (found["split"], found["figure"]) == ("validation", "loss")
    assert found["pairs"][0]["mcnemar"] is None
    # A row without a target of its own (one token is left of it) counts nowhere.
    words = ["evaluate", "r0", "--split", "validation", "--json"]
    loss = json.loads(jaxdl_command(*words)[1])["validation"]["loss"]
    assert found["pairs"][0]["a"]["value"] == pytest.approx(loss, rel=1e-6)
    code, out, err = jaxdl_command(*words, "--by", "length", "--edges", 3, 6)
    parts = json.loads(out)["validation"]["slices"]["length"]
    assert [part["slice"] for part in parts] == ["below 3", "3 to 6", "from 6"]
    code, _, err = jaxdl_command("evaluate", "r0", "--details")
    assert code == 2
    assert "this run is none" in err


def restored(loss, width, folder):
    x = np.random.default_rng(0).normal(size=(13, 3)).astype(np.float32)
    columns = {"x": x, "label": (x[:, 0] > 0).astype(np.int32), "mask": np.arange(13) % 4 > 0}
    batches = data.Batches(data.arrays(columns), 5)
    recipe = Recipe(
        name="rows",
        objective=jaxdl.supervised(models.MLP((width,)), *loss, inputs="x"),
        optimizer=optax.sgd(0.1),
        train=batches,
        test=batches,
        steps=1,
        layout=jaxdl.single(),
    )
    placed = place(recipe)
    return Restored(folder, recipe, placed, placed.train.init(0, batches[0])), columns


def test_one_logit_is_a_classifier_of_two_and_masked_rows_are_left_out(tmp_path):
    loss = (lambda y, t: losses.binary_cross_entropy(y[:, 0], t),)
    run, columns = restored(loss, 1, tmp_path)
    assert is_classifier(run)
    rows = rows_of(run, "test", fields=["x"])
    kept = columns["mask"]
    np.testing.assert_array_equal(rows.fields["x"], columns["x"][kept])
    logits = rows.predictions.outputs[kept, 0].astype(np.float64)
    np.testing.assert_allclose(rows.chances[:, 1], 1 / (1 + np.exp(-logits)), rtol=1e-6)
    np.testing.assert_array_equal(rows.said, logits > 0)
    log_loss = sk.log_loss(columns["label"][kept], rows.chances)
    assert np.average(rows.loss, weights=rows.weight) == pytest.approx(log_loss, rel=1e-5)


def test_a_model_that_does_not_read_the_label_is_no_classifier(tmp_path):
    def reconstruct(y, t):
        return ((y - t) ** 2).mean(-1)

    x = np.random.default_rng(0).normal(size=(13, 3)).astype(np.float32)
    batches = data.Batches(data.arrays({"x": x, "label": np.zeros(13, np.int32)}), 5)
    run, _ = restored((losses.softmax_cross_entropy,), 3, tmp_path)
    objective = jaxdl.supervised(models.MLP((3,)), reconstruct, inputs="x", targets="x")
    recipe = dataclasses.replace(run.recipe, objective=objective, train=batches, test=batches)
    assert is_classifier(run)
    assert not is_classifier(run._replace(recipe=recipe))
    rows = rows_of(run._replace(recipe=recipe, placed=place(recipe)), "test")
    assert rows.right is None
    assert list(rows.figures) == ["loss"]


def test_classes_are_called_by_their_names_where_the_data_knows_them(tmp_path):
    run, columns = restored((losses.softmax_cross_entropy,), 2, tmp_path)
    source = data.arrays(columns, class_names={"label": ["minus", "plus"]})
    recipe = dataclasses.replace(run.recipe, test=data.Batches(source, 5))
    rows = rows_of(run._replace(recipe=recipe), "test")
    named = run._replace(recipe=recipe)
    table = figures.details(named, "test", rows)["classes"]
    assert [row["name"] for row in table] == ["minus", "plus"]
    parts = figures.slices(named, "test", rows, "label")
    assert [part["slice"] for part in parts] == ["minus", "plus"]
    many = rows._replace(fields={"n": np.arange(300)})
    with pytest.raises(ConfigError, match="has 300 different values"):
        figures.slices(named, "test", many, "n")
