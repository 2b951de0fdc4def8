"""Which system is better: rates of winning, a ranking by strength, mean ratings.

Reads from: errors, units, judging.judgements. Used by: judging.summary, and by hand.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from jaxdl.errors import BatchError, ConfigError
from jaxdl.judging.judgements import Preference, Rating
from jaxdl.units import Number

__all__ = [
    "Estimate",
    "WinRate",
    "bradley_terry",
    "mean_ratings",
    "ranking",
    "side_rate",
    "wilson_interval",
    "win_rates",
]

_SETTLED = 1e-10
_ROUNDS = 20_000


class WinRate(NamedTuple):
    """How a system fared against all others.

    Attributes:
        system: its name.
        wins: comparisons that it won.
        ties: comparisons without a winner.
        losses: comparisons that it lost.
        rate: the share won, ties as half.
        low: the lower end of Wilson's interval.
        high: the upper end.
    """

    system: str
    wins: int
    ties: int
    losses: int
    rate: float
    low: float
    high: float


class Estimate(NamedTuple):
    """A system's strength, or its mean rating.

    Attributes:
        system: its name.
        value: the estimate.
        low: the lower end of its interval.
        high: the upper end.
    """

    system: str
    value: float
    low: float
    high: float


def wilson_interval(
    successes: Number, total: Number, *, level: float = 0.95
) -> tuple[float, float]:
    """Wilson's interval of a share.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".

    Args:
        successes: how many, halves too.
        total: of how many, more than 0.
        level: how often such an interval should hold the true share.

    Raises:
        ConfigError: there is nothing, more successes than all, or ``level`` is not between 0 and 1.

    Examples:
        >>> low, high = wilson_interval(7, 10)
        >>> print(f"{low:.3f} {high:.3f}")
        0.397 0.892
    """
    if not 0 < level < 1 or not 0 <= successes <= total or not total > 0:
        raise ConfigError(
            f"{successes} of {total} at level {level}",
            expected="0 <= successes <= total, more than 0, and a level between 0 and 1",
            do="count the successes among all",
        )
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, spread = successes / total, z * z / total
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt((share * (1 - share) + spread / 4) / total)
    # At the ends the formula gives 0 and 1 but for rounding.
    low = 0.0 if successes == 0 else max(0.0, middle - half)
    return low, 1.0 if successes == total else min(1.0, middle + half)


def win_rates(preferences: Sequence[Preference], *, level: float = 0.95) -> list[WinRate]:
    """How often each system won, best first.

    The interval takes comparisons as independent. Several judges of one item are not: then that of
    ``ranking``, which draws items, is the safer.

    Args:
        preferences: at least one.
        level: of the interval.

    Raises:
        BatchError: there are none.
        ConfigError: ``level`` is not between 0 and 1.
    """
    systems, wins, ties = _counted(preferences)
    rows: list[WinRate] = []
    for place, system in enumerate(systems):
        won, lost = int(wins[:, place].sum()), int(wins[:, :, place].sum())
        tied = int(ties[:, place].sum())
        count = won + tied + lost
        ends = wilson_interval(won + tied / 2, count, level=level)
        rows.append(WinRate(system, won, tied, lost, (won + tied / 2) / count, *ends))
    return sorted(rows, key=lambda row: -row.rate)


def side_rate(preferences: Sequence[Preference], *, level: float = 0.95) -> Estimate | None:
    """How often the answer shown first won: half, unless its place counts.

    Args:
        preferences: any.
        level: of Wilson's interval.

    Returns:
        The share of those with a winner, ``system`` being ``"left"``; ``None`` when none has one.
    """
    left = sum(each.answer == "left" for each in preferences)
    decided = left + sum(each.answer == "right" for each in preferences)
    if not decided:
        return None
    return Estimate("left", left / decided, *wilson_interval(left, decided, level=level))


def bradley_terry(wins: npt.ArrayLike, *, prior: Number = 0.0) -> npt.NDArray[np.float64]:
    r"""Strengths :math:`s` under which :math:`i` beats :math:`j` with probability
    :math:`1 / (1 + e^{s_j - s_i})`, by maximum likelihood.

    Source: Bradley and Terry 1952; the MM algorithm of Hunter 2004, "MM algorithms for generalized
    Bradley-Terry models", equation 3.

    Args:
        wins: how often ``i`` beat ``j``, ``[..., S, S]``, a tie as half for each.
        prior: so many wins of each over each other are added; they draw the strengths together.

    Returns:
        ``[..., S]``, of mean 0.

    Raises:
        BatchError: the matrix is not square, or has entries below 0 or on the diagonal.
        ConfigError: ``prior`` is below 0; or the systems fall apart into those that never lost to
            the others and the rest, and there is no maximum; or it is too far to be reached.

    Examples:
        >>> bradley_terry([[0, 3], [1, 0]]).round(4).tolist()
        [0.5493, -0.5493]
    """
    table = np.asarray(wins, np.float64)
    size = table.shape[-1] if table.ndim >= 2 else 0
    diagonal = np.eye(size, dtype=bool)
    if table.shape[-2:] != (size, size) or not (table >= 0).all() or table[..., diagonal].any():
        raise BatchError(
            f"wins of shape {list(table.shape)}",
            expected="[S, S], none below 0, zeros on the diagonal",
            do="count how often the row's system beat the column's",
        )
    if not prior >= 0:
        raise ConfigError(f"prior is {prior}", expected="at least 0", do="use 0.1")
    table = table + prior * ~diagonal
    if not _connected(table):
        raise ConfigError(
            "some systems never lost to the others, and their strength has no bound",
            expected="a chain of wins from each system to each other one",
            do="give a prior, such as prior=0.1, or ask for more comparisons",
        )
    return _climbed(table)


def _climbed(table: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    won = table.sum(-1)
    games = table + table.swapaxes(-1, -2)
    strength, moved = np.ones_like(won), np.inf
    for _ in range(_ROUNDS):
        pairs = strength[..., :, None] + strength[..., None, :]
        new = won / (games / pairs).sum(-1)
        new /= np.exp(np.log(new).mean(-1, keepdims=True))
        moved = np.abs(np.log(new / strength)).max(initial=0.0)
        strength = new
        if moved < _SETTLED:
            return np.log(strength)
    raise ConfigError(
        f"the strengths still move by {moved:.1e} after {_ROUNDS} rounds",
        expected=f"less than {_SETTLED:.0e}",
        do="give a larger prior, such as prior=0.1",
    )


def _connected(table: npt.NDArray[np.float64]) -> bool:
    """Whether in every table each system reaches each other one along wins."""
    size = table.shape[-1]
    reached = (table > 0) | np.eye(size, dtype=bool)
    for _ in range(size.bit_length()):
        reached = (reached.astype(np.float64) @ reached.astype(np.float64)) > 0
    return bool(reached.all())


def ranking(
    preferences: Sequence[Preference],
    *,
    seed: int,
    level: float = 0.95,
    resamples: int = 1_000,
    prior: Number = 0.1,
) -> list[Estimate]:
    """Systems by their strength, best first, with intervals by the bootstrap.

    Items are drawn with replacement, each with all that was said of it, so that several judges of
    one item do not count as several items. The ends are percentiles.

    Args:
        preferences: at least one.
        seed: of the draws, not negative.
        level: of the intervals.
        resamples: how many draws.
        prior: as in ``bradley_terry``; with 0, a system that won in all cases of a draw is an
            error.

    Raises:
        BatchError: there are none.
        ConfigError: a setting is out of range, or ``prior`` is needed.
    """
    systems, wins, ties = _counted(preferences)
    table = wins + ties / 2
    drawn = np.tensordot(_draws(len(table), seed, level, resamples), table, 1)
    everything = bradley_terry(table.sum(0), prior=prior)
    return _estimates(systems, everything, bradley_terry(drawn, prior=prior), level)


def mean_ratings(
    ratings: Sequence[Rating], *, seed: int, level: float = 0.95, resamples: int = 1_000
) -> list[Estimate]:
    """The mean rating of each system, best first, with intervals by drawing items.

    Args:
        ratings: at least one.
        seed: of the draws, not negative.
        level: of the intervals.
        resamples: how many draws.

    Raises:
        BatchError: there are none.
        ConfigError: a setting is out of range.
    """
    systems = _names({each.system for each in ratings})
    items = sorted({each.item for each in ratings})
    table = np.zeros((len(items), len(systems), 2))
    places = {item: place for place, item in enumerate(items)}
    for each in ratings:
        table[places[each.item], systems.index(each.system)] += (each.rating, 1)
    drawn = np.tensordot(_draws(len(items), seed, level, resamples), table, 1)
    total, count = np.moveaxis(drawn, -1, 0)
    # A draw may hold no item of a system's; it says nothing of that system.
    means = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
    whole = table.sum(0)
    return _estimates(systems, whole[:, 0] / whole[:, 1], means, level)


def _names(found: set[str]) -> list[str]:
    if not found:
        raise BatchError(
            "there are no judgements", expected="at least one", do="check the judges' files"
        )
    return sorted(found)


def _counted(
    preferences: Sequence[Preference],
) -> tuple[list[str], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The systems, and by item ``[I, S, S]`` who beat whom, and who tied with whom."""
    systems = _names({name for each in preferences for name in (each.left, each.right)})
    items = sorted({each.item for each in preferences})
    wins = np.zeros((len(items), len(systems), len(systems)))
    ties = np.zeros_like(wins)
    places = {item: place for place, item in enumerate(items)}
    for each in preferences:
        i, j = systems.index(each.left), systems.index(each.right)
        if each.winner is None:
            ties[places[each.item], [i, j], [j, i]] += 1
        else:
            i, j = (i, j) if each.answer == "left" else (j, i)
            wins[places[each.item], i, j] += 1
    return systems, wins, ties


def _draws(count: int, seed: int, level: float, resamples: int) -> Any:
    """How often each item is drawn, ``[resamples, items]``."""
    if seed < 0 or resamples < 1 or not 0 < level < 1:
        raise ConfigError(
            f"seed is {seed}, resamples {resamples}, level {level}",
            expected="a seed of at least 0, at least one resample, a level between 0 and 1",
            do="use seed=0, resamples=1_000, level=0.95",
        )
    chances = np.full(count, 1 / count)
    return np.random.default_rng(seed).multinomial(count, chances, resamples).astype(np.float64)


def _estimates(systems: Sequence[str], values: Any, drawn: Any, level: float) -> list[Estimate]:
    low, high = np.nanquantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
    rows = zip(systems, values, low, high, strict=True)
    found = [Estimate(name, float(value), float(a), float(b)) for name, value, a, b in rows]
    return sorted(found, key=lambda row: -row.value)
