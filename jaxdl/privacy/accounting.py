"""What a private run costs: epsilon of a noise, and the noise for an epsilon.

The mathematics is that of the ``dp-accounting`` package.

Reads from: errors, units, privacy.sampling. Used by: privacy.ledger, privacy.recipes.
"""

from __future__ import annotations

import math
from typing import Any, Literal, TypeAlias

from jaxdl.errors import ConfigError, MissingExtraError
from jaxdl.privacy.sampling import Epochs, Sampling, sampling_of
from jaxdl.units import Number

__all__ = ["Accountant", "epsilon", "noise_for"]

Accountant: TypeAlias = Literal["pld", "rdp"]
"""By privacy loss distributions (tight) or by Renyi divergences (looser, and quick)."""

_ROUNDS = 100


def epsilon(
    *,
    noise_multiplier: Number,
    sampling: Any,
    steps: int,
    delta: float,
    accountant: Accountant = "pld",
) -> float:
    """The epsilon that a number of steps of DP-SGD has spent.

    Args:
        noise_multiplier: standard deviation of the noise on the sum of clipped gradients, over
            ``clip_norm``.
        sampling: the batches that the steps are given (``data.PoissonBatches``, ``data.Batches``),
            or ``Poisson`` or ``Epochs``. What neighbouring data sets are is said there.
        steps: updates.
        delta: of the guarantee; well below one over the number of examples.
        accountant: ``"pld"`` (Koskela et al. 2020, arXiv:1906.03049; Doroshenko et al. 2022,
            arXiv:2207.04380) or ``"rdp"`` (Mironov 2017, arXiv:1702.07476; Mironov et al. 2019,
            arXiv:1908.10530).

    Returns:
        Epsilon; infinity where there is no noise, or where ``delta`` is spent on batches that had
        no room (see ``Poisson``).

    Raises:
        ConfigError: a number is out of range, or how the batches are sampled is not known.
        MissingExtraError: ``dp-accounting`` is not installed.
    """
    _check(noise_multiplier, steps, delta)
    known = sampling_of(sampling)
    if steps == 0:
        return 0.0
    if noise_multiplier == 0:
        return math.inf
    ledger = _fresh(accountant, known)
    ledger.compose(_event(noise_multiplier, known, steps))
    lost = steps * getattr(known, "overflow", 0.0)
    spent = float(ledger.get_epsilon(delta))
    for _ in range(_ROUNDS):
        if lost == 0.0 or spent == math.inf:
            return spent
        left = _left(delta, lost, spent)
        more = math.inf if left <= 0 else float(ledger.get_epsilon(left))
        if more <= spent * (1 + 1e-9):
            return more
        spent = more
    return math.inf


def noise_for(
    *,
    epsilon: Number,
    sampling: Any,
    steps: int,
    delta: float,
    accountant: Accountant = "pld",
    tolerance: float = 1e-3,
) -> float:
    """The least noise multiplier that spends at most ``epsilon``.

    Args:
        epsilon: what may be spent, positive.
        sampling: as in ``epsilon``.
        steps: updates of the whole run.
        delta: as in ``epsilon``.
        accountant: as in ``epsilon``.
        tolerance: by how much the answer may be too large.

    Raises:
        ConfigError: as ``epsilon``; or no noise is enough.
        MissingExtraError: ``dp-accounting`` is not installed.
    """
    _check(1.0, steps, delta)
    known = sampling_of(sampling)
    left = _left(delta, steps * getattr(known, "overflow", 0.0), epsilon)
    if not (math.isfinite(epsilon) and epsilon > 0) or left <= 0 or steps < 1 or tolerance <= 0:
        raise ConfigError(
            f"no noise makes {steps} steps with {known} cost epsilon {epsilon} at delta {delta}",
            expected="steps, and an epsilon and a tolerance that are positive, and room for every "
            "draw",
            do="raise epsilon, or the capacity of the batches",
        )
    target = (float(epsilon), left)
    found = _calibrated("rdp", known, steps, target, (1.0, tolerance))
    if accountant == "rdp":
        return found
    return _calibrated(accountant, known, steps, target, (found, tolerance))


def _calibrated(
    accountant: Accountant,
    sampling: Sampling,
    steps: int,
    target: tuple[float, float],
    search: tuple[float, float],
) -> float:
    """The noise that meets ``(epsilon, delta)``, searched from a guess, to a tolerance."""
    dp = _package()
    high, tolerance = search
    epsilon, delta = target

    def enough(noise: float) -> bool:
        ledger = _fresh(accountant, sampling).compose(_event(noise, sampling, steps))
        return bool(ledger.get_epsilon(delta) <= epsilon)

    while not enough(high):
        high *= 2
    low = high * 0.75
    while enough(low):
        low, high = low * 0.75, low
    return float(
        dp.calibrate_dp_mechanism(
            lambda: _fresh(accountant, sampling),
            lambda noise: _event(noise, sampling, steps),
            epsilon,
            delta,
            bracket_interval=dp.ExplicitBracketInterval(low, high),
            tol=tolerance,
        )
    )


def _left(delta: float, lost: float, spent: Number) -> float:
    """Of delta, when the steps go another way with probability ``lost``, in both data sets."""
    return delta - lost * (1 + math.exp(min(spent, 700.0))) if lost else delta


def _event(noise_multiplier: Number, sampling: Sampling, steps: int) -> Any:
    dp = _package()
    noise = dp.GaussianDpEvent(noise_multiplier)
    if isinstance(sampling, Epochs):
        return dp.SelfComposedDpEvent(noise, -(-steps // sampling.batches))
    return dp.SelfComposedDpEvent(dp.PoissonSampledDpEvent(sampling.rate, noise), steps)


def _fresh(accountant: Accountant, sampling: Sampling) -> Any:
    dp = _package()
    relation = dp.NeighboringRelation.ADD_OR_REMOVE_ONE
    if isinstance(sampling, Epochs):
        relation = dp.NeighboringRelation.REPLACE_SPECIAL
    if accountant == "rdp":
        return dp.rdp.RdpAccountant(neighboring_relation=relation)
    if accountant == "pld":
        return dp.pld.PLDAccountant(relation)
    raise ConfigError(
        f"accountant is {accountant!r}", expected="'pld' or 'rdp'", do="'pld' is the tight one"
    )


def _package() -> Any:
    try:
        import dp_accounting
    except ImportError as error:
        raise MissingExtraError(
            "accounting of privacy needs the package dp-accounting",
            expected="the extra 'privacy'",
            do="pip install 'jaxdl[privacy]'",
        ) from error
    return dp_accounting


def _check(noise_multiplier: Number, steps: int, delta: float) -> None:
    for wrong, what, expected in (
        (
            not (math.isfinite(noise_multiplier) and noise_multiplier >= 0),
            f"noise_multiplier is {noise_multiplier}",
            "a number, 0 or more",
        ),
        (steps < 0, f"steps is {steps}", "0 or more"),
        (not 0 < delta < 1, f"delta is {delta}", "a probability between 0 and 1"),
    ):
        if wrong:
            raise ConfigError(
                what, expected=expected, do="delta is often 1e-5, below one over the examples"
            )
