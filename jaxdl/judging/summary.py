"""Everything that is read from judgements, as JSON holds it.

Reads from: judging.agreement, judging.judgements, judging.ranking.
Used by: cli.judging, and by hand.
"""

from __future__ import annotations

import math
from typing import Any

from jaxdl.judging.agreement import agreement
from jaxdl.judging.judgements import Judgements
from jaxdl.judging.ranking import mean_ratings, ranking, side_rate, win_rates

__all__ = ["summarize"]


def summarize(
    judgements: Judgements, *, seed: int = 0, level: float = 0.95, resamples: int = 1_000
) -> dict[str, Any]:
    """Agreement, and rates and strengths or mean ratings.

    Args:
        judgements: of preferences or of ratings.
        seed: of the bootstrap.
        level: of all intervals.
        resamples: how many draws.

    Returns:
        A mapping that JSON can hold; ``None`` where something is not defined.

    Raises:
        BatchError: there are no judgements, or of both kinds.
        ConfigError: a setting is out of range.
    """
    preferences, ratings = judgements
    draws: dict[str, Any] = {"seed": seed, "level": level, "resamples": resamples}
    found: dict[str, Any] = {
        "kind": "pairs" if preferences else "ratings",
        "judgements": len(preferences) + len(ratings),
        "items": len({each.item for each in (*preferences, *ratings)}),
        "level": level,
        "agreement": _named(agreement(judgements)),
    }
    if preferences:
        side = side_rate(preferences, level=level)
        found["win_rates"] = [_named(row) for row in win_rates(preferences, level=level)]
        found["bradley_terry"] = [_named(row) for row in ranking(preferences, **draws)]
        found["shown_first_won"] = None if side is None else _named(side)
    else:
        found["mean_ratings"] = [_named(row) for row in mean_ratings(ratings, **draws)]
    return found


def _named(value: Any) -> Any:
    if hasattr(value, "_asdict"):
        return {name: _named(each) for name, each in value._asdict().items()}
    if isinstance(value, dict):
        return {name: _named(each) for name, each in value.items()}
    if isinstance(value, tuple | list):
        return [_named(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
