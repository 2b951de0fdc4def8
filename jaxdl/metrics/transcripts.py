"""Word and character error rates of texts. Host-side functions of strings.

``word_error_rate`` and ``token_error_rate`` are the same rates of tokens, on the device.

Reads from: errors. Used by: metrics.edits, metrics.translation, and recipes, by choice.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from jaxdl.errors import BatchError

__all__ = ["cer", "check_texts", "error_rate_of", "error_sums", "wer"]


def wer(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """The word error rate: edits of words by words that were right, over all texts.

    Words are what spaces part, as in jiwer; capitals and points count. A reference may be empty,
    and what is written for it counts as insertions.

    Args:
        hypotheses: what the model wrote.
        references: what was right, one a hypothesis.

    Raises:
        BatchError: there are not as many references as hypotheses, or none.

    Examples:
        >>> wer(["the cat sat", ""], ["the cat sat down", "oh"])
        0.4
    """
    return error_rate_of(error_sums(hypotheses, references, words=True))


def cer(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """The character error rate: as ``wer``, of Unicode code points, spaces between words included.

    Args:
        hypotheses: what the model wrote.
        references: what was right, one a hypothesis.

    Raises:
        BatchError: as ``wer``.

    Examples:
        >>> cer(["cat"], ["cart"])
        0.25
    """
    return error_rate_of(error_sums(hypotheses, references, words=False))


def error_sums(
    hypotheses: Sequence[str], references: Sequence[str], *, words: bool
) -> npt.NDArray[np.int64]:
    """What the rates are made of. Those of parts of a data set add up to those of the whole.

    Args:
        hypotheses: what the model wrote.
        references: what was right, one a hypothesis.
        words: count words; characters when false.

    Returns:
        Edits, and how many words or characters were right.

    Raises:
        BatchError: as ``wer``.
    """
    check_texts(hypotheses, references)
    cut = _words if words else _characters
    edits = length = 0
    for said, meant in zip(hypotheses, references, strict=True):
        right = cut(meant)
        edits += _edits(cut(said), right)
        length += len(right)
    return np.array([edits, length], np.int64)


def error_rate_of(sums: npt.ArrayLike) -> float:
    """The rate from the counts of a whole data set.

    Args:
        sums: from ``error_sums``, added over the parts.

    Returns:
        Edits by length; the number of edits where all references are empty, as in jiwer.
    """
    edits, length = (int(count) for count in np.asarray(sums))
    return edits / length if length else float(edits)


def check_texts(hypotheses: Sequence[str], references: Sequence[Any]) -> None:
    """Checks that there are lists of texts, equally long.

    Args:
        hypotheses: what the model wrote.
        references: what was right.

    Raises:
        BatchError: there are not as many of one as of the other, or none, or one is a string.
    """
    strings = isinstance(hypotheses, str) or isinstance(references, str)
    if strings or len(hypotheses) != len(references) or not hypotheses:
        raise BatchError(
            f"there are {len(hypotheses)} hypotheses and {len(references)} references"
            + (", one of them a string" if strings else ""),
            expected="two lists of texts, equally long, with at least one",
            do="give one reference a hypothesis",
        )


def _words(text: str) -> list[str]:
    return [word for word in re.sub(r"\s\s+", " ", text).strip().split(" ") if word]


def _characters(text: str) -> list[str]:
    return list(text.strip())


def _edits(said: Sequence[str], meant: Sequence[str]) -> int:
    """The distance of Levenshtein 1966, a row of Wagner and Fischer's table at a time."""
    numbers: dict[str, int] = {}
    number: Callable[[str], int] = lambda part: numbers.setdefault(part, len(numbers))  # noqa: E731
    columns = np.array([number(part) for part in meant], np.int64)
    places = np.arange(len(meant) + 1)
    above = places
    for part in said:
        changed = above[:-1] + (columns != number(part))
        best = np.concatenate([above[:1] + 1, np.minimum(above[1:] + 1, changed)])
        above = np.minimum.accumulate(best - places) + places
    return int(above[-1])
