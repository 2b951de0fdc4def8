"""BLEU and chrF of texts, through sacrebleu (the extra ``text``). Host-side functions of strings.

Reads from: errors, metrics.transcripts. Used by: recipes, by choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from jaxdl.errors import BatchError, ConfigError, MissingExtraError, closest
from jaxdl.metrics.transcripts import check_texts

__all__ = ["bleu", "bleu_of", "bleu_sums", "chrf"]

_References: TypeAlias = Sequence[str] | Sequence[Sequence[str]]


def bleu(
    hypotheses: Sequence[str],
    references: _References,
    *,
    tokenize: str = "13a",
    lowercase: bool = False,
) -> float:
    """Corpus BLEU, 0 to 100, of detokenised texts: sacrebleu's default (4-grams, 13a).

    Source: Papineni et al. 2002, "BLEU: a method for automatic evaluation of machine translation";
    Post 2018, arXiv:1804.08771.

    Args:
        hypotheses: what the model wrote.
        references: what was right, one a hypothesis; or several a hypothesis, as lists.
        tokenize: sacrebleu's tokenizer: ``"13a"``, ``"intl"``, ``"zh"``, ``"char"``, ``"none"``,
            ...; some need packages or downloads of their own.
        lowercase: compare texts without capitals.

    Raises:
        BatchError: there are not as many references as hypotheses, or none.
        ConfigError: there is no such tokenizer.
        MissingExtraError: ``sacrebleu`` is not installed.

    Examples:
        >>> round(bleu(["the cat sat on the mat"], ["the cat sat on the mat"]), 6)
        100.0
    """
    return bleu_of(bleu_sums(hypotheses, references, tokenize=tokenize, lowercase=lowercase))


def bleu_sums(
    hypotheses: Sequence[str],
    references: _References,
    *,
    tokenize: str = "13a",
    lowercase: bool = False,
) -> npt.NDArray[np.int64]:
    """The counts that BLEU is made of. Those of parts of a corpus add up to those of the whole.

    Args:
        hypotheses: what the model wrote.
        references: as ``bleu``.
        tokenize: as ``bleu``.
        lowercase: as ``bleu``.

    Returns:
        Ten integers: n-grams found and n-grams written for n from 1 to 4, the length of the
        hypotheses and of the references.

    Raises:
        BatchError: as ``bleu``.
        ConfigError: as ``bleu``.
        MissingExtraError: ``sacrebleu`` is not installed.
    """
    streams = _streams(hypotheses, references)
    library = _sacrebleu()
    if tokenize not in library.BLEU.TOKENIZERS:
        raise ConfigError(
            f"tokenize is {tokenize!r}",
            expected=f"one of {', '.join(library.BLEU.TOKENIZERS)}",
            do=closest(tokenize, library.BLEU.TOKENIZERS),
        )
    # It warns of texts that look tokenised, which is the caller's to know.
    measure = library.BLEU(tokenize=tokenize, lowercase=lowercase, force=True)
    score = measure.corpus_score(list(hypotheses), streams)
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


def chrf(
    hypotheses: Sequence[str],
    references: _References,
    *,
    word_order: int = 0,
    beta: int = 2,
    lowercase: bool = False,
) -> float:
    """Corpus chrF, 0 to 100: sacrebleu's default (6 characters, no words, recall twice).

    Source: Popovic 2015, "chrF: character n-gram F-score for automatic MT evaluation"; of chrF++
    Popovic 2017, "chrF++: words helping character n-grams".

    Args:
        hypotheses: what the model wrote.
        references: as ``bleu``.
        word_order: the longest n-gram of words that counts too; 2 is chrF++.
        beta: how many times as much recall counts as precision.
        lowercase: compare texts without capitals.

    Raises:
        BatchError: as ``bleu``.
        ConfigError: ``word_order`` is below 0, or ``beta`` below 1.
        MissingExtraError: ``sacrebleu`` is not installed.
    """
    streams = _streams(hypotheses, references)
    if word_order < 0 or beta < 1:
        raise ConfigError(
            f"word_order is {word_order}, beta is {beta}",
            expected="a word_order from 0, a beta from 1",
            do="use word_order=2 for chrF++, and beta=2",
        )
    measure = _sacrebleu().CHRF(word_order=word_order, beta=beta, lowercase=lowercase)
    return float(measure.corpus_score(list(hypotheses), streams).score)


def _streams(hypotheses: Sequence[str], references: _References) -> list[list[str]]:
    """References as sacrebleu takes them: first ones, second ones, ..."""
    check_texts(hypotheses, references)
    several = [[each] if isinstance(each, str) else list(each) for each in references]
    counts = {len(each) for each in several}
    if counts == {0} or len(counts) > 1:
        raise BatchError(
            f"there are {', '.join(map(str, sorted(counts)))} references a hypothesis",
            expected="equally many for each, at least one",
            do="repeat references where there are fewer",
        )
    return [list(stream) for stream in zip(*several, strict=True)]


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
