"""Text as people mistype it and as parts of it go missing: seeded numpy functions.

On strings, and on arrays of token numbers ``[B, T]`` whose padding is left alone. A row's draws
follow from the seed and the row's number only, so that neither other rows nor more padding change
them.

Reads from: errors. Used by: recipes and evaluations, by choice.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from jaxdl.errors import BatchError, ConfigError

__all__ = ["RATES", "Typo", "drop_tokens", "drop_words", "typo_tokens", "typos"]

Typo = Literal["swap", "delete", "insert", "replace"]
_TYPOS: tuple[Typo, ...] = ("swap", "delete", "insert", "replace")

RATES = (0.02, 0.05, 0.1, 0.2, 0.3)
"""The rates that jaxdl calls severities 1 to 5; they are nobody else's."""

_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_MAX_SEED = 2**64


def typos(text: str, *, rate: float, seed: int, kinds: Sequence[Typo] = _TYPOS) -> str:
    """A text with typing mistakes in its letters; everything else stays.

    Each letter is hit with probability ``rate``, by one of ``kinds``: changed places with the next
    letter of its word, left out, doubled by a neighbour on a QWERTY keyboard put after it, or
    replaced by one. A letter that is on no such keyboard has itself put after it and is replaced by
    another letter of the text.

    Args:
        text: any.
        rate: from 0 to 1.
        seed: another gives other mistakes.
        kinds: of the mistakes.

    Raises:
        ConfigError: a setting is out of range.

    Examples:
        >>> typos("the quick brown fox", rate=0.0, seed=0)
        'the quick brown fox'
        >>> typos("one 42", rate=1.0, seed=0, kinds=["delete"])
        ' 42'
    """
    _checked_rate(rate)
    rng, chosen = _row_rng(seed, 0), _checked_kinds(kinds)
    letters = sorted({c for c in text if c.isalpha()})
    made: list[str] = []
    at = 0
    while at < len(text):
        # As many draws for each character, so that a rate does not move those of the next ones.
        hit, kind, which = rng.random(3)
        here, after = text[at], text[at + 1 : at + 2]
        at += 1
        if not here.isalpha() or hit >= rate:
            made.append(here)
            continue
        mistake = chosen[int(kind * len(chosen))]
        if mistake == "swap" and after.isalpha() and after != here:
            made += [after, here]
            at += 1
        elif mistake in ("swap", "insert", "replace"):
            other = _other_letter(here, letters, which)
            made += [here, other] if mistake == "insert" else [here if mistake == "swap" else other]
    return "".join(made)


def drop_words(text: str, *, rate: float, seed: int) -> str:
    """A text without some of its words, each left out with probability ``rate``; one stays.

    Args:
        text: any; words are what stands between white space, which is otherwise kept.
        rate: from 0 to 1.
        seed: another leaves out others.

    Raises:
        ConfigError: a setting is out of range.

    Examples:
        >>> drop_words("a b  c", rate=0.0, seed=3)
        'a b  c'
        >>> len(drop_words("some words of it", rate=1.0, seed=3).split())
        1
    """
    _checked_rate(rate)
    rng = _row_rng(seed, 0)
    # Each word with the white space before it.
    words = re.findall(r"\s*\S+", text)
    if not words:
        return text
    end = text[sum(map(len, words)) :]
    kept = _kept(rng, len(words), rate)
    made = "".join(word for word, stays in zip(words, kept, strict=True) if stays)
    return (made if kept[0] else made.lstrip()) + end


def drop_tokens(
    tokens: Any,
    *,
    rate: float,
    seed: int,
    mask: Any = None,
    replace_by: int | None = None,
    pad: int = 0,
    special: Collection[int] = (),
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Rows of tokens without some of them; of each row one stays at least.

    Args:
        tokens: integers, shape ``[B, T]``.
        rate: the probability that a token goes, from 0 to 1.
        seed: another leaves out others.
        mask: shape ``[B, T]``, 0 on padding, or ``[B]``; ``None`` has no padding.
        replace_by: a token that takes the place of those that go (the unknown or mask token). When
            ``None`` the rest of the row moves up.
        pad: the token at places that become free.
        special: tokens that stay.

    Returns:
        ``(tokens, mask)``, shape ``[B, T]``; the mask is 0 on what became free too.

    Raises:
        BatchError: the tokens are no integers ``[B, T]``, or the mask does not fit.
        ConfigError: a setting is out of range.

    Examples:
        >>> rows, mask = drop_tokens([[5, 6, 7, 0]], rate=1.0, seed=0, mask=[[1, 1, 1, 0]])
        >>> mask.tolist(), rows[0, 1:].tolist()
        ([[1, 0, 0, 0]], [0, 0, 0])
    """
    _checked_rate(rate)
    tokens, mask = _checked_rows(tokens, mask)
    stay = np.asarray(sorted(special), tokens.dtype)
    for row, (ids, real) in enumerate(zip(tokens, mask, strict=True)):
        places = np.flatnonzero(real)
        kept = _kept(_row_rng(seed, row), len(places), rate, np.isin(ids[places], stay))
        if replace_by is not None:
            ids[places[~kept]] = replace_by
        else:
            _put(ids, real, places, ids[places[kept]], pad)
    return tokens, mask


def typo_tokens(
    tokens: Any,
    *,
    rate: float,
    seed: int,
    vocab_size: int,
    mask: Any = None,
    kinds: Sequence[Typo] = _TYPOS,
    pad: int = 0,
    special: Collection[int] = (),
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Rows of tokens, such as bytes or characters, with typing mistakes.

    As ``typos``, with any token that is not special in place of a keyboard's neighbour. A row keeps
    its places: what no longer fits is cut off, what becomes free is padding.

    Args:
        tokens: integers, shape ``[B, T]``.
        rate: the probability that a token is hit, from 0 to 1.
        seed: another gives other mistakes.
        vocab_size: ``V``, of the tokens that may come in.
        mask: as in ``drop_tokens``.
        kinds: of the mistakes.
        pad: the token at places that become free.
        special: tokens that stay and do not come in.

    Returns:
        ``(tokens, mask)``, as ``drop_tokens``.

    Raises:
        BatchError: the tokens are no integers ``[B, T]``, or the mask does not fit.
        ConfigError: a setting is out of range.

    Examples:
        >>> rows, _ = typo_tokens([[5, 6, 7]], rate=1.0, seed=0, vocab_size=9, kinds=["swap"])
        >>> rows.tolist()
        [[6, 5, 7]]
    """
    _checked_rate(rate)
    chosen = _checked_kinds(kinds)
    tokens, mask = _checked_rows(tokens, mask)
    others = [token for token in range(vocab_size) if token not in special and token != pad]
    if not others:
        raise ConfigError(
            f"no token of {vocab_size} may come in",
            expected="some that are neither special nor padding",
            do="give vocab_size as the tokenizer has it",
        )
    for row, (ids, real) in enumerate(zip(tokens, mask, strict=True)):
        places = np.flatnonzero(real)
        rng = _row_rng(seed, row)
        made = _mistyped(rng, ids[places].tolist(), rate, chosen, others, frozenset(special))
        _put(ids, real, places, np.asarray(made[: len(places)], tokens.dtype), pad)
    return tokens, mask


def _mistyped(
    rng: np.random.Generator,
    ids: list[int],
    rate: float,
    kinds: Sequence[Typo],
    others: Sequence[int],
    special: frozenset[int],
) -> list[int]:
    made: list[int] = []
    at = 0
    while at < len(ids):
        hit, kind, which = rng.random(3)
        here = ids[at]
        at += 1
        if here in special or hit >= rate:
            made.append(here)
            continue
        mistake = kinds[int(kind * len(kinds))]
        if mistake == "swap":
            free = at < len(ids) and ids[at] not in special
            made += [ids[at], here] if free else [here]
            at += int(free)
        elif mistake != "delete":
            other = others[int(which * len(others))]
            made += [here, other] if mistake == "insert" else [other]
    return made or ids[:1]


def _put(
    ids: npt.NDArray[Any],
    real: npt.NDArray[Any],
    places: npt.NDArray[Any],
    rest: npt.NDArray[Any],
    pad: int,
) -> None:
    """What is left of a row into the first of its places; the others become padding."""
    ids[places[: len(rest)]] = rest
    ids[places[len(rest) :]] = pad
    real[places[len(rest) :]] = 0


def _kept(
    rng: np.random.Generator, count: int, rate: float, always: npt.NDArray[np.bool_] | None = None
) -> npt.NDArray[np.bool_]:
    """Which of so many things stay: at least one."""
    scores = rng.random(count)
    kept = scores >= rate
    if always is not None:
        kept |= always
    if count and not kept.any():
        kept[np.argmax(scores)] = True
    return kept


def _other_letter(letter: str, letters: Sequence[str], which: float) -> str:
    near = _NEIGHBOURS.get(letter.lower(), "")
    if near:
        found = near[int(which * len(near))]
        return found.upper() if letter.isupper() else found
    rest = [c for c in letters if c != letter] or [letter]
    return rest[int(which * len(rest))]


def _near() -> dict[str, str]:
    """The keys around each key: in its row, and those that touch it above and below."""
    at = {c: (y, x + y / 2) for y, row in enumerate(_ROWS) for x, c in enumerate(row)}
    return {
        c: "".join(
            d for d, (v, u) in at.items() if d != c and abs(y - v) <= 1 and abs(x - u) <= 1.0
        )
        for c, (y, x) in at.items()
    }


_NEIGHBOURS = _near()


def _row_rng(seed: int, row: int) -> np.random.Generator:
    if not 0 <= seed < _MAX_SEED:
        raise ConfigError(
            f"seed is {seed}", expected="from 0 to 2**64 - 1", do="choose another one"
        )
    return np.random.Generator(np.random.Philox(key=np.array([seed, row], np.uint64)))


def _checked_rate(rate: float) -> float:
    if not 0.0 <= rate <= 1.0:
        raise ConfigError(f"rate is {rate}", expected="from 0 to 1", do="0.1 hits one in ten")
    return rate


def _checked_kinds(kinds: Sequence[Typo]) -> Sequence[Typo]:
    if not kinds or any(kind not in _TYPOS for kind in kinds):
        raise ConfigError(
            f"the kinds of typing mistakes are {list(kinds)}",
            expected=f"some of {', '.join(_TYPOS)}",
            do="leave kinds out for all",
        )
    return kinds


def _checked_rows(tokens: Any, mask: Any) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Copies of both, ``[B, T]``."""
    tokens = np.array(tokens)
    if tokens.ndim != 2 or tokens.dtype.kind not in "iu":
        raise BatchError(
            f"tokens are {tokens.dtype}{list(tokens.shape)}",
            expected="integers [B, T]",
            do="give the token numbers of a batch",
        )
    if mask is None:
        return tokens, np.ones(tokens.shape, np.float32)
    mask = np.asarray(mask)
    if mask.shape == tokens.shape[:1]:
        mask = mask[:, None]
    if mask.ndim != 2 or mask.shape[0] != len(tokens) or mask.shape[1] not in (1, tokens.shape[1]):
        raise BatchError(
            f"the mask has shape {list(mask.shape)} for tokens {list(tokens.shape)}",
            expected="[B, T] or [B]",
            do="give batch['mask']",
        )
    return tokens, np.broadcast_to(mask, tokens.shape).copy()
