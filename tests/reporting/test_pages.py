"""Pages of runs that went well, badly, or hardly at all."""

from __future__ import annotations

import base64
import io
import json
import re
import wave

import numpy as np
import pytest
from planned import planned

import jaxdl.reporting
from jaxdl.judging import Judgements, Preference, summarize
from jaxdl.reporting import Explained, Rows, comparison_page, read_run, run_page
from jaxdl.tpu.plans.encoding import as_json

NONE = "Not looked at."
ATTACK = "</style></script><script>alert(1)</script><img src=http://a.example/x onerror=alert(1)>"


def images(count=8, classes=3):
    rng = np.random.default_rng(0)
    label = np.arange(count) % classes
    scores = np.eye(classes)[(label + (np.arange(count) % 4 == 0)) % classes] * 3.0
    batch = {"image": rng.integers(0, 256, (count, 8, 8, 1), dtype=np.uint8), "label": label}
    return Rows("test", scores, batch, rng.random(count), np.ones(count))


def test_a_whole_run(run_folder, parse):
    page = parse(run_page(read_run(run_folder()), images(), version="1"))
    text = page.text()
    titles = [a["id"] for a in page.all("h2")]
    assert titles == [
        *("summary", "curves", "throughput", "plan", "classes", "confusion", "calibration"),
        *("mistakes", "recipe", "environment", "parameters", "missing"),
    ]
    assert [a["href"] for a in page.all("a")] == ["#main", *(f"#{each}" for each in titles)]
    for words in (
        "The run went to its last step",
        "21,408",
        "The steps took 20.0 s by their own rate, 50.0 % of 40.0 s in all.",
        "Loss by step. train: from 0.5 at step 50 to 0.0625 at step 200",
        "No plan lies beside this run",
        "0 taken for 1",
        "The 2 wrong predictions of the greatest loss, of 2 wrong, among 8.",
        "optimizer.learning_rate",
        "0.10.2",
    ):
        assert words in text
    assert len(page.all("img")) == 2
    assert len(page.html) < 100_000


def test_equal_runs_have_equal_pages(run_folder):
    run = read_run(run_folder())
    assert run_page(run, images()) == run_page(run, images())


def test_the_page_without_anything(run_folder, parse):
    folder = run_folder(lines=[], summary=None, config={}, recipe=None)
    page = parse(run_page(read_run(folder), NONE))
    text = page.text()
    for words in (
        "The run did not end, or is still going on: there is no record, and there is no ch",
        "No split was measured",
        "it ended before its first log point",
        "ended within its first log window",
        "Not looked at.",
        "The folder has no recipe.py.",
        "no checkpoint",
        "No judgements of people",
        "No robustness results",
        "No privacy",
    ):
        assert words in text


def test_a_run_that_diverged(run_folder, parse):
    lines = [
        {"step": n, "split": "train", "loss": loss, "steps_per_second": 1.0}
        for n, loss in enumerate([2.0, 1.0, None, "NaN", "inf"], 1)
    ]
    summary = {"steps": 5, "stopped": "the loss is not finite", "scores": {"test": {"loss": None}}}
    page = parse(run_page(read_run(run_folder(lines=lines, summary=summary)), NONE))
    text = page.text()
    assert "ended before its last step: the loss is not finite." in text
    assert "The train loss was not finite in 3 of 5 records, first at step 3." in text
    assert "not finite in 3 records." in text
    assert len([a for a in page.all("path") if "cross" in a["class"]]) == 3
    assert "nan" not in " ".join(a.get("d", "") for a in page.all("path"))


@pytest.mark.parametrize("wrong", [None, 3, "text", [1], {"a": [None]}, True, "\ud800"])
def test_a_folder_of_wrong_kinds_has_a_page(run_folder, parse, wrong):
    names = ("config", "versions", "arguments", "python", "started")
    lines = [{"step": 1, "split": "train", "loss": wrong, "big": 10**400}]
    summary = dict.fromkeys(("name", "steps", "stopped", "seconds", "devices", "scores"), wrong)
    folder = run_folder(lines=lines, summary=summary)
    (folder / "config.json").write_text(json.dumps(dict.fromkeys(names, wrong)))
    for name in ("plan", "judging", "robustness", "privacy"):
        (folder / f"{name}.json").write_text(json.dumps({"kind": "pairs", "agreement": wrong}))
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 1e999, "split": "train"}\n')
    run = read_run(folder)
    assert run.unreadable == 1
    parse(run_page(run, NONE))
    parse(comparison_page(run, run, NONE, NONE))


def test_thousands_of_records_stay_small(run_folder, parse):
    rng = np.random.default_rng(0)
    lines = [
        {"step": n, "split": "train", **{f"m{k}": float(rng.normal()) for k in range(6)}}
        for n in range(6000)
    ]
    page = parse(run_page(read_run(run_folder(lines=lines)), NONE))
    assert "6,000 records in 150 bins" in page.text()
    assert len(page.html) < 200_000


def test_one_batch_is_said(run_folder, parse):
    summary = {"steps": 5, "stopped": None, "scores": {"one batch": {"loss": 0.0}}}
    page = parse(run_page(read_run(run_folder(summary=summary)), NONE))
    assert "Every step saw the same batch" in page.text()


def test_nothing_of_a_run_is_read_as_markup(run_folder, parse):
    config = {ATTACK: ATTACK, "nested": {"list": [ATTACK]}}
    summary = {
        "name": ATTACK,
        "stopped": ATTACK,
        "devices": [ATTACK],
        "scores": {ATTACK: {ATTACK: 1.0}},
    }
    lines = [{"step": 1, "split": ATTACK, ATTACK: 1.0, "loss": 2.0}]
    folder = run_folder(lines=lines, summary=summary, config=config, recipe=ATTACK)
    (folder / "robustness.json").write_text(json.dumps({ATTACK: [{ATTACK: ATTACK}]}))
    rows = images()._replace(class_names=(ATTACK, "b", "c"), words=(ATTACK, "x"))
    rows.batch["tokens"] = np.zeros((8, 3), np.int32)
    rows.batch[ATTACK] = np.arange(8) % 2
    page = parse(run_page(read_run(folder), rows))
    assert "http://a.example" not in "".join(
        value or ""
        for _, a in page.elements
        for value in a.values()
        if not value.startswith("Loss")
    ).replace(ATTACK, "")
    assert page.text().count("<script>alert(1)") > 8
    (policy,) = [a["content"] for a in page.all("meta") if "http-equiv" in a]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy


def test_explanations_stand_beside_their_examples(run_folder, parse):
    weights = np.zeros((8, 8, 1))
    weights[:4, :2] = 1.0

    def explain(rows, worst, found):
        assert rows.split == "test"
        assert found.right.sum() == 6
        return [Explained("saliency", "image", {worst.rows[0]: weights}, "of a test")], ""

    page = parse(run_page(read_run(run_folder()), images(), explain=explain))
    assert "coloured in texts: saliency, of a test." in page.text()
    assert len(page.all("img")) == 3
    alts = [a["alt"].replace("\xa0", " ") for a in page.all("img")]
    assert any("100.0 % of the weight in the upper half, 100.0 % on the left" in a for a in alts)
    why = parse(run_page(read_run(run_folder("b")), images(), explain=lambda *_: ([], "Not so.")))
    assert "Not so." in why.text()


def test_a_plan_stands_against_what_was_measured(run_folder, parse):
    folder = run_folder()
    plan = planned(2**30, seconds=(0.05, 0.2), total=10**12)
    (folder / "plan.json").write_text(json.dumps(as_json(plan)))
    (folder / "plan-old.json").write_text(json.dumps({"format": "jaxdl plan", "version": 0}))
    text = parse(run_page(read_run(folder), NONE)).text()
    for words in (
        "plan-old.json cannot be read",
        "50.00 ms to 200.00 ms 100.00 ms",
        "1.00 TFLOP",
        "10.00 TFLOP/s",
        "The plan is of another model",
        "The run was not on TPUs",
    ):
        assert words in text


@pytest.mark.parametrize(
    ("seconds", "where"), [((0.05, 0.2), "within"), ((0.2, 0.3), "below"), ((0.01, 0.02), "above")]
)
def test_a_run_on_tpus_says_where_its_steps_lie(run_folder, parse, seconds, where):
    summary = {"steps": 5, "parameters": 1, "devices": ["TPU_0(process=0)"], "scores": {}}
    folder = run_folder(summary=summary)
    (folder / "plan.json").write_text(json.dumps(as_json(planned(2**30, seconds=seconds))))
    text = parse(run_page(read_run(folder), NONE)).text()
    assert f"The measured time of a step is {where} the planned range." in text
    assert "another model" not in text


def test_people_judged(run_folder, parse):
    preferences = [
        Preference(judge, str(item), "ours", "theirs", answer)
        for judge in ("x", "y")
        for item, answer in enumerate(["left", "left", "right", "same"])
    ]
    folder = run_folder()
    found = summarize(Judgements(preferences, []), resamples=50)
    (folder / "judging.json").write_text(json.dumps(found))
    text = parse(run_page(read_run(folder), NONE)).text()
    assert "8 judgements of 4 items by 2 judges" in text
    assert "ours 4 2 2 62.5 %" in text
    assert "Cohen's kappa, x and y 1.000" in text
    assert "No judgements" not in text


def test_what_corruptions_and_attacks_cost(run_folder, parse):
    folder = run_folder()
    noise = [{"accuracy": x, "loss": 1.0} for x in (0.9, 0.5, 0.1)]
    clean = {"accuracy": 0.95, "loss": 0.2}
    (folder / "robustness.json").write_text(json.dumps({"clean": clean, "some_noise": noise}))
    attacked = {"clean": clean, "attacked": {"accuracy": 0.25, "loss": None}}
    (folder / "robustness-attack.json").write_text(json.dumps(attacked))
    text = parse(run_page(read_run(folder), NONE)).text()
    assert "mean 1 2 3 clean 0.95 some noise 0.5 0.9 0.5 0.1" in text
    assert "measure clean attacked accuracy 0.95 0.25 loss 0.2 not finite" in text


def test_privacy_is_the_last_that_was_spent(run_folder, parse):
    lines = [
        {"step": n, "split": "privacy", "epsilon": e, "delta": 1e-5, "noise_multiplier": 1.1}
        for n, e in ((50, 0.5), (100, 0.75))
    ]
    text = parse(run_page(read_run(run_folder(lines=lines)), NONE)).text()
    assert "epsilon 0.75 delta 1e-05 noise multiplier 1.1" in text
    assert "What the run had spent after step 100." in text
    lines[1]["epsilon"] = None
    text = parse(run_page(read_run(run_folder("bare", lines=lines)), NONE)).text()
    assert "epsilon infinite" in text


@pytest.mark.parametrize("field", ["audio", "tokens", "features"])
def test_rows_of_every_kind_can_be_looked_at(run_folder, parse, field):
    rng = np.random.default_rng(0)
    values = {
        "audio": rng.normal(size=(4, 50_000)).astype(np.float32),
        "tokens": rng.integers(0, 5, (4, 900)),
        "features": rng.normal(size=(4, 5)).astype(np.float32),
    }[field]
    batch = {field: values, "target": np.arange(4, dtype=np.float32), "label_mask": np.ones((4, 9))}
    rows = Rows("test", np.arange(4.0) + 0.5, batch, np.arange(4.0), np.ones(4), words=tuple("abc"))
    page = parse(run_page(read_run(run_folder()), rows, mistakes=3))
    text = page.text()
    assert "The 3 examples of the greatest loss, among 4." in text
    assert "Output by target, 4 pairs: correlation 1, mean absolute difference 0.5" in text
    assert len(page.all("audio")) == (3 if field == "audio" else 0)
    if field == "tokens":
        assert "... 740 more" in text
    assert len(page.html) < 600_000


def test_tokens_that_stand_for_a_recording_are_heard(run_folder, parse):
    rows = Rows("test", None, {"tokens": np.full((2, 80), 3)}, np.arange(2.0), np.ones(2), rate=800)
    heard = rows._replace(waves=lambda tokens: (tokens - 2) / 2)
    page = parse(run_page(read_run(run_folder()), heard))
    sounds = [base64.b64decode(a["src"].partition(",")[2]) for a in page.all("audio")]
    assert len(sounds) == 2
    with wave.open(io.BytesIO(sounds[0])) as file:
        assert (file.getframerate(), file.getnframes()) == (800, 80)
        values = np.frombuffer(file.readframes(80), "<i2")
    assert (values == round(0.5 * 32767)).all()


def test_rows_without_a_finite_loss_are_not_the_worst(run_folder, parse):
    rows = Rows(
        "test", None, {"x": np.ones((3, 2))}, np.array([1.0, np.nan, 5.0]), np.array([1, 1, 0])
    )
    text = parse(run_page(read_run(run_folder()), rows)).text()
    assert "The 1 example of the greatest loss, among 1." in text
    assert "Example 0 of test" in text
    gone = parse(run_page(read_run(run_folder("b")), rows._replace(loss=None))).text()
    assert "no loss of their own" in gone


def channels(colour):
    parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    return np.array(parts)


def luminance(rgb):
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(a, b):
    """WCAG 2.2, of colours as three numbers."""
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colours_can_be_told_apart(theme):
    style = (
        jaxdl.reporting.pages.resources.files("jaxdl.reporting")
        .joinpath("templates", "page.css")
        .read_text()
    )
    light, dark = re.findall(r":root \{(.*?)\}", style, flags=re.DOTALL)
    colours = {
        name: channels(value)
        for name, value in re.findall(r"--(\w+): (#\w{6})", light if theme == "light" else dark)
    }
    assert len(colours) == 13
    for ground in ("paper", "card"):
        for ink in ("ink", "quiet", "main"):
            assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
        for line in ("s1", "s2", "s3", "s4"):
            assert contrast(colours[line], colours[ground]) >= 3, (line, ground)
    levels = re.findall(r"\.h(\d+) \{ background: color-mix\(in srgb, var\(--heat\) (\d+)%", style)
    assert [int(level) for level, _ in levels] == list(range(1, 11))
    for ground in ("paper", "card"):
        for _, share in levels:
            part = int(share) / 100
            mixed = colours["heat"] * part + colours[ground] * (1 - part)
            assert contrast(colours["ink"], mixed) >= 4.5, (ground, share)
