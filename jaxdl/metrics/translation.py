"""BLEU and chrF of texts, through sacrebleu (the extra ``text``). Host-side functions of strings.

Reads from: errors. Used by: recipes, by choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from jaxdl.errors import BatchError, MissingExtraError

__all__ = ["bleu", "bleu_of", "bleu_sums", "chrf"]


def bleu(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """Corpus BLEU, 0 to 100, of detokenised texts: sacrebleu's default (4-grams, 13a).

    Source: Papineni et al. 2002, "BLEU: a method for automatic evaluation of machine translation";
    Post 2018, arXiv:1804.08771.

    Args:
        hypotheses: what the model wrote.
        references: what was right, one a hypothesis.

    Raises:
        BatchError: there are not as many references as hypotheses, or none.
        MissingExtraError: ``sacrebleu`` is not installed.

    Examples:
        >>> round(bleu(["the cat sat on the mat"], ["the cat sat on the mat"]), 6)
        100.0
    """
    return bleu_of(bleu_sums(hypotheses, references))


def bleu_sums(hypotheses: Sequence[str], references: Sequence[str]) -> npt.NDArray[np.int64]:
    """The counts that BLEU is made of. Those of parts of a corpus add up to those of the whole.

    Args:
        hypotheses: what the model wrote.
        references: what was right, one a hypothesis.

    Returns:
        Ten integers: n-grams found and n-grams written for n from 1 to 4, the length of the
        hypotheses and of the references.

    Raises:
        BatchError: as ``bleu``.
        MissingExtraError: ``sacrebleu`` is not installed.
    """
    _check(hypotheses, references)
    score = _sacrebleu().BLEU().corpus_score(list(hypotheses), [list(references)])
    return np.array([*score.counts, *score.totals, score.sys_len, score.ref_len], np.int64)


def bleu_of(sums: npt.ArrayLike) -> float:
    """BLEU from the counts of a whole corpus.

    Args:
        sums: from ``bleu_sums``, added over the parts.
    """
    counts = [int(count) for count in np.asarray(sums)]
    score = _sacrebleu().BLEU.compute_bleu(
        counts[:4], counts[4:8], *counts[8:], smooth_method="exp"
    )
    return float(score.score)


def chrf(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """Corpus chrF, 0 to 100: sacrebleu's default (6 characters, no words, recall twice).

    Source: Popovic 2015, "chrF: character n-gram F-score for automatic MT evaluation".

    Args:
        hypotheses: what the model wrote.
        references: what was right, one a hypothesis.

    Raises:
        BatchError: as ``bleu``.
        MissingExtraError: ``sacrebleu`` is not installed.
    """
    _check(hypotheses, references)
    return float(_sacrebleu().CHRF().corpus_score(list(hypotheses), [list(references)]).score)


def _check(hypotheses: Sequence[str], references: Sequence[str]) -> None:
    strings = isinstance(hypotheses, str) or isinstance(references, str)
    if strings or len(hypotheses) != len(references) or not hypotheses:
        raise BatchError(
            f"there are {len(hypotheses)} hypotheses and {len(references)} references"
            + (", one of them a string" if strings else ""),
            expected="two lists of texts, equally long, with at least one",
            do="give one reference a hypothesis",
        )


def _sacrebleu() -> Any:
    try:
        import sacrebleu.metrics
    except ImportError as error:
        raise MissingExtraError(
            "BLEU and chrF need the library 'sacrebleu'",
            expected="the extra 'text'",
            do="pip install 'jaxdl[text]'",
        ) from error
    return sacrebleu.metrics
