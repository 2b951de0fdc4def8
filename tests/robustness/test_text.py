"""Typing mistakes and missing words: their rate, their seeds, and padding that nobody touches."""

from __future__ import annotations

import numpy as np
import pytest

from jaxdl.errors import BatchError, ConfigError
from jaxdl.robustness import RATES, drop_tokens, drop_words, typo_tokens, typos

TEXT = "The quick brown fox jumps over the lazy dog, 42 times. " * 40
TOKENS = np.random.default_rng(0).integers(5, 100, (6, 300))
MASK = (np.arange(300) < np.array([[300], [200], [100], [50], [1], [0]])).astype(np.float32)
PADDED = np.where(MASK > 0, TOKENS, 0)
KINDS = ("swap", "delete", "insert", "replace")


def changed(a: str, b: str) -> int:
    return sum(1 for x, y in zip(a, b, strict=True) if x != y)


def test_each_kind_does_what_it_says():
    letters = sum(c.isalpha() for c in TEXT)
    replaced = typos(TEXT, rate=0.2, seed=1, kinds=["replace"])
    assert changed(TEXT, replaced) == pytest.approx(0.2 * letters, rel=0.15)
    inserted = typos(TEXT, rate=0.2, seed=1, kinds=["insert"])
    assert len(inserted) - len(TEXT) == pytest.approx(0.2 * letters, rel=0.15)
    deleted = typos(TEXT, rate=0.2, seed=1, kinds=["delete"])
    assert len(TEXT) - len(deleted) == pytest.approx(0.2 * letters, rel=0.15)
    swapped = typos(TEXT, rate=0.2, seed=1, kinds=["swap"])
    assert swapped != TEXT
    assert sorted(swapped) == sorted(TEXT)
    for text in (replaced, swapped):
        kept = [(i, c) for i, c in enumerate(TEXT) if not c.isalpha()]
        assert all(text[i] == c for i, c in kept)
    assert "".join(c for c in inserted if not c.isalpha()) == "".join(
        c for c in TEXT if not c.isalpha()
    )


def test_a_replacement_is_a_neighbour_of_the_same_case():
    assert set(typos("g" * 500, rate=1.0, seed=0, kinds=["replace"])) <= set("fhtyvb")
    assert set(typos("G" * 500, rate=1.0, seed=0, kinds=["replace"])) <= set("FHTYVB")
    other = typos("жук и лис", rate=1.0, seed=0, kinds=["replace"])
    assert changed("жук и лис", other) == 7
    assert set(other) <= set("жук и лис")
    assert typos("ж", rate=1.0, seed=0, kinds=["replace"]) == "ж"


def test_seeds_and_rates():
    assert typos(TEXT, rate=0.1, seed=3) == typos(TEXT, rate=0.1, seed=3)
    assert typos(TEXT, rate=0.1, seed=3) != typos(TEXT, rate=0.1, seed=4)
    assert typos(TEXT, rate=0.0, seed=3) == TEXT
    assert typos("", rate=1.0, seed=3) == drop_words("", rate=1.0, seed=3) == ""
    # A letter that is hit at one rate is hit at every higher one.
    counts = [changed(TEXT, typos(TEXT, rate=r, seed=0, kinds=["replace"])) for r in RATES]
    assert counts == sorted(set(counts))


def test_words_go_and_one_stays():
    left = drop_words(TEXT, rate=0.3, seed=0)
    words, rest = TEXT.split(), left.split()
    assert 1 - len(rest) / len(words) == pytest.approx(0.3, abs=0.05)
    going = iter(words)
    assert all(word in going for word in rest)
    assert drop_words(" a  b\nc ", rate=0.0, seed=0) == " a  b\nc "
    assert drop_words(" \n", rate=1.0, seed=0) == " \n"
    for seed in range(5):
        assert drop_words("a b c d", rate=1.0, seed=seed) in {"a", "b", "c", "d"}


def test_tokens_go_and_padding_stays():
    rows, mask = drop_tokens(PADDED, rate=0.25, seed=0, mask=MASK)
    assert rows.dtype == PADDED.dtype
    assert mask.dtype == MASK.dtype
    assert np.all(rows[mask == 0] == 0)
    assert np.all(mask <= MASK)
    assert 1 - mask[0].mean() == pytest.approx(0.25, abs=0.07)
    assert mask[4].sum() == 1
    assert mask[5].sum() == 0
    for row in range(4):
        count = int(mask[row].sum())
        assert np.all(mask[row][:count] == 1)
        given = iter(PADDED[row].tolist())
        assert all(token in given for token in rows[row][:count].tolist())
    assert np.array_equal(drop_tokens(PADDED, rate=0.0, seed=0, mask=MASK)[0], PADDED)
    assert np.all(drop_tokens(PADDED, rate=1.0, seed=0, mask=MASK)[1].sum(1) == [1, 1, 1, 1, 1, 0])
    assert np.array_equal(PADDED, np.where(MASK > 0, TOKENS, 0))


def test_tokens_are_replaced_in_place():
    rows, mask = drop_tokens(PADDED, rate=0.25, seed=0, mask=MASK, replace_by=3)
    np.testing.assert_array_equal(mask, MASK)
    hit = rows == 3
    assert not hit[MASK == 0].any()
    np.testing.assert_array_equal(rows[~hit], PADDED[~hit])
    assert hit.sum() / MASK.sum() == pytest.approx(0.25, abs=0.05)
    special = set(range(5, 50))
    rows, _ = drop_tokens(PADDED, rate=1.0, seed=0, mask=MASK, replace_by=3, special=special)
    stays = np.isin(PADDED, list(special)) & (MASK > 0)
    np.testing.assert_array_equal(rows[stays], PADDED[stays])
    assert np.all(rows[0][~stays[0]] == 3)


@pytest.mark.parametrize("function", [drop_tokens, typo_tokens])
def test_a_row_is_alone(function):
    """Neither other rows nor more padding, at the end or before it, change a row."""
    options = {"rate": 0.3, "seed": 5}
    if function is typo_tokens:
        options["vocab_size"] = 100
    rows, mask = function(PADDED, mask=MASK, **options)
    first, _ = function(PADDED[:2], mask=MASK[:2], **options)
    np.testing.assert_array_equal(first, rows[:2])
    wide, wide_mask = (np.pad(x, ((0, 0), (0, 9))) for x in (PADDED, MASK))
    more, more_mask = function(wide, mask=wide_mask, **options)
    np.testing.assert_array_equal(more_mask[:, :300].astype(bool)[1:], mask.astype(bool)[1:])
    if function is drop_tokens:
        np.testing.assert_array_equal(more[:, :300], rows)
    left, left_mask = (np.pad(x, ((0, 0), (9, 0))) for x in (PADDED, MASK))
    moved, _ = function(left, mask=left_mask, **options)
    np.testing.assert_array_equal(moved[:, 9:], rows)
    assert not moved[:, :9].any()
    assert not np.array_equal(function(PADDED, mask=MASK, **{**options, "seed": 6})[0], rows)
    # A mask of rows, and none.
    whole, _ = function(TOKENS, **options)
    some, some_mask = function(TOKENS, mask=np.array([1, 1, 0, 1, 1, 1]), **options)
    np.testing.assert_array_equal(some[2], TOKENS[2])
    np.testing.assert_array_equal(some[[0, 1, 3]], whole[[0, 1, 3]])
    assert some_mask.shape == TOKENS.shape


def test_typing_mistakes_in_tokens():
    for kind in KINDS:
        rows, mask = typo_tokens(
            PADDED, rate=0.2, seed=0, vocab_size=100, mask=MASK, kinds=[kind], special={7}
        )
        assert np.all(rows[mask == 0] == 0)
        assert np.all((rows < 100) & (rows >= 0))
        row = rows[1][mask[1] > 0]
        given = PADDED[1][MASK[1] > 0]
        if kind == "swap":
            assert sorted(row) == sorted(given)
            assert 0.2 < np.mean(row != given) < 0.5
        if kind == "replace":
            assert np.mean(row != given) == pytest.approx(0.2, abs=0.08)
            np.testing.assert_array_equal(row == 7, given == 7)
        if kind == "delete":
            assert 1 - len(row) / len(given) == pytest.approx(0.2, abs=0.08)
        if kind == "insert":
            # There is no room for what was pushed out.
            assert len(row) == len(given)
            assert set(row) - set(given)
    everything, mask = typo_tokens([[5, 6, 7]], rate=1.0, seed=0, vocab_size=9, kinds=["delete"])
    assert (everything.tolist(), mask.tolist()) == ([[5, 0, 0]], [[1, 0, 0]])


def test_what_cannot_be_asked(untyped):
    for call in (
        lambda: typos("a", rate=1.1, seed=0),
        lambda: drop_words("a", rate=-0.1, seed=0),
        lambda: drop_tokens(TOKENS, rate=2.0, seed=0),
        lambda: typos("a", rate=0.1, seed=-1),
        lambda: typos("a", rate=0.1, seed=0, kinds=[]),
        lambda: typos("a", rate=0.1, seed=0, kinds=["shout"]),
        lambda: typo_tokens(TOKENS, rate=0.1, seed=0, vocab_size=1),
    ):
        with pytest.raises(ConfigError):
            call()
    for tokens, mask in (
        (TOKENS[0], None),
        (TOKENS * 1.0, None),
        (TOKENS, np.ones((6, 4))),
        (TOKENS, np.ones(5)),
    ):
        with pytest.raises(BatchError):
            drop_tokens(tokens, rate=0.1, seed=0, mask=mask)
