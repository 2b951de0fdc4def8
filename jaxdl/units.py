"""Numbers as people read them: bytes, seconds, FLOPs.

Reads from: nothing of jaxdl. Used by: tpu.showing.rendering, tpu.showing.sweep_table,
tpu.showing.picture, judging.ranking, reporting, cli.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

__all__ = ["Number", "bar", "count", "flops", "gib", "percent_range", "seconds", "size"]

Number: TypeAlias = int | float

_BYTES = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB"]
_COUNTS = ["", "k", "M", "G", "T", "P", "E", "Z"]
_TIMES = [(1.0, "s"), (1e-3, "ms"), (1e-6, "us")]


def size(number: Number) -> str:
    """Bytes in the unit that suits them.

    Args:
        number: bytes.

    Examples:
        >>> size(1536), size(0)
        ('1.50 KiB', '0 bytes')
    """
    return _scaled(number, 1024, _BYTES) or f"{number:,.0f} bytes"


def gib(number: Number) -> str:
    """Bytes as GiB, without the unit.

    Args:
        number: bytes.

    Examples:
        >>> gib(2**30 * 15.75)
        '15.75'
    """
    return f"{number / 2**30:.2f}"


def seconds(value: Number) -> str:
    """Seconds in the unit that suits them.

    Args:
        value: seconds.

    Examples:
        >>> seconds(0.0123), seconds(0)
        ('12.30 ms', '0')
    """
    for factor, unit in _TIMES:
        if value >= factor:
            return f"{value / factor:,.2f} {unit}"
    return f"{value * 1e9:,.0f} ns" if value else "0"


def count(value: Number) -> str:
    """A number with a decimal prefix.

    Args:
        value: of things.

    Examples:
        >>> count(124_439_808), count(12)
        ('124.44 M', '12')
    """
    return _scaled(value, 1000, _COUNTS) or f"{value:,.0f}"


def flops(value: Number) -> str:
    """FLOPs with a decimal prefix.

    Args:
        value: FLOPs.

    Examples:
        >>> flops(8.238e12), flops(12)
        ('8.24 TFLOP', '12 FLOP')
    """
    number = count(value)
    return f"{number}FLOP" if " " in number else f"{number} FLOP"


def bar(share: Number, width: int = 30) -> str:
    """A share as a bar; beyond the whole it ends in ``>``.

    Args:
        share: of the whole.
        width: columns of the whole.

    Examples:
        >>> bar(0.5, 4), bar(1.2, 4)
        ('██··', '████>')
    """
    filled = min(width, max(0, round(share * width)))
    return "█" * filled + "·" * (width - filled) + (">" if share > 1 else "")


def percent_range(pair: tuple[float, float]) -> str:
    """A range of shares.

    Args:
        pair: low, high.

    Examples:
        >>> percent_range((0.4, 0.52))
        '40.0 .. 52.0 %'
    """
    return f"{pair[0] * 100:.1f} .. {pair[1] * 100:.1f} %"


def _scaled(number: Number, step: int, prefixes: Sequence[str]) -> str:
    """The number under the largest prefix that leaves at least 1; empty below the first."""
    value, place = float(number), 0
    while value >= step and place < len(prefixes) - 1:
        value, place = value / step, place + 1
    return f"{value:.2f} {prefixes[place]}" if place else ""
