"""Run folders as ``jaxdl train`` leaves them, written by hand, and pages taken apart."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import pytest

CONFIG = {
    "steps": 200,
    "batch_size": 16,
    "optimizer": {
        "name": "adam",
        "learning_rate": 0.1,
        "schedule": "linear",
        "warmup_steps": 20,
        "boundaries": [],
        "factor": 0.1,
    },
}
SCORES = {
    "train": {"loss": 0.1, "accuracy": 0.99},
    "test": {"loss": 0.3, "accuracy": 0.9, "confusion": [[3, 1], [0, 2]]},
}
VOID = {"meta", "link", "img", "br", "wbr", "input"}


def records(count=4, **more):
    """Train records whose loss halves, and a validation after every second."""
    lines = []
    for n in range(1, count + 1):
        values = {"loss": 2.0**-n, "steps_per_second": 10.0, "examples_per_second": 160.0}
        lines.append({"step": 50 * n, "split": "train", "time": 1.0, **values, **more})
        if n % 2 == 0:
            lines.append({"step": 50 * n, "split": "validation", "time": 1.0, "loss": 3.0**-n})
    return lines


@pytest.fixture
def run_folder(tmp_path):
    """Writes a run's folder; what is ``None`` is left out."""

    def write(name="run", *, lines=None, summary=True, config=None, recipe="# the file\n"):
        folder = tmp_path / name
        folder.mkdir()
        content = {
            "file": "digits.py",
            "arguments": ["--steps", "200"],
            "config": CONFIG if config is None else config,
            "versions": {"jaxdl": "0.1.0", "jax": "0.10.2"},
            "python": "3.11.7",
            "started": "2026-11-27T18:16:15+0000",
        }
        (folder / "config.json").write_text(json.dumps(content))
        if recipe is not None:
            (folder / "recipe.py").write_text(recipe)
        text = "".join(json.dumps(line) + "\n" for line in (records() if lines is None else lines))
        (folder / "metrics.jsonl").write_text(text)
        if summary is True:
            summary = {
                "name": "digits",
                "seed": 0,
                "steps": 200,
                "stopped": None,
                "seconds": 40.0,
                "parameters": 21408,
                "devices": ["cpu:0"],
                "scores": SCORES,
            }
        if summary:
            (folder / "summary.json").write_text(json.dumps(summary))
        return folder

    return write


class Page(HTMLParser):
    """A page as lists: every element with its attributes, its text, and what does not nest."""

    def __init__(self, html):
        super().__init__()
        self.html = html
        self.elements, self.broken, self._open, self._texts = [], [], [], {}
        self.feed(html)
        self.close()
        self.broken += self._open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "dd":
            self.handle_data(" ")
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self._open or self._open.pop() != tag:
            self.broken.append(tag)

    def handle_data(self, data):
        for tag in self._open:
            self._texts.setdefault(tag, []).append(data)

    def all(self, tag):
        """The attributes of every such element."""
        return [attributes for name, attributes in self.elements if name == tag]

    def text(self, tag="main"):
        """All text within such elements, in one line."""
        return " ".join("".join(self._texts.get(tag, [])).replace("\xa0", " ").split())


@pytest.fixture
def parse():
    """A page taken apart, once it is sound: nested, labelled, and without any address outside."""

    def parsed(html):
        page = Page(html)
        assert page.broken == []
        ids = [a["id"] for _, a in page.elements if "id" in a]
        assert len(ids) == len(set(ids))
        for _, a in page.elements:
            for name in a.get("aria-labelledby", "").split():
                assert name in ids
            if a.get("href", "").startswith("#"):
                assert a["href"][1:] in ids
            for name in ("src", "href"):
                assert a.get(name, "#").startswith(("#", "data:"))
            assert not [name for name in a if name.startswith("on") or name == "style"]
        assert all(a["alt"] for a in page.all("img"))
        assert all(a["scope"] in ("row", "col") for a in page.all("th"))
        drawn = [a for a in page.all("svg") if a.get("aria-hidden") != "true"]
        assert all(a["role"] == "img" and a["aria-labelledby"] for a in drawn)
        assert len(page.all("caption")) == len(page.all("table"))
        assert page.all("script") == []
        return page

    return parsed
