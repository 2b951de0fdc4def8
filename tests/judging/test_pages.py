"""The page hides who wrote what, shows everything as text, and asks nobody for anything."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
from collections import Counter
from html.parser import HTMLParser

import pytest

from jaxdl.errors import ConfigError, DataError
from jaxdl.judging import create_page

NASTY = "</script><script>alert(1)</script><!-- <b>&amp; \u2028 {{style}} \ud800 'quotes\" \\"
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def items(count=6, systems=("alphonse", "berenice")):
    return [
        {
            "id": f"secret-id-{n}",
            "prompt": f"prompt {n}",
            "systems": {name: f"text {n}.{place}" for place, name in enumerate(systems)},
        }
        for n in range(count)
    ]


class Parsed(HTMLParser):
    """Elements, and what stands in scripts, styles and the title."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.inside, self._open = [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._open = tag if tag in ("script", "style", "title") else None
        if self._open:
            self.inside.append([tag, dict(attrs), ""])

    def handle_endtag(self, tag):
        self._open = None

    def handle_data(self, data):
        if self._open:
            self.inside[-1][2] += data


def content_of(page):
    found = [text for tag, attrs, text in Parsed(page.html).inside if attrs.get("id") == "content"]
    return json.loads(found[0])


def test_the_page_and_its_key_follow_from_the_seed():
    page = create_page(items(), seed=5)
    assert page == create_page(items(), seed=5)
    assert page != create_page(items(), seed=6)
    assert page.key["page"] == content_of(page)["page"]
    assert page.key["page"] != create_page(items(), seed=6).key["page"]


@pytest.mark.parametrize("kind", ["pairs", "ratings"])
def test_the_page_holds_no_name_id_file_or_seed(tmp_path, kind):
    (tmp_path / "by-alphonse.png").write_bytes(PIXEL)
    asked = items()
    asked[0]["systems"]["alphonse"] = {"image": "by-alphonse.png", "alt": "a dot"}
    page = create_page(asked, seed=987_654_321, kind=kind, folder=tmp_path)
    for secret in ("alphonse", "berenice", "secret-id", "by-", "987654321", str(tmp_path)):
        assert secret not in page.html
    assert set(content_of(page)) == {
        *("kind", "title", "instructions", "scale", "questions", "media", "page")
    }
    assert {frozenset(question) for question in content_of(page)["questions"]} == {
        frozenset({"prompt", "answers"})
    }


def test_the_key_says_whose_text_is_where():
    asked = items(5, systems=("x", "y", "z"))
    by_id = {item["id"]: item for item in asked}
    for kind in ("pairs", "ratings"):
        page = create_page(asked, seed=1, kind=kind)
        questions = content_of(page)["questions"]
        assert len(questions) == len(page.key["questions"]) == 15
        for number, question in enumerate(questions, 1):
            entry = page.key["questions"][str(number)]
            shown = [by_id[entry["item"]]["systems"][name] for name in entry["systems"]]
            assert question["answers"] == [[{"text": text}] for text in shown]
            assert question["prompt"] == [{"text": by_id[entry["item"]]["prompt"]}]


@pytest.mark.parametrize("count", [8, 9])
def test_each_pair_is_shown_either_way_round_equally_often(count):
    page = create_page(items(count, systems=("x", "y", "z")), seed=2)
    shown = Counter(tuple(entry["systems"]) for entry in page.key["questions"].values())
    for pair in itertools.combinations("xyz", 2):
        assert shown[pair] + shown[pair[::-1]] == count
        assert abs(shown[pair] - shown[pair[::-1]]) == count % 2


def test_the_order_is_shuffled_and_pairs_can_be_fewer():
    page = create_page(items(20, systems=("x", "y", "z", "w")), seed=3, pairs_per_item=2)
    order = [entry["item"] for entry in page.key["questions"].values()]
    assert Counter(Counter(order).values()) == {2: 20}
    assert order != sorted(order)
    pairs = [
        (entry["item"], frozenset(entry["systems"])) for entry in page.key["questions"].values()
    ]
    assert len(set(pairs)) == 40
    assert len({pair for _, pair in pairs}) == 6


def test_who_guesses_the_seed_does_not_know_the_sides():
    def sides(names):
        key = create_page(items(40, systems=names), seed=7).key
        return [sorted(entry["systems"]) == entry["systems"] for entry in key["questions"].values()]

    same = sum(a == b for a, b in zip(sides(("x", "y")), sides(("x", "z")), strict=True))
    # Of 40 by chance: three standard deviations to either side.
    assert 10 <= same <= 30


def test_nothing_of_a_text_becomes_part_of_the_page():
    asked = [{"id": "one", "prompt": NASTY, "systems": {"x": NASTY, "y": {"text": NASTY}}}]
    quoted = NASTY.replace("\ud800", "")
    page = create_page(asked, seed=0, title=quoted, instructions=NASTY)
    plain = create_page(items(1), seed=0)
    parsed, reference = Parsed(page.html), Parsed(plain.html)
    assert [e[0] for e in parsed.elements] == [e[0] for e in reference.elements]
    content = content_of(page)
    assert content["questions"][0]["answers"] == [[{"text": NASTY}]] * 2
    assert content["instructions"] == NASTY
    assert [text for tag, _, text in parsed.inside if tag == "title"] == [quoted]
    assert "{{" not in plain.html


def test_the_policy_lets_only_the_pages_own_script_and_style_in():
    parsed = Parsed(create_page(items(), seed=0).html)
    (policy,) = [
        attrs["content"]
        for tag, attrs in parsed.elements
        if "http-equiv" in attrs and tag == "meta"
    ]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert (rules["img-src"], rules["media-src"]) == ("data:", "data:")
    for tag, attrs, text in parsed.inside:
        if tag in ("script", "style") and "type" not in attrs:
            digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
            assert rules[f"{tag}-src"] == f"'sha256-{digest}'"
    assert not [attrs for _, attrs in parsed.elements if "style" in attrs or "src" in attrs]
    addresses = [attrs["href"] for _, attrs in parsed.elements if "href" in attrs]
    assert addresses == ["data:,"]


def test_everything_to_be_used_has_a_name():
    parsed = Parsed(create_page(items(), seed=0).html)
    labelled = {attrs["for"] for tag, attrs in parsed.elements if tag == "label" and "for" in attrs}
    identities = [attrs["id"] for _, attrs in parsed.elements if "id" in attrs]
    assert len(identities) == len(set(identities))
    for tag, attrs in parsed.elements:
        if tag in ("input", "textarea", "progress"):
            assert attrs["id"] in labelled or attrs.get("type") == "checkbox"
        for name in ("aria-labelledby", "aria-describedby", "for"):
            assert attrs.get(name, identities[0]) in identities
    assert dict(parsed.elements)["html"]["lang"] == "en"


def test_files_are_inside_the_page_each_once(tmp_path):
    (tmp_path / "dot.png").write_bytes(PIXEL)
    (tmp_path / "tone.WAV").write_bytes(b"RIFF")
    given = f"data:image/png;base64,{base64.b64encode(PIXEL).decode()}"
    asked = [
        {
            "id": "one",
            "prompt": ["Which?", {"audio": "tone.WAV", "alt": "a tone"}],
            "systems": {"x": {"image": "dot.png", "alt": "a dot"}, "y": {"image": given}},
        }
    ]
    content = content_of(create_page(asked, seed=0, folder=tmp_path))
    assert sorted(content["media"]) == ["data:audio/wav;base64,UklGRg==", given]
    (question,) = content["questions"]
    dot, tone = (
        content["media"].index(given),
        content["media"].index("data:audio/wav;base64,UklGRg=="),
    )
    assert sorted(piece["alt"] for (piece,) in question["answers"]) == ["", "a dot"]
    assert {piece["image"] for (piece,) in question["answers"]} == {dot}
    assert question["prompt"] == [{"text": "Which?"}, {"audio": tone, "alt": "a tone"}]


def one(**changes):
    return [{"id": "one", "prompt": "p", "systems": {"x": "1", "y": "2"}, **changes}]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: create_page([], seed=0), "there are no items"),
        (lambda: create_page(one(), seed=-1), "seed is -1"),
        (lambda: create_page(one(), seed=0, scale=10), "scale is 10"),
        (lambda: create_page(one(), seed=0, pairs_per_item=0), "pairs_per_item is 0"),
        (lambda: create_page(one(id=1), seed=0), "item 1 is"),
        (lambda: create_page(one(systems=["1", "2"]), seed=0), "item 1 is"),
        (lambda: create_page(one(note="n"), seed=0), "item 'one' has 'note'"),
        (lambda: create_page(one() * 2, seed=0), "two items have the id 'one'"),
        (lambda: create_page(one(systems={"x": "1"}), seed=0), "item 'one' has 1 systems"),
        (lambda: create_page(one(prompt=3), seed=0), "item 'one', prompt, is 3"),
        (lambda: create_page(one(prompt={"txt": "p"}), seed=0), "item 'one', prompt, is"),
        (
            lambda: create_page(
                one(systems={"x": {"image": "a.png", "text": "t"}, "y": ""}), seed=0
            ),
            "item 'one', system 'x', is",
        ),
        (lambda: create_page(one(prompt={"image": "none.png"}), seed=0), "none.png cannot be read"),
        (
            lambda: create_page(one(prompt={"image": "http://a.example/b.png"}), seed=0),
            "cannot be read",
        ),
        (lambda: create_page(one(prompt={"image": "tone.wav"}), seed=0), "not known to be image"),
        (
            lambda: create_page(one(prompt={"image": "data:text/html;base64,AAAA"}), seed=0),
            "no data URI of image",
        ),
        (
            lambda: create_page(one(prompt={"audio": 'data:audio/wav;base64,A"A'}), seed=0),
            "no data URI of audio",
        ),
    ],
)
def test_what_cannot_be_asked_is_said(call, message):
    with pytest.raises((ConfigError, DataError), match=re.escape(message)):
        call()
