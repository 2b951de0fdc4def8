"""What judges send back, read with the key."""

from __future__ import annotations

import json

import pytest

from jaxdl.errors import DataError
from jaxdl.judging import Preference, Rating, create_page, read_judgements

ITEMS = [{"id": f"i{n}", "prompt": "p", "systems": {"x": "1", "y": "2"}} for n in range(4)]


@pytest.fixture(scope="module")
def key():
    return create_page(ITEMS, seed=0).key


@pytest.fixture
def write(tmp_path):
    def writing(content, name="file.json"):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return writing


def answers(key, given, judge="ann"):
    listed = [{"question": number, "answer": answer} for number, answer in given.items()]
    return {
        "format": "jaxdl-judgements",
        "version": 1,
        "page": key["page"],
        "judge": judge,
        "answers": listed,
    }


def test_answers_are_read_as_preferences_of_systems(key, write):
    path = write(answers(key, {1: "a", 2: "b", 3: "same"}))
    found = read_judgements([path], [write(key, "key.json")])
    asked = key["questions"]
    sides = {"1": "left", "2": "right", "3": "same"}
    assert found.ratings == ()
    assert found.preferences == tuple(
        Preference("ann", asked[n]["item"], *asked[n]["systems"], side) for n, side in sides.items()
    )
    first, second, third = found.preferences
    assert (first.winner, second.winner, third.winner) == (first.left, second.right, None)


def test_ratings_and_several_pages(key, write):
    other = create_page(ITEMS, seed=1, kind="ratings", scale=3).key
    files = [write(answers(key, {1: "a"})), write(answers(other, {2: 3, 1: 1}, "bob"), "b.json")]
    found = read_judgements(files, [write(other, "k2.json"), write(key, "k1.json")])
    assert len(found.preferences) == 1
    asked = other["questions"]
    assert found.ratings == tuple(
        Rating("bob", asked[n]["item"], asked[n]["systems"][0], rating)
        for n, rating in {"2": 3, "1": 1}.items()
    )


def test_a_part_and_the_whole_count_once(key, write):
    part, whole = write(answers(key, {1: "a"})), write(answers(key, {1: "a", 2: "b"}), "w.json")
    keys = [write(key, "key.json")]
    assert read_judgements([part, whole, part], keys) == read_judgements([whole], keys)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "is of format None"),
        ({"format": "other"}, "is of format 'other'"),
        ({"version": 2}, "version 2"),
        ({"page": "elsewhere"}, "is from page elsewhere"),
        ({"judge": "  "}, "names no judge"),
        ({"answers": [{"question": 9, "answer": "a"}]}, "answers question 9 with 'a'"),
        ({"answers": [{"question": 1, "answer": 3}]}, "answers question 1 with 3"),
        ({"answers": [{"question": 1}]}, "answers question 1 with None"),
        (
            {"answers": [{"question": 1, "answer": "a"}, {"question": 1, "answer": "b"}]},
            "'ann' said 'a' and 'b' of question 1",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_said(key, write, change, message):
    content = change if isinstance(change, str) else {**answers(key, {1: "a"}), **change}
    with pytest.raises(DataError, match=message):
        read_judgements([write(content)], [write(key, "key.json")])


def test_key_and_answers_are_not_exchanged(key, write):
    path = write(answers(key, {1: "a"}))
    with pytest.raises(DataError, match="give the key with --key"):
        read_judgements([write(key, "key.json")], [path])
    with pytest.raises(DataError, match="there are none"):
        read_judgements([path], [])


def test_a_rating_is_a_whole_number_of_the_scale(write):
    key = create_page(ITEMS, seed=1, kind="ratings", scale=3).key
    for wrong in (0, 4, True, "2", 1.5, None):
        with pytest.raises(DataError, match="answers question 1 with"):
            read_judgements([write(answers(key, {1: wrong}))], [write(key, "key.json")])
