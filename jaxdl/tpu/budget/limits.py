"""Budgets as they are written in a test, read strictly: ``"12GiB"``, ``"<=40"``, ``0``.

Reads from: errors. Used by: tpu.budget.excess, tpu.budget.budgets.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from jaxdl.errors import ConfigError, closest

__all__ = ["OTHER", "Limit", "Limits", "TrafficLimit", "parse_size", "read_limits", "size_words"]

OTHER = "other"
"""The budget of every kind of collective that has none of its own."""

Limit = int | str
"""A budget as it is written."""

_KINDS = (
    *("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "ragged-all-to-all"),
    *("collective-permute", "collective-broadcast", "send"),
)
_UNITS = {
    "B": 1,
    **{f"{prefix}iB": 2 ** (10 * power) for power, prefix in enumerate("KMGT", 1)},
    **{f"{prefix}B": 10 ** (3 * power) for power, prefix in enumerate("kMGT", 1)},
}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)")
_COUNT = re.compile(r"<=\s*(\d+)")
_SIZES = "a size with its unit, such as '12GiB' (12 * 2**30 bytes), '12GB' (12 * 10**9) or '100MiB'"
_TRAFFICS = "a number of collectives (0 or '<=40'), bytes ('100MiB'), or both ('<=40, 100MiB')"


class TrafficLimit(NamedTuple):
    """The most of one kind of collective.

    Attributes:
        times: executed by one step; ``None`` for any number.
        bytes: sent by one device in one step; ``None`` for any number.
    """

    times: int | None
    bytes: int | None

    def __str__(self) -> str:
        times = [] if self.times is None else [f"{self.times}"]
        sent = [] if self.bytes is None else [f"sending {size_words(self.bytes)}"]
        return " ".join([*times, *sent])


class Limits(NamedTuple):
    """Budgets that were read; ``None`` for no limit.

    Attributes:
        hbm: bytes on one device.
        collectives: by kind.
        flops: of one step on all devices.
        seconds: of one step.
    """

    hbm: int | None
    collectives: Mapping[str, TrafficLimit]
    flops: float | None
    seconds: float | None


def read_limits(
    hbm: Limit | None,
    collectives: Mapping[str, Limit],
    flops: float | None,
    seconds: float | None,
) -> Limits:
    """Reads budgets.

    Args:
        hbm: a size, or bytes.
        collectives: by kind, see ``assert_budget``.
        flops: a number.
        seconds: a number.

    Raises:
        ConfigError: one cannot be read.
    """
    for name, value in (("flops", flops), ("step_seconds", seconds)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ConfigError(
                f"the budget {name}={value!r}",
                expected="a number above 0",
                do="give the most that one step may take",
            )
    read = {_kind(kind): _traffic(kind, limit) for kind, limit in collectives.items()}
    return Limits(None if hbm is None else parse_size(hbm, "hbm"), read, flops, seconds)


def parse_size(limit: Limit, name: str = "size") -> int:
    """Bytes of a size with its unit.

    Args:
        limit: such as ``"12GiB"`` or ``"1.5 MB"``; an integer is a number of bytes.
        name: what it is the size of.

    Raises:
        ConfigError: it is no size, or its unit is missing or has two meanings.

    Examples:
        >>> parse_size("1.5KiB"), parse_size("1.5kB"), parse_size(7)
        (1536, 1500, 7)
    """
    if isinstance(limit, int) and not isinstance(limit, bool) and limit >= 0:
        return limit
    match = _SIZE.fullmatch(limit.strip()) if isinstance(limit, str) else None
    if match is None or match[2] not in _UNITS:
        raise ConfigError(
            f"the budget {name}={limit!r} is no size", expected=_SIZES, do=_unit_advice(match)
        )
    return math.floor(float(match[1]) * _UNITS[match[2]])


def size_words(size: int) -> str:
    """Bytes in the largest unit that they fill, such as ``"15.75 GiB"``.

    Args:
        size: bytes.

    Examples:
        >>> size_words(1536), size_words(12)
        ('1.50 KiB', '12 B')
    """
    for prefix, power in (("T", 4), ("G", 3), ("M", 2), ("K", 1)):
        if size >= 1024**power:
            return f"{size / 1024**power:.2f} {prefix}iB"
    return f"{size} B"


def _unit_advice(match: re.Match[str] | None) -> str:
    """What to write instead of a size without its unit, or with one in other letters."""
    if match is None:
        return "write a number and a unit"
    number, unit = match[1], match[2]
    if not unit:
        return f"say of what: '{number}GiB' or '{number}MiB'; an integer is a number of bytes"
    near = [each for each in _UNITS if each.lower() in (unit.lower(), f"{unit.lower()}b")]
    near += [f"{unit[0].upper()}iB"] if len(unit) == 1 and unit.upper() in "KMGT" else []
    written = " or ".join(f"'{number}{each}'" for each in near)
    return f"write {written}" if near else closest(unit, _UNITS)


def _kind(kind: str) -> str:
    known = [*_KINDS, *(f"{each} over dcn" for each in _KINDS), OTHER]
    if kind not in known:
        raise ConfigError(
            f"a budget names the collective {kind!r}",
            expected=f"one of {', '.join(_KINDS)}; one of these with ' over dcn'; or {OTHER!r}",
            do=closest(kind.replace("_", "-"), known),
        )
    return kind


def _traffic(kind: str, limit: Limit) -> TrafficLimit:
    if isinstance(limit, int) and not isinstance(limit, bool) and limit >= 0:
        return TrafficLimit(limit, None)
    times, size = None, None
    for part in limit.split(",") if isinstance(limit, str) else [""]:
        if (match := _COUNT.fullmatch(part.strip())) and times is None:
            times = int(match[1])
        elif _SIZE.fullmatch(part.strip()) and not part.strip().isdigit() and size is None:
            size = parse_size(part, kind)
        else:
            raise ConfigError(
                f"the budget of {kind} is {limit!r}",
                expected=_TRAFFICS,
                do=f"write '<={part.strip()}' or {part.strip()} for a number of collectives"
                if part.strip().isdigit()
                else "write a number, a size with its unit, or both",
            )
    return TrafficLimit(times, size)
