"""A judge at work in Chromium: by keys and by mouse, on a phone and a desk, in light and dark."""

from __future__ import annotations

import base64
import json
import wave

import pytest
from browser import PROGRAM, Browser

from jaxdl.judging import create_page, read_judgements, summarize

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROGRAM is None, reason="no Chromium is installed"),
]

DOT = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
ATTACK = (
    "</script><script>document.title='taken'</script><img src=http://a.example/ onerror=alert(1)>"
)
SIZES = {"phone": (390, 844), "desk": (1280, 900)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pages of pairs and of ratings, with their keys."""
    folder = tmp_path_factory.mktemp("judging")
    (folder / "dot.png").write_bytes(DOT)
    with wave.open(str(folder / "tone.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(1600))
    items = [
        {"id": "text", "prompt": ATTACK, "systems": {"x": ATTACK, "y": "word " * 60 + "long" * 40}},
        {
            "id": "image",
            "prompt": "A dot",
            "systems": {"x": {"image": "dot.png", "alt": "a dot"}, "y": {"image": "dot.png"}},
        },
        {
            "id": "audio",
            "prompt": {"audio": "tone.wav"},
            "systems": {"x": {"audio": "tone.wav", "alt": "silence"}, "y": "none"},
        },
    ]
    for kind in ("pairs", "ratings"):
        page = create_page(items, seed=4, kind=kind, folder=folder, title="Which <b>one</b>?")
        (folder / f"{kind}.html").write_text(page.html)
        (folder / f"{kind}.json").write_text(json.dumps(page.key))
    return folder


@pytest.fixture
def browser(tmp_path):
    made = Browser(tmp_path)
    yield made
    made.close()


def check_page(browser, folder):
    """Nothing complained, nothing left the page, nothing of a text came alive."""
    assert browser.complaints() == []
    own = ("data:", f"blob:{folder.as_uri()}", "blob:null/")
    pages = {(folder / f"{kind}.html").as_uri() for kind in ("pairs", "ratings")}
    assert [url for url in browser.requests() if not url.startswith(own) and url not in pages] == []
    assert browser.run("document.title") == "Which <b>one</b>?"
    assert browser.run("document.documentElement.scrollWidth <= innerWidth")


def begin(browser, name):
    """By the keyboard alone."""
    for _ in range(5):
        browser.press("Tab")
        if browser.run("document.activeElement.id") == "judge":
            break
    for letter in name:
        browser.press(letter)
    browser.press("Enter")
    browser.until("!document.getElementById('question').hidden")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_pairs_are_judged_by_keys(browser, folder, size, dark):
    width, height = SIZES[size]
    browser.open(folder / "pairs.html", width=width, height=height, dark=dark)
    begin(browser, "ann b")
    for number, key in enumerate("abs", 1):
        heading = browser.run("document.activeElement.textContent")
        assert heading == f"Question {number} of 3"
        check_page(browser, folder)
        nameless = "[...document.querySelectorAll('img, audio')].filter("
        nameless += "e => !(e.alt || e.getAttribute('aria-label'))).length"
        assert browser.run(nameless) == 0
        browser.press(key)
    browser.until("!document.getElementById('end').hidden")
    assert browser.run("document.getElementById('bar').value") == 3
    browser.click("#download")
    (path,) = browser.downloaded()
    record = json.loads(path.read_text())
    assert [(a["question"], a["answer"]) for a in record["answers"]] == [
        (1, "a"),
        (2, "b"),
        (3, "same"),
    ]
    assert path.name == f"judgements-{record['page']}-ann-b.json"
    found = read_judgements([path], [folder / "pairs.json"])
    asked = json.loads((folder / "pairs.json").read_text())["questions"]
    assert [each.winner for each in found.preferences] == [
        asked["1"]["systems"][0],
        asked["2"]["systems"][1],
        None,
    ]
    assert {each.judge for each in found.preferences} == {"ann b"}
    check_page(browser, folder)


def test_ratings_are_given_by_mouse_and_kept(browser, folder):
    browser.open(folder / "ratings.html", width=390, height=844)
    browser.click("#begin button")
    # Without a name it does not begin.
    assert browser.run("document.getElementById('question').hidden")
    begin(browser, "bob")
    for value in (5, 1, 3):
        browser.click(f'#choices button[data-value="{value}"]')
    # Closed and opened again: it goes on where it was.
    browser.open(folder / "ratings.html", width=390, height=844)
    assert (
        browser.run("document.getElementById('question-heading').textContent") == "Question 4 of 6"
    )
    assert browser.run("document.getElementById('count').textContent") == "3 of 6 answered"
    browser.click("#previous")
    pressed = "document.querySelector('#choices [aria-pressed=true]').dataset.value"
    assert browser.run(pressed) == "3"
    browser.press("2")
    # Keys that are switched off do nothing.
    browser.click("#shortcuts")
    browser.press("5")
    assert browser.run("document.getElementById('count').textContent") == "3 of 6 answered"
    browser.click("#finish")
    assert "3 of 6 questions" in browser.run("document.getElementById('missing').textContent")
    browser.click("#download")
    (path,) = browser.downloaded()
    found = read_judgements([path], [folder / "ratings.json"])
    assert [each.rating for each in found.ratings] == [5, 1, 2]
    assert summarize(found, resamples=10)["judgements"] == 3
    copied = json.loads(browser.run("document.getElementById('copy').value"))
    assert copied["answers"] == json.loads(path.read_text())["answers"]
    browser.click("#back")
    assert (
        browser.run("document.getElementById('question-heading').textContent") == "Question 4 of 6"
    )
    check_page(browser, folder)


def test_it_says_so_where_a_browser_keeps_nothing(browser, folder):
    script = "Object.defineProperty(window, 'localStorage', {get() { throw new Error('none'); }})"
    browser.call("Page.addScriptToEvaluateOnNewDocument", source=script)
    browser.open(folder / "pairs.html")
    assert "does not keep" in browser.run("document.getElementById('notice').textContent")
    begin(browser, "cem")
    browser.press("a")
    assert browser.run("document.getElementById('count').textContent") == "1 of 3 answered"
    check_page(browser, folder)


def test_what_is_watched_for_would_be_seen(browser, tmp_path):
    """The control: a page that does all that the others must not."""
    (tmp_path / "bad.html").write_text(
        "<!doctype html><h1 id=title>bad</h1><img src='http://a.example/seen.png'>"
        "<script>console.error('said'); setTimeout(() => { throw new Error('thrown'); })</script>"
    )
    browser.open(tmp_path / "bad.html")
    browser.until("true")
    said = str(browser.complaints())
    for word in ("said", "thrown", "ERR_"):
        assert word in said
    assert "http://a.example/seen.png" in browser.requests()
    page = create_page([{"id": "i", "systems": {"x": "1", "y": "2"}}], seed=0).html
    for more in ("<script>document.title = 'taken'</script>", "<img src='http://a.example/x.png'>"):
        (tmp_path / "more.html").write_text(page.replace("</main>", more + "</main>"))
        browser.events.clear()
        browser.open(tmp_path / "more.html")
        # The page's own policy stops it, and says so.
        assert "Content Security Policy" in str(browser.complaints())
        assert browser.run("document.title") == "Judging"
