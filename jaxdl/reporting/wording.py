"""Numbers, durations and names as the page writes them.

Reads from: nothing of jaxdl. Used by: the rest of reporting.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["SPACE", "duration", "flattened", "number", "percent", "plural", "spoken"]

SPACE = "\N{NO-BREAK SPACE}"


def number(value: Any) -> str:
    """A number with four digits that count; a whole one with all.

    Args:
        value: a number; ``None`` is what JSON makes of NaN.

    Examples:
        >>> number(21408), number(0.123456), number(2.0), number(None), number(1.5e-7)
        ('21,408', '0.1235', '2', 'not finite', '1.5e-07')
    """
    if value is None:
        return "not finite"
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return str(value)
    if isinstance(value, numbers.Integral):
        return f"{int(value):,}"
    given = float(value)
    if not math.isfinite(given):
        return "not finite"
    return f"{given:,.0f}" if 1e4 <= abs(given) < 1e15 else f"{given:.4g}"


def percent(share: float) -> str:
    """A share in per cent.

    Args:
        share: of 1.

    Examples:
        >>> percent(0.98055).replace(SPACE, " ")
        '98.1 %'
    """
    return f"{100 * share:.1f}{SPACE}%" if math.isfinite(share) else "not defined"


def duration(seconds: float) -> str:
    """A time as people say it.

    Args:
        seconds: how long.

    Examples:
        >>> duration(11.87), duration(75.0), duration(7260.0)
        ('11.9 s', '1 min 15 s', '2 h 01 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def plural(count: int, one: str, many: str = "") -> str:
    """A count and what is counted.

    Args:
        count: how many.
        one: the word for one.
        many: the word for more; with an ``s`` when empty.

    Examples:
        >>> plural(1, "row"), plural(1200, "row")
        ('1 row', '1,200 rows')
    """
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def spoken(name: str) -> str:
    """The name of a measure as words.

    Args:
        name: as a record has it.

    Examples:
        >>> spoken("examples_per_second")
        'examples per second'
    """
    return name.replace("_", " ")


def flattened(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted name.

    Args:
        tree: mappings of mappings; lists are kept whole.
        prefix: before every name.

    Examples:
        >>> flattened({"steps": 3, "optimizer": {"name": "adam"}})
        {'steps': 3, 'optimizer.name': 'adam'}
    """
    if not isinstance(tree, Mapping) or (prefix and not tree):
        return {prefix: _joined(tree)}
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= flattened(value, f"{prefix}.{key}" if prefix else str(key))
    return found


def _joined(value: Any) -> Any:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(str, value)) or "none"
    return value
