"""BLEU and chrF are sacrebleu's, and the counts of parts add up."""

from __future__ import annotations

import pytest

from jaxdl.errors import BatchError
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
