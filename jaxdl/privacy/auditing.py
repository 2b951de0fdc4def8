"""An audit by canaries: what a run leaks at the least, measured, beside what it leaks at the most.

Canaries are examples that an auditor puts in or leaves out by the toss of a coin. Who sees the
trained model and guesses the coins better than the guarantee allows has refuted it.

Reads from: errors, units. Used by: hand.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from jaxdl.errors import ConfigError
from jaxdl.units import Number

__all__ = ["Audit", "audit", "one_run_bound", "rates_bound", "toss"]


class Audit(NamedTuple):
    """What an audit found.

    Attributes:
        epsilon: a lower bound: with the confidence asked for, the run is not private for less.
        correct: how many guesses were right.
        guesses: how many were made.
        canaries: how many there were.
    """

    epsilon: float
    correct: int
    guesses: int
    canaries: int


def toss(canaries: int, seed: int) -> npt.NDArray[np.bool_]:
    """Which canaries are put in: each with probability one half, on its own.

    Args:
        canaries: how many there are.
        seed: of the coins.

    Returns:
        Booleans ``[canaries]``.

    Examples:
        >>> toss(6, seed=0)
        array([ True,  True,  True, False, False, False])
    """
    return np.random.default_rng(seed).integers(0, 2, canaries) == 1


def audit(
    scores: Any,
    included: Any,
    *,
    delta: Number = 0.0,
    confidence: float = 0.95,
    guesses: int | None = None,
) -> Audit:
    """Guesses the coins from scores, and bounds epsilon by how many guesses are right.

    The canaries with the highest scores are guessed to be in, as many with the lowest to be out,
    and of the others nothing is said. One training run does for all canaries: the run must be
    private in each of them, and the coins independent.

    Source: Steinke, Nasr and Jagielski 2023, "Privacy auditing with one (1) training run",
    arXiv:2305.08846.

    Args:
        scores: of each canary, shape ``[canaries]``: higher where it looks as if it was in, such as
            minus its loss, less its loss before training.
        included: the coins, from ``toss``.
        delta: of the guarantee that is audited.
        confidence: that the bound holds.
        guesses: how many are made, even; nearly all when ``None``. It must be chosen before the
            scores are seen.

    Raises:
        ConfigError: shapes differ, a score is NaN, or a number is out of range.
    """
    values, coins = np.asarray(scores, np.float64), np.asarray(included, bool)
    count = len(values) - len(values) % 2 if guesses is None else guesses
    good = values.ndim == 1 and values.shape == coins.shape and not np.isnan(values).any()
    if not good or count % 2 or not 2 <= count <= len(values):
        raise ConfigError(
            f"audit of scores {list(values.shape)} and coins {list(coins.shape)} with {count} "
            "guesses",
            expected="a number and a coin for each canary, and an even number of guesses, at most "
            "one a canary",
            do="score every canary, those that were left out too",
        )
    order = np.argsort(values, kind="stable")
    low, high = order[: count // 2], order[len(order) - count // 2 :]
    correct = int(coins[high].sum() + (~coins[low]).sum())
    bound = one_run_bound(correct, count, len(values), delta=delta, confidence=confidence)
    return Audit(bound, correct, count, len(values))


def one_run_bound(
    correct: int, guesses: int, canaries: int, *, delta: Number = 0.0, confidence: float = 0.95
) -> float:
    r"""The least epsilon that so many right guesses leave possible.

    Under :math:`(\epsilon, 0)` each guess is right with probability :math:`e^\epsilon /
    (1 + e^\epsilon)` at most, whatever the others are; delta adds :math:`2 m \delta \max_i
    (f(v - i) - f(v)) / i`, with :math:`f` the tail of the binomial (theorem 5.2 of the source).

    Source: as ``audit``.

    Args:
        correct: ``v``, guesses that were right.
        guesses: how many were made.
        canaries: ``m``, those that were not guessed included.
        delta: of the guarantee.
        confidence: that the bound holds.

    Returns:
        A lower bound of epsilon, 0 where nothing is shown.

    Raises:
        ConfigError: a number is out of range.

    Examples:
        >>> round(one_run_bound(1000, 1000, 1000), 3)  # log(p / (1 - p)), p = 0.05 ** (1 / 1000)
        5.81
        >>> one_run_bound(510, 1000, 1000)
        0.0
    """
    from scipy import optimize

    _check(0 <= correct <= guesses <= canaries and guesses > 0, delta, confidence)

    def gap(epsilon: float) -> float:
        return _chance(correct, guesses, canaries, epsilon, delta) - (1 - confidence)

    if gap(0.0) > 0:
        return 0.0
    high = 1.0
    while gap(high) <= 0:
        high *= 2
    return float(optimize.brentq(gap, 0.0, high, xtol=1e-9))


def _chance(correct: int, guesses: int, canaries: int, epsilon: float, delta: float) -> float:
    """How probable so many right guesses are at most."""
    from scipy import stats

    right = stats.binom(guesses, 1 / (1 + math.exp(-epsilon)))
    tail = float(right.sf(correct - 1))
    if delta == 0 or correct == 0:
        return tail
    fewer = np.arange(1, correct + 1)
    slope = np.max((right.sf(correct - fewer - 1) - tail) / fewer, initial=0.0)
    return min(tail + 2 * canaries * delta * float(slope), 1.0)


def rates_bound(
    hits: int,
    present: int,
    alarms: int,
    absent: int,
    *,
    delta: Number = 0.0,
    confidence: float = 0.95,
) -> float:
    r"""The least epsilon that an attack's rates leave possible, of runs with and without a canary.

    :math:`(\epsilon, \delta)` allows a true positive rate of :math:`e^\epsilon` times the false
    positive rate, plus :math:`\delta`, and the same of the negative rates. Both rates are replaced
    by their Clopper-Pearson bounds, each at half of what the confidence leaves; the better of the
    two directions, which use the same bounds, is taken.

    Source: Jagielski, Ullman and Oprea 2020, arXiv:2006.07709; Nasr et al. 2021, arXiv:2101.04535.

    Args:
        hits: runs with the canary that were told to have it.
        present: runs with the canary.
        alarms: runs without it that were told to have it.
        absent: runs without it.
        delta: of the guarantee.
        confidence: that the bound holds.

    Returns:
        A lower bound of epsilon, 0 where nothing is shown.

    Raises:
        ConfigError: a number is out of range.

    Examples:
        >>> round(rates_bound(500, 500, 0, 500), 3)
        4.905
    """
    _check(0 <= hits <= present > 0 and 0 <= alarms <= absent > 0, delta, confidence)
    half = (1 - confidence) / 2
    hit_rate, false_rate = 1 - _upper(present - hits, present, half), _upper(alarms, absent, half)
    pairs = ((hit_rate, false_rate), (1 - false_rate, 1 - hit_rate))
    found = [math.log((rate - delta) / other) for rate, other in pairs if rate > delta]
    return max([0.0, *found])


def _upper(count: int, runs: int, chance: float) -> float:
    """Clopper and Pearson's upper bound of a rate."""
    from scipy import stats

    return 1.0 if count == runs else float(stats.beta.ppf(1 - chance, count + 1, runs - count))


def _check(counts: bool, delta: float, confidence: float) -> None:
    if not (counts and 0 <= delta < 1 and 0 < confidence < 1):
        raise ConfigError(
            f"an audit's counts do not fit, or delta {delta} or confidence {confidence} is out of "
            "range",
            expected="parts no more than their wholes, and probabilities",
            do="count guesses among the canaries, hits among the runs with the canary",
        )
