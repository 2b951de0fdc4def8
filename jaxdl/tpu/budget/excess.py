"""What a step takes beyond its budgets or its baseline, and which parameters that comes from.

Reads from: tpu.programs.hlo, tpu.budget.limits, tpu.budget.measured, tpu.plans.memory,
tpu.budget.origins. Used by: tpu.budget.budgets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from jaxdl.tpu.budget.limits import OTHER, Limits, TrafficLimit, size_words
from jaxdl.tpu.budget.measured import Measured
from jaxdl.tpu.budget.origins import origin_of
from jaxdl.tpu.plans.memory import bytes_by_use
from jaxdl.tpu.programs.hlo import Collective, Traffic, summarize

__all__ = ["Violation", "beyond_baseline", "beyond_limits"]

_SHOWN = 8
_NONE = Traffic(0, 0, 0)


class Violation(NamedTuple):
    """One figure that is too large.

    Attributes:
        name: of the figure.
        allowed: the most it may be, in words.
        got: what it is, in words.
        why: lines that say what it consists of, or what is new in it.
    """

    name: str
    allowed: str
    got: str
    why: tuple[str, ...] = ()


def beyond_limits(found: Measured, limits: Limits, old: Measured | None) -> list[Violation]:
    """Every budget that is exceeded.

    Args:
        found: what was measured.
        limits: the budgets.
        old: the baseline, against which what is new is told.
    """
    over: list[Violation] = []
    if limits.hbm is not None and found.peak > limits.hbm:
        allowed, got = _sizes(limits.hbm, found.peak)
        over.append(Violation("hbm", allowed, got, _memory(found)))
    if found.refusal is not None:
        over.append(Violation("memory", "to fit", "refused", (found.refusal,)))
    if found.refusal is None:
        over += _collectives(found, limits.collectives, old)
    if limits.flops is not None and found.flops > limits.flops:
        over.append(Violation("flops", f"{limits.flops:.6g}", f"{found.flops:.6g}"))
    slowest = None if found.seconds is None else found.seconds[1]
    if limits.seconds is not None and slowest is not None and slowest > limits.seconds:
        over.append(Violation("step_seconds", f"{limits.seconds:.4g}", f"{slowest:.4g} at slowest"))
    return over


def beyond_baseline(found: Measured, old: Measured, tolerance: float) -> list[Violation]:
    """Everything that is more than it was.

    Args:
        found: what was measured.
        old: what was measured before.
        tolerance: the share by which bytes, FLOPs and seconds may exceed it.
    """
    factor, over = 1 + tolerance, list[Violation]()
    if found.peak > old.peak * factor:
        over.append(
            Violation("peak memory", *_sizes(old.peak, found.peak), _more_memory(found, old))
        )
    if found.flops > old.flops * factor:
        over.append(Violation("flops", f"{old.flops:.6g}", f"{found.flops:.6g}"))
    if found.seconds and old.seconds and found.seconds[1] > old.seconds[1] * factor:
        was, now = old.seconds[1], found.seconds[1]
        over.append(Violation("step seconds", f"{was:.4g}", f"{now:.4g} at slowest"))
    if found.refusal is not None or old.refusal is not None:
        return over
    now, was = summarize(found.collectives), summarize(old.collectives)
    for kind, traffic in now.items():
        before = was.get(kind, _NONE)
        if traffic.times > before.times or traffic.wire_bytes > before.wire_bytes * factor:
            over.append(
                Violation(kind, _traffic(before), _traffic(traffic), _news(kind, found, old))
            )
    return over


def _collectives(
    found: Measured, limits: Mapping[str, TrafficLimit], old: Measured | None
) -> list[Violation]:
    """Every kind of which too many are executed, or that sends too much."""
    over: list[Violation] = []
    for kind, traffic in summarize(found.collectives).items():
        limit = limits.get(kind, limits.get(OTHER))
        if limit is None:
            continue
        many = limit.times is not None and traffic.times > limit.times
        much = limit.bytes is not None and traffic.wire_bytes > limit.bytes
        if many or much:
            why = (_news(kind, found, old) if old else ()) or _parts(kind, found)
            name = kind if kind in limits else f"{kind} ({OTHER})"
            over.append(Violation(name, str(limit), _traffic(traffic), why))
    return over


def _by_origin(kind: str, found: Measured) -> dict[str, Traffic]:
    """The traffic of a kind by where it comes from, in words, the largest first."""
    groups: dict[str, list[Collective]] = {}
    for each in found.collectives:
        if kind in summarize([each]):
            groups.setdefault(origin_of(each, found.buffers).words, []).append(each)
    sums = {words: summarize(group)[kind] for words, group in groups.items()}
    return dict(sorted(sums.items(), key=lambda item: -item[1].wire_bytes))


def _parts(kind: str, found: Measured) -> tuple[str, ...]:
    lines = [f"{_traffic(each)}: {words}" for words, each in _by_origin(kind, found).items()]
    return (*_short(lines), *_loops(kind, found))


def _news(kind: str, found: Measured, old: Measured) -> tuple[str, ...]:
    """What is new of a kind, and what is gone."""
    now, was = _by_origin(kind, found), _by_origin(kind, old)
    more, less = list[str](), list[str]()
    for words in dict.fromkeys([*now, *was]):
        new, before = now.get(words, _NONE), was.get(words, _NONE)
        if new.times > before.times or new.wire_bytes > before.wire_bytes:
            was_there = f" (was {_traffic(before)})" if before.times else ""
            more.append(f"+ {_traffic(new)}{was_there}: {words}")
        elif new != before:
            left = f" ({_traffic(new)} left)" if new.times else ""
            less.append(f"- {_traffic(before)}{left}: {words}")
    return (*_short(more), *_short(less), *_loops(kind, found))


def _loops(kind: str, found: Measured) -> tuple[str, ...]:
    inexact = [e for e in found.collectives if not e.exact and kind in summarize([e])]
    if not inexact:
        return ()
    return (f"{len(inexact)} of them in loops of unknown length, counted once",)


def _memory(found: Measured) -> tuple[str, ...]:
    by_use = bytes_by_use(found.buffers)
    rest = max(0, found.peak - sum(by_use.values()))
    parts = {**by_use, "temporaries": rest}
    return (", ".join(f"{use} {size_words(size)}" for use, size in parts.items()),)


def _more_memory(found: Measured, old: Measured) -> tuple[str, ...]:
    """The arguments that take more than they did, and how much of the rest is more."""
    before = {each.path: each for each in old.buffers}
    lines: list[tuple[int, str]] = []
    for each in found.buffers:
        was = before.get(each.path)
        grown = each.bytes - (was.bytes if was else 0)
        if grown > 0:
            since = f"was {size_words(was.bytes)}, {was.spec}" if was else "is new"
            words = f"{each.path}: {size_words(each.bytes)}, {each.spec}, {since}"
            lines.append((grown, words))
    held = [sum(each.bytes for each in measured.buffers) for measured in (found, old)]
    rest = (found.peak - held[0]) - (old.peak - held[1])
    told = [words for _, words in sorted(lines, key=lambda line: -line[0])]
    temporaries = [f"temporaries: {size_words(rest)} more"] if rest > 0 else []
    return (*_short(told), *temporaries)


def _short(lines: Iterable[str]) -> list[str]:
    every = list(lines)
    more = len(every) - _SHOWN
    return every if more <= 0 else [*every[:_SHOWN], f"and {more} more"]


def _traffic(traffic: Traffic) -> str:
    """How many are executed, and the bytes that one device sends in all of them."""
    return f"{traffic.times} sending {size_words(traffic.wire_bytes)}" if traffic.times else "0"


def _sizes(allowed: int, got: int) -> tuple[str, str]:
    """Both in words, or to the byte when words do not tell them apart."""
    words = size_words(allowed), size_words(got)
    return words if words[0] != words[1] else (f"{allowed:,} B", f"{got:,} B")
