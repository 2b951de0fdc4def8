"""Interleaved pairs: the only way that a noisy machine gives a ratio worth printing.

Each pair times both candidates back to back, in alternating order; the median of the pairs' ratios
is reported with a bootstrap interval. Reads from: numpy. Used by: the other benchmarks.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Row:
    """One line of a table: how long ``ours`` took over ``theirs``."""

    name: str
    ratio: float
    low: float
    high: float
    ours_us: float
    theirs_us: float
    pairs: int


def compare(
    name: str,
    ours: Callable[[], None],
    theirs: Callable[[], None],
    *,
    pairs: int = 30,
    units: int = 1,
) -> Row:
    """Times two blocks of work against each other.

    Args:
        name: what is compared.
        ours: a block that waits for its own result.
        theirs: the other one.
        pairs: how many pairs are timed, after one that is thrown away.
        units: how many steps a block holds; times are given for one, in microseconds.

    Returns:
        The row, with a 95 % bootstrap interval of the median ratio.
    """
    times: dict[str, list[float]] = {"ours": [], "theirs": []}
    for pair in range(pairs + 1):
        order = [("ours", ours), ("theirs", theirs)]
        for label, block in order if pair % 2 else reversed(order):
            start = time.perf_counter()
            block()
            if pair:
                times[label].append((time.perf_counter() - start) / units * 1e6)
    ours_us, theirs_us = np.array(times["ours"]), np.array(times["theirs"])
    ratios = ours_us / theirs_us
    draws = np.random.default_rng(0).integers(0, pairs, (2000, pairs))
    low, high = np.percentile(np.median(ratios[draws], axis=1), [2.5, 97.5])
    return Row(
        name,
        float(np.median(ratios)),
        float(low),
        float(high),
        float(np.median(ours_us)),
        float(np.median(theirs_us)),
        pairs,
    )


def show(rows: list[Row], out: Path | None) -> None:
    """Prints a table and, when ``out`` is given, appends one JSON line a row to it."""
    print(f"{'case':34} {'ratio':>7} {'95 % interval':>16} {'ours us':>10} {'other us':>10}")
    for row in rows:
        interval = f"{row.low:.3f} .. {row.high:.3f}"
        print(
            f"{row.name:34} {row.ratio:7.3f} {interval:>16} {row.ours_us:10.1f} "
            f"{row.theirs_us:10.1f}"
        )
    if out is not None:
        with out.open("a") as file:
            file.writelines(json.dumps(asdict(row)) + "\n" for row in rows)
