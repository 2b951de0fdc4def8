"""Two runs on one page."""

from __future__ import annotations

import numpy as np

from jaxdl import evaluation
from jaxdl.reporting import Rows, comparison_page, read_run

LABEL = np.tile([0, 1], 20)


def rows(right, loss=None, label=LABEL):
    """Rows of which these are right."""
    scores = np.eye(2)[np.where(right, label, 1 - label)] * 2.0
    batch = {"label": label, "x": np.arange(len(label))}
    return Rows("test", scores, batch, loss, None if loss is None else np.ones(len(label)))


def page(run_folder, parse, first, second, **other):
    a, b = run_folder("a"), run_folder("b", **other)
    return parse(comparison_page(read_run(a), read_run(b), first, second))


def test_what_differs_is_named_and_what_does_not_is_not(run_folder, parse):
    config = {"steps": 300, "batch_size": 16, "new": True}
    lines = [{"step": 50, "split": "train", "loss": 1.0}]
    summary = {"steps": 300, "scores": {"test": {"loss": 0.2, "accuracy": 0.95, "f1": 0.5}}}
    other = {"config": config, "recipe": "# another\n", "summary": summary, "lines": lines}
    found = page(run_folder, parse, "Not looked at.", "Not looked at.", **other)
    text = found.text()
    for words in (
        "steps 200 300",
        "new not there True",
        "optimizer.name adam not there",
        "Versions are the same.",
        "+# another",
        "loss, test 0.3 0.2 -0.1",
        "accuracy, test 0.9 0.95 +0.05",
        "f1, test 0.5",
        "a: Not looked at.",
        "Loss, train",
    ):
        assert words in text
    assert "batch_size" not in text
    assert {s["class"] for s in found.all("path")} >= {"line s1", "line s2"}


def test_the_test_is_that_of_evaluation(run_folder, parse):
    rng = np.random.default_rng(0)
    first, second = rng.random(40) < 0.5, rng.random(40) < 0.95
    text = page(run_folder, parse, rows(first), rows(second)).text()
    found = evaluation.compare(second, first, seed=0, resamples=1_000)
    assert "Both on the same 40 rows of the test split" in text
    assert (
        f"b has the better accuracy, which chance alone seldom gives (p = {found.permutation:.4g}"
        in text
    )
    assert f"p, McNemar's test {found.mcnemar.p_value:.4g}" in text
    assert f"Right in a only {int((first & ~second).sum())}" in text
    gap = 100 * (second.mean() - first.mean())
    assert f"difference {gap:+.1f} points" in text


def test_the_lower_loss_is_the_better_one(run_folder, parse):
    rng = np.random.default_rng(0)
    loss = rng.random(40) + 1
    same = np.ones(40, bool)
    text = page(run_folder, parse, rows(same, loss), rows(same, loss * 2)).text()
    assert "Both have the same accuracy on these rows." in text
    assert "a has the better loss, which chance alone seldom gives" in text


def test_losses_that_are_not_finite_are_left_out_in_pairs(run_folder, parse):
    loss = np.arange(40.0)
    bad = np.where(loss < 3, np.nan, loss)
    text = page(run_folder, parse, rows(LABEL == 1, loss), rows(LABEL == 1, bad)).text()
    assert "3 rows without a finite loss left out." in text
    assert "Both have the same loss" in text


def test_rows_that_differ_make_no_pairs(run_folder, parse):
    other = rows(LABEL == 1, label=1 - LABEL)
    text = page(run_folder, parse, rows(LABEL == 1), other).text()
    assert "The rows of the splits differ" in text
    fewer = rows(LABEL[:9] == 1, label=LABEL[:9])
    a, b = read_run(run_folder("c")), read_run(run_folder("d"))
    assert "40 and 9 rows" in parse(comparison_page(a, b, rows(LABEL == 1), fewer)).text()


def test_runs_of_one_name_are_told_apart(run_folder, tmp_path, parse):
    (tmp_path / "x").mkdir()
    (tmp_path / "y").mkdir()
    a, b = (read_run(run_folder(f"{part}/run")) for part in "xy")
    assert "x/run and y/run" in parse(comparison_page(a, b, "no", "no")).text("h1")
