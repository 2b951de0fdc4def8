"""``jaxdl judge``: from a file of items to a report, and what it says to mistakes."""

from __future__ import annotations

import json
import stat

import pytest


@pytest.fixture
def items(tmp_path):
    path = tmp_path / "items.jsonl"
    lines = [
        {"id": f"i{n}", "prompt": "p", "systems": {"plain": f"a{n}", "tuned": f"b{n}"}}
        for n in range(6)
    ]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    return path


@pytest.fixture
def create(jaxdl_command, items, tmp_path):
    def making(*more):
        files = ("--page", tmp_path / "page.html", "--key", tmp_path / "key.json")
        return jaxdl_command("judge", "create", items, *files, "--seed", 1, *more)

    return making


def judged(folder, judge, choose):
    key = json.loads((folder / "key.json").read_text())
    answers = [
        {"question": int(n), "answer": choose(asked["systems"])}
        for n, asked in key["questions"].items()
    ]
    path = folder / f"{judge}.json"
    path.write_text(
        json.dumps(
            {
                "format": "jaxdl-judgements",
                "version": 1,
                "page": key["page"],
                "judge": judge,
                "answers": answers,
            }
        )
    )
    return path


def test_pairs_from_items_to_report(jaxdl_command, create, tmp_path):
    code, out, _ = create("--title", "Which?")
    assert code == 0
    assert "page.html: 6 questions about 6 items" in out
    page = (tmp_path / "page.html").read_text()
    assert "<title>Which?</title>" in page
    assert "tuned" not in page
    assert stat.S_IMODE((tmp_path / "key.json").stat().st_mode) == 0o600

    ann = judged(tmp_path, "ann", lambda systems: "ab"[systems.index("tuned")])
    bob = judged(tmp_path, "bob", lambda systems: "same")
    report = tmp_path / "report.json"
    words = ("--key", tmp_path / "key.json", "--resamples", 50, "--json", report)
    code, out, _ = jaxdl_command("judge", "report", ann, bob, *words)
    assert code == 0
    lines = [line.split() for line in out.splitlines() if line.strip()]
    assert ["tuned", "6", "6", "0", "0.750"] in [line[:5] for line in lines]
    assert ["Fleiss", "-0.600"] in lines
    assert ["Cohen,", "ann", "and", "bob", "0.000"] in lines
    assert "12 judgements of 6 items by 2 judges" in out
    found = json.loads(report.read_text())
    assert found["win_rates"][0]["system"] == found["bradley_terry"][0]["system"] == "tuned"


def test_ratings_from_items_to_report(jaxdl_command, create, tmp_path):
    assert create("--kind", "ratings", "--scale", 3)[0] == 0
    ann = judged(tmp_path, "ann", lambda systems: 3 if systems == ["tuned"] else 1)
    code, out, _ = jaxdl_command("judge", "report", ann, "--key", tmp_path / "key.json")
    assert code == 0
    assert ["tuned", "3.000", "3.000", "to", "3.000"] in [line.split() for line in out.splitlines()]


def test_a_key_is_not_overwritten_by_mistake(create, tmp_path):
    assert create()[0] == 0
    before = (tmp_path / "key.json").read_text()
    code, _, err = create("--kind", "ratings")
    assert code == 2
    assert "lost with its key" in err
    assert (tmp_path / "key.json").read_text() == before
    assert create("--kind", "ratings", "--overwrite")[0] == 0
    assert stat.S_IMODE((tmp_path / "key.json").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}\n[]\n", "line 2, is no JSON object"),
        ('{"id": "a"\n', "line 1, is no JSON object"),
        ("", "there are no items"),
    ],
)
def test_items_that_cannot_be_read(create, items, tmp_path, text, message):
    items.write_text(text)
    code, _, err = create()
    assert code == 2
    assert message in err
    assert not (tmp_path / "page.html").exists()


def test_words_that_are_no_verb(jaxdl_command, tmp_path):
    code, _, err = jaxdl_command("judge", "crate")
    assert code == 2
    assert "did you mean 'create'?" in err
    code, _, err = jaxdl_command("judge", "report", tmp_path / "no.json", "--key", tmp_path / "k")
    assert code == 2
    assert "cannot be read" in err
