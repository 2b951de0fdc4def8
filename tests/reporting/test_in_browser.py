"""A run from its first step to its page in Chromium, on a phone and a desk, in light and dark."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser import PROGRAM, Browser

from jaxdl.cli import main

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).parents[2] / "examples" / "digits.py"
SIZES = {"phone": (390, 844), "desk": (1280, 900)}
# What sticks out of the window, and may not be scrolled in a box of its own.
HIDDEN = """(() => {
  const all = [...document.querySelectorAll('main *')].filter(e => !e.closest('.wide, pre, svg'));
  const out = all.filter(e => e.getBoundingClientRect().right > innerWidth + 1);
  return out.map(e => e.outerHTML.slice(0, 99));
})()"""
PICTURES = "[...document.images].every(i => i.complete && i.naturalWidth > 0 && i.alt)"
FIGURES = """[...document.querySelectorAll('svg[role=img]')].map(
  s => Boolean(s.querySelector('title').textContent && s.querySelector('desc').textContent))"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two short runs of digits and their pages."""
    folder = tmp_path_factory.mktemp("reported")
    for name, rate in (("a", "1e-3"), ("b", "3e-3")):
        words = ["train", str(EXAMPLE), "--steps", "20", "--run-dir", str(folder / name)]
        more = [
            "--optimizer.learning-rate",
            rate,
            "--optimizer.warmup-steps",
            "5",
            "--devices",
            "1",
        ]
        assert main([*words, *more, "--quiet"]) == 0
    assert main(["report", str(folder / "a"), "--mistakes", "4", "--devices", "1"]) == 0
    assert main(["report", str(folder / "a"), str(folder / "b"), "--devices", "1"]) == 0
    return folder


def test_the_page_has_what_a_run_has(folder, parse):
    text = parse((folder / "a" / "report.html").read_text(encoding="utf-8"))
    assert len(text.all("img")) == 8
    said = text.text()
    for words in (
        "The 4 wrong predictions of the greatest loss",
        "integrated gradients, of the predicted score, which they add up to within",
        "Confusion matrix",
        "Calibration error",
        "dense_0/kernel",
        "Learning rate by step.",
    ):
        assert words in said
    assert "Not explained" not in said
    assert (folder / "a" / "report.html").stat().st_size < 2_000_000


def test_fields_that_are_too_large_are_read_again(folder, monkeypatch):
    # Labels can be held, images cannot.
    monkeypatch.setattr("jaxdl.cli.reported._LARGEST_FIELDS", 5_000)
    out = folder / "again.html"
    words = ["report", str(folder / "a"), "--mistakes", "4", "--devices", "1", "--out", str(out)]
    assert main(words) == 0
    assert out.read_bytes() == (folder / "a" / "report.html").read_bytes()


def test_explanations_that_are_there_are_taken(folder, parse):
    words = ["explain", str(folder / "a"), "--method", "saliency", "--count", "9", "--devices", "1"]
    assert main(words) == 0
    out = folder / "explained.html"
    words = ["report", str(folder / "a"), "--mistakes", "4", "--devices", "1", "--out", str(out)]
    assert main(words) == 0
    assert "coloured in texts: saliency." in parse(out.read_text(encoding="utf-8")).text()


def test_the_comparison_is_of_the_same_rows(folder, parse):
    said = parse((folder / "b" / "comparison.html").read_text(encoding="utf-8")).text()
    assert "Both on the same 360 rows of the test split, in pairs." in said
    assert "optimizer.learning_rate 0.001 0.003" in said
    assert "McNemar" in said


@pytest.mark.skipif(PROGRAM is None, reason="no Chromium is installed")
@pytest.mark.parametrize("page", ["a/report.html", "b/comparison.html"])
def test_the_page_in_a_browser(folder, page, tmp_path):
    browser = Browser(tmp_path)
    try:
        for (width, height), dark in [(s, d) for s in SIZES.values() for d in (False, True)]:
            browser.open(folder / page, width=width, height=height, dark=dark)
            assert browser.run("document.documentElement.scrollWidth <= innerWidth")
            assert browser.run(HIDDEN) == []
            ground = browser.run("getComputedStyle(document.body).backgroundColor")
            assert (sum(map(int, ground[4:-1].split(","))) < 200) == dark
            assert browser.run(PICTURES)
            named = browser.run(FIGURES)
            assert len(named) >= 3
            assert all(named)
        # With the keyboard alone: the first stop leads past the contents.
        browser.press("Tab")
        assert browser.run("document.activeElement.className") == "skip"
        browser.press("Enter")
        browser.until("document.activeElement.id === 'main'")
        assert browser.complaints() == []
        outside = [url for url in browser.requests() if not url.startswith(("file:", "data:"))]
        assert outside == []
    finally:
        browser.close()
