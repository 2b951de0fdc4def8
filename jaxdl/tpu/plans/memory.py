"""What lies in a device's memory while a step runs, and what the compiler says when it is too much.

Reads from: placement.guard, tree_paths, tpu.plans.facts, tpu.slices.hardware. Used by:
tpu.plans.planning, cli.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdl.placement.guard import leaf_bytes
from jaxdl.protocols import PyTree
from jaxdl.tpu.plans.facts import Buffer, Memory, Use
from jaxdl.tpu.slices.hardware import Chip
from jaxdl.tree_paths import leaf_paths

__all__ = ["Refusal", "buffers_of", "bytes_by_use", "memory_of", "read_refusal"]

_HOMES: Mapping[str, Use] = {
    "params": "parameters",
    "opt_state": "optimizer",
    "ema": "average",
    "model_state": "model state",
    "batch_stats": "model state",
}
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = r"([\d.]+)\s*([KMGT]?)i?B?"
# Before scheduling: "... required for HLO temporaries (27.44G) exceeds available HBM (15.75G)".
# It says temporaries and means everything, arguments and results included.
_BEFORE = re.compile(rf"required.*?\({_SIZE}\).*?available HBM \({_SIZE}\)", re.DOTALL)
# After it: "Used 17.20G of 15.75G hbm. Exceeded hbm capacity by 1.45G."
_AFTER = re.compile(rf"Used {_SIZE} of {_SIZE} hbm", re.IGNORECASE)
_OVER = re.compile(rf"Exceeded hbm capacity by {_SIZE}", re.IGNORECASE)


class Refusal(NamedTuple):
    """What the compiler says of a program that does not fit.

    Attributes:
        needed: bytes; ``None`` when it gives no figure.
        available: bytes; ``None`` when it gives no figure.
        text: its own words, without the code before them.
    """

    needed: int | None
    available: int | None
    text: str


def read_refusal(text: str) -> Refusal:
    """Reads the compiler's out-of-memory message.

    Args:
        text: the message.

    Examples:
        >>> told = "Ran out of memory in memory space hbm. Used 17.50G of 15.75G hbm."
        >>> read_refusal(told).needed == int(17.5 * 2**30)
        True
    """
    words = re.sub(r"^\s*[A-Z_]+:\s*", "", text.strip())
    said = words.split("\n\n")[0].strip().splitlines()
    found = _BEFORE.search(text) or _AFTER.search(text)
    needed = available = None
    if found:
        needed, available = _bytes(found[1], found[2]), _bytes(found[3], found[4])
        # The excess is rounded to more places than the sum.
        if needed <= available and (over := _OVER.search(text)):
            needed = available + _bytes(over[1], over[2])
    return Refusal(needed, available, " ".join(line.strip() for line in said))


def buffers_of(state: PyTree, batch: PyTree) -> tuple[Buffer, ...]:
    """Every argument of a step, the largest on one device first.

    Args:
        state: ``jax.ShapeDtypeStruct`` with shardings.
        batch: the same.
    """
    homes = [(path, path.split("/")[0]) for path in leaf_paths(state)]
    whole = not any(home in _HOMES for _, home in homes)
    found = [
        _buffer(path, _use(home, leaf, whole=whole), leaf)
        for (path, home), leaf in zip(homes, jax.tree.leaves(state), strict=True)
    ]
    found += [
        _buffer(f"batch/{path}", "batch", leaf)
        for path, leaf in zip(leaf_paths(batch), jax.tree.leaves(batch), strict=True)
    ]
    return tuple(sorted(found, key=lambda each: -each.bytes))


def bytes_by_use(buffers: Iterable[Buffer]) -> dict[Use, int]:
    """Bytes on one device by what they are for, the largest first.

    Args:
        buffers: the arguments.
    """
    sums: dict[Use, int] = {}
    for each in buffers:
        sums[each.use] = sums.get(each.use, 0) + each.bytes
    return dict(sorted(sums.items(), key=lambda item: -item[1]))


def memory_of(compiled: jax.stages.Compiled | str, buffers: Iterable[Buffer], chip: Chip) -> Memory:
    """One device's memory, from what the compiler says of the program.

    Args:
        compiled: the program, or the message with which it was refused.
        buffers: its arguments.
        chip: whose memory it is; the compiler's own figure goes before the table's.
    """
    by_use = bytes_by_use(buffers)
    available = int(chip.usable_hbm_bytes.value)
    if isinstance(compiled, str):
        told = read_refusal(compiled)
        available = told.available or available
        needed = told.needed or max(sum(by_use.values()), available)
        return Memory(
            by_use, max(0, needed - sum(by_use.values())), 0, needed, available, told.text
        )
    found: Any = compiled.memory_analysis()
    peak = int(found.peak_memory_in_bytes)
    refusal = None
    if peak > available:
        refusal = f"the compiler placed the program, but at {peak:,} bytes of {available:,}"
    temporaries, code = int(found.temp_size_in_bytes), int(found.generated_code_size_in_bytes)
    return Memory(by_use, temporaries, code, peak, available, refusal)


def _use(home: str, leaf: Any, *, whole: bool) -> Use:
    """By the state's field; in a state without any known field, every array is a parameter."""
    if whole:
        # Counters and keys are no parameters, whatever the state calls them.
        return "parameters" if jnp.issubdtype(leaf.dtype, jnp.inexact) else "other state"
    return _HOMES.get(home, "other state")


def _buffer(path: str, use: Use, leaf: Any) -> Buffer:
    spec = getattr(leaf.sharding, "spec", None)
    words = "P()" if spec is None else f"P({', '.join(map(repr, spec))})"
    return Buffer(path, use, tuple(leaf.shape), str(leaf.dtype), words, leaf_bytes(leaf))


def _bytes(number: str, unit: str) -> int:
    return int(float(number) * _UNITS[unit])
