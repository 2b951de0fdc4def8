"""Tokenizers: every text comes back, files are read and written, wrong input is named."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdl.data.tokenizing import load_tokenizer, train_bpe, train_wordpiece
from jaxdl.errors import ConfigError, DataError

pytest.importorskip("tokenizers")

TEXTS = ["The cat sat on the mat.", "A dog sat by the cat.", "The mat was by the door."] * 3
BPE = train_bpe(TEXTS, 300)
WORDPIECE = train_wordpiece(TEXTS, 60)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(), max_size=3))
def test_bpe_gives_back_any_text(texts):
    encoded = BPE.encode(texts, end="[END]")
    assert BPE.decode(encoded.tokens, encoded.mask) == texts


@pytest.mark.parametrize("text", ["[PAD]", "a [END] b", " [START]\r\n\t", "\0", "é e\u0301 😀"])
def test_names_of_special_tokens_in_a_text_are_text(text):
    encoded = BPE.encode([text])
    assert BPE.decode(encoded.tokens) == [text]
    assert not np.isin(encoded.tokens, [BPE.number(name) for name in BPE.special_tokens]).any()


def test_rows_are_padded_and_cut():
    whole = BPE.encode(["the cat", "the"], start="[START]", end="[END]")
    assert whole.lengths.tolist() == whole.mask.sum(1).tolist()
    assert whole.tokens.dtype == whole.mask.dtype == np.int32
    for row, length in zip(whole.tokens, whole.lengths, strict=True):
        assert row[0] == BPE.number("[START]") == 1
        assert row[length - 1] == BPE.number("[END]") == 2
        assert np.all(row[length:] == 0)
    cut = BPE.encode(["the cat sat on the mat", ""], length=3, start="[START]", end="[END]")
    assert cut.tokens.shape == (2, 3)
    assert cut.tokens[0].tolist() == [1, BPE.encode(["the"]).tokens[0, 0], 2]
    assert cut.tokens[1].tolist() == [1, 2, 0]
    assert BPE.encode([]).tokens.shape == (0, 1)
    assert BPE.encode([""]).mask.tolist() == [[0]]


@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
def test_training_and_files_give_the_same_tokenizer(kind, tmp_path):
    first, train, size = (
        (BPE, train_bpe, 300) if kind == "bpe" else (WORDPIECE, train_wordpiece, 60)
    )
    first.save(tmp_path / "tokenizer.json")
    train(iter(TEXTS), size).save(tmp_path / "again.json")
    assert (tmp_path / "tokenizer.json").read_bytes() == (tmp_path / "again.json").read_bytes()
    loaded = load_tokenizer(tmp_path / "tokenizer.json")
    text = ["the dog [PAD] at the door"]
    np.testing.assert_array_equal(loaded.encode(text).tokens, first.encode(text).tokens)
    assert (loaded.vocab_size, loaded.pad_token) == (first.vocab_size, first.pad_token)
    assert loaded.special_tokens == first.special_tokens


def test_wordpiece_and_its_vocabulary_file(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "##s", "!"]
    file = tmp_path / "vocab.txt"
    file.write_text("\n".join(words) + "\n")
    tokenizer = load_tokenizer(file)
    encoded = tokenizer.encode(["The cats!", "dog"], start="[CLS]", end="[SEP]")
    assert encoded.tokens.tolist() == [[2, 4, 5, 6, 7, 3], [2, 1, 3, 0, 0, 0]]
    assert tokenizer.decode(encoded.tokens[:1]) == ["the cats!"]
    cased = load_tokenizer(file, lowercase=False)
    assert cased.encode(["The cat"]).tokens.tolist() == [[1, 5]]
    assert WORDPIECE.vocab_size <= 60
    assert WORDPIECE.decode(WORDPIECE.encode(["the cat sat"]).tokens) == ["the cat sat"]


def test_wrong_input_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"vocab_size is 258(.|\n)*at least 259"):
        train_bpe(TEXTS, 258)
    assert train_bpe(TEXTS, 259).vocab_size == 259
    with pytest.raises(ConfigError, match="special tokens are"):
        train_bpe(TEXTS, 300, special=("[PAD]", "[PAD]"))
    with pytest.raises(ConfigError, match="vocab_size is 9"):
        train_wordpiece(TEXTS, 9)
    with pytest.raises(ConfigError, match="no '\\[UNK\\]'"):
        train_wordpiece(TEXTS, 60, special=("[PAD]",))
    with pytest.raises(DataError, match="row 0 holds the token 999"):
        BPE.decode([[1, 999]])
    with pytest.raises(DataError, match="row 1 holds the token -1"):
        BPE.decode([[1], [-1]])
    with pytest.raises(DataError, match=r"no token '\[ENDS\]'(.|\n)*did you mean '\[END\]'"):
        BPE.encode(["a"], end="[ENDS]")
    with pytest.raises(ConfigError, match="no room for start and end"):
        BPE.encode(["a"], length=1, start="[START]", end="[END]")
    with pytest.raises(ConfigError, match="texts is one string"):
        BPE.encode("text")
    with pytest.raises(DataError, match="text 1 cannot be encoded"):
        BPE.encode(["a", "\ud800"])
    with pytest.raises(DataError, match="there is no file"):
        load_tokenizer(tmp_path / "none.json")
    for name, content in (("a.json", "{}"), ("vocab.txt", "the\ncat\n"), ("b.json", "\0")):
        (tmp_path / name).write_text(content)
        with pytest.raises(DataError, match=name):
            load_tokenizer(tmp_path / name)
