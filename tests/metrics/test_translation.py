"""BLEU and chrF are sacrebleu's, and the counts of parts add up."""

from __future__ import annotations

import pytest

from jaxdl.errors import BatchError, ConfigError
from jaxdl.metrics.translation import bleu, bleu_of, bleu_sums, chrf

sacrebleu = pytest.importorskip("sacrebleu")

WRITTEN = ["the cat sat on a mat", "a dog runs in the park .", "two men", "birds fly over the sea"]
RIGHT = ["the cat sat on the mat", "the dog runs in a park .", "two men talk", "birds fly over it"]


def test_they_are_those_of_the_library_and_add_up():
    expected = sacrebleu.corpus_bleu(WRITTEN, [RIGHT]).score
    assert bleu(WRITTEN, RIGHT) == pytest.approx(expected)
    parts = bleu_sums(WRITTEN[:1], RIGHT[:1]) + bleu_sums(WRITTEN[1:], RIGHT[1:])
    assert bleu_of(parts) == pytest.approx(expected)
    assert chrf(WRITTEN, RIGHT) == pytest.approx(sacrebleu.corpus_chrf(WRITTEN, [RIGHT]).score)
    assert bleu(["x"], ["y"]) == 0.0


def test_texts_must_go_together():
    for wrong in (([], []), (["a"], ["a", "b"]), ("a", ["a"])):
        with pytest.raises(BatchError, match="hypotheses"):
            bleu(*wrong)


@pytest.mark.parametrize("lowercase", [False, True])
@pytest.mark.parametrize("tokenize", ["13a", "intl", "zh", "char", "none"])
def test_tokenizers_are_the_librarys(tokenize, lowercase):
    said = ["The Cat's, 3.5% 猫 sat—on it.", "", "«Größe» is 1,000.50 €", "東京へ行く"]
    meant = ["the cat's 3.5% 猫 sat - on it!", "x", "«Größe» was 1,000.5 €", "京都へ行く"]
    options = {"tokenize": tokenize, "lowercase": lowercase}
    expected = sacrebleu.corpus_bleu(said, [meant], **options).score
    assert bleu(said, meant, **options) == pytest.approx(expected, abs=1e-9)
    parts = bleu_sums(said[:2], meant[:2], **options) + bleu_sums(said[2:], meant[2:], **options)
    assert bleu_of(parts) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("word_order", [0, 1, 2])
@pytest.mark.parametrize("beta", [1, 2, 3])
def test_chrf_with_words(word_order, beta):
    options = {"word_order": word_order, "beta": beta}
    expected = sacrebleu.corpus_chrf(WRITTEN, [RIGHT], **options).score
    assert chrf(WRITTEN, RIGHT, **options) == pytest.approx(expected, abs=1e-9)


def test_several_references():
    other = [text.replace("the", "a") for text in RIGHT]
    both = [list(pair) for pair in zip(RIGHT, other, strict=True)]
    expected = sacrebleu.corpus_bleu(WRITTEN, [RIGHT, other]).score
    assert bleu(WRITTEN, both) == pytest.approx(expected, abs=1e-9)
    assert bleu(WRITTEN, both) > bleu(WRITTEN, RIGHT)
    expected = sacrebleu.corpus_chrf(WRITTEN, [RIGHT, other], word_order=2).score
    assert chrf(WRITTEN, both, word_order=2) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("said", ["", "   ", "a"])
@pytest.mark.parametrize("meant", ["", "a"])
def test_texts_of_nothing(said, meant):
    assert bleu([said], [meant]) == pytest.approx(sacrebleu.corpus_bleu([said], [[meant]]).score)
    assert chrf([said], [meant]) == pytest.approx(sacrebleu.corpus_chrf([said], [[meant]]).score)


def test_what_cannot_be_scored_is_said():
    with pytest.raises(ConfigError, match="tokenize is '13b'"):
        bleu(["a"], ["a"], tokenize="13b")
    with pytest.raises(ConfigError, match="word_order is -1"):
        chrf(["a"], ["a"], word_order=-1)
    for wrong in ([["a"], ["a", "b"]], [[], []]):
        with pytest.raises(BatchError, match="references a hypothesis"):
            bleu(["a", "b"], wrong)
