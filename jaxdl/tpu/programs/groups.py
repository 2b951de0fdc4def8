"""Which devices a collective joins: every spelling of ``replica_groups`` that XLA prints.

Reads from: tpu.programs.hlo_text. Used by: tpu.programs.hlo.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np

from jaxdl.errors import ProgramError

__all__ = ["between_slices", "first_group"]

_PAIRS = re.compile(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}")
_LISTED = re.compile(r"replica_groups=\{((?:\{[\d,]*\},?)*)\}")
_IOTA = r"\[([\d,]+)\](?:<=\[([\d,]+)\])?(?:T\(([\d,]+)\))?"
_GRID = re.compile(rf"replica_groups={_IOTA}")
_MESH = re.compile(
    rf"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(({_IOTA})\))?\s*\{{([^}}]*)\}}"
)
_SIZE = re.compile(r"'([^']+)'=(\d+)")

_BETWEEN = re.compile(r'_xla_megascale_transfer_type="(\w+)"')
_TARGET = re.compile(r'_xla_megascale_target="?([{}\dx:,>-]*)')
_BETWEEN_KINDS = {
    "ALL_REDUCE": "all-reduce",
    "ALL_GATHER": "all-gather",
    "REDUCE_SCATTER": "reduce-scatter",
    "ALL_TO_ALL": "all-to-all",
    "ONE_TO_ONE": "collective-permute",
}
# A device is written as its slice, counted from 1, times this, plus its number in the slice.
_SLICE = 100_000


def first_group(attributes: str, devices: int) -> tuple[int, ...]:
    """The devices of the first group of a collective, as numbers of partitions.

    Groups of one collective have one size. For a collective-permute, which has pairs of source and
    target, it is the ring or chain that the first pair starts.

    Args:
        attributes: the instruction's text behind its operands.
        devices: how many devices run the program; an empty list of groups means all of them.

    Raises:
        ProgramError: the groups are written in a way that is not known. A guess would hide bytes.

    Examples:
        >>> first_group("replica_groups=[2,4]<=[8]", 8)
        (0, 1, 2, 3)
        >>> first_group("replica_groups=mesh['a'=2,'b'=4] {'a'}", 8)
        (0, 4)
    """
    pairs = _PAIRS.search(attributes)
    if pairs:
        return _chain([tuple(map(int, p.split(","))) for p in re.findall(r"\d+,\d+", pairs[1])])
    if mesh := _MESH.search(attributes):
        return _of_mesh(mesh)
    if grid := _GRID.search(attributes):
        return tuple(int(n) for n in _iota(*grid.groups())[0])
    if listed := _LISTED.search(attributes):
        inside = re.match(r"\{([\d,]+)\}", listed[1])
        return tuple(map(int, inside[1].split(","))) if inside else tuple(range(devices))
    if "replica_groups=" not in attributes:
        return tuple(range(devices))
    written = attributes[attributes.index("replica_groups=") :][:80]
    raise ProgramError(
        f"cannot read {written!r}",
        expected="{{0,1},{2,3}}, [2,2]<=[4], mesh['a'=2,'b'=2] {'a'}, or the last with device_ids",
        do="report it with the version of jax and libtpu: a guess would miscount the traffic",
    )


def between_slices(attributes: str) -> tuple[str, tuple[int, ...]] | None:
    """The kind and the first group of a collective over the data-centre network.

    Between slices libtpu writes no collective, but a ``send`` to its own runtime on the host, which
    says in its attributes what it does.

    Args:
        attributes: the text of a ``send`` behind its operands.

    Returns:
        ``None`` for a ``send`` that is something else.

    Raises:
        ProgramError: what it does is written in a way that is not known.
    """
    kind = _BETWEEN.search(attributes)
    if kind is None:
        return None
    target = _TARGET.search(attributes)
    written = target[1] if target else ""
    group: list[int] = []
    if grid := re.match(r"\{([\d,]+)\}x\{(\d+):(\d+)\}", written):
        group = [int(s) * _SLICE + int(grid[2]) for s in grid[1].split(",")]
        last = int(grid[3])
    else:
        pairs = [(int(a), int(b)) for a, b in re.findall(r"\{(\d+)->(\d+)\}", written)]
        listed = re.search(r"\{([\d,]+)\}", written)
        group = [int(n) for n in listed[1].split(",")] if listed else list(_chain(pairs))
        last = max((int(n) % _SLICE for n in re.findall(r"\d+", written)), default=0)
    if not group or kind[1] not in _BETWEEN_KINDS:
        raise ProgramError(
            f"cannot read the traffic between slices, {kind[1]} {written[:80]!r}",
            expected=f"one of {', '.join(_BETWEEN_KINDS)} with its devices",
            do="report it with the version of jax and libtpu",
        )
    numbers = ((n // _SLICE - 1) * (last + 1) + n % _SLICE for n in group)
    return _BETWEEN_KINDS[kind[1]], tuple(numbers)


def _iota(shape: str, reshape: str | None, order: str | None) -> np.ndarray:
    """``[G,S]<=[A,B]T(1,0)``: counting numbers, shaped, transposed, shaped again."""
    sides = [int(n) for n in shape.split(",")]
    numbers = np.arange(math.prod(sides))
    if reshape:
        numbers = numbers.reshape([int(n) for n in reshape.split(",")])
    elif order:
        numbers = numbers.reshape(sides)
    if order:
        numbers = numbers.transpose([int(n) for n in order.split(",")])
    return numbers.reshape(sides) if reshape or not order else numbers


def _of_mesh(match: re.Match[str]) -> tuple[int, ...]:
    sizes = {name: int(size) for name, size in _SIZE.findall(match[1])}
    axes = re.findall(r"'([^']+)'", match[6])
    known = bool(sizes) and all(axis in sizes for axis in axes)
    ids = _iota(match[3], match[4], match[5]) if match[2] else None
    if not known or (ids is not None and ids.size != math.prod(sizes.values())):
        raise ProgramError(
            f"cannot read {match[0]!r}",
            expected="a mesh that has the axes of the group, and as many devices",
            do="report it with the version of jax and libtpu",
        )
    flat = np.arange(math.prod(sizes.values())) if ids is None else ids.ravel()
    grid = flat.reshape(list(sizes.values()))
    picked = grid[tuple(slice(None) if name in axes else 0 for name in sizes)]
    return tuple(int(n) for n in picked.ravel())


def _chain(pairs: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    after: dict[int, int] = {pair[0]: pair[1] for pair in pairs}
    before = {target: source for source, target in after.items()}
    seen = dict.fromkeys(pairs[0][:1]) if pairs else {}
    for step in (after, before):
        place = pairs[0][0] if pairs else -1
        while place in step and step[place] not in seen:
            place = step[place]
            seen[place] = None
    return tuple(seen)
