"""Two checkpoints compared, tensor by tensor, without the recipes that made them.

Reads from: checkpoints.manifest, .reading, .tensors. Used by: cli, and by hand.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from jaxdl.checkpoints.manifest import Entry, Manifest, read_manifest
from jaxdl.checkpoints.reading import STATE, read_checked
from jaxdl.checkpoints.tensors import Spec, in_words

__all__ = ["Comparison", "Difference", "Verdict", "diff"]

Verdict: TypeAlias = Literal[
    "equal", "values differ", "shape differs", "dtype differs", "only in a", "only in b"
]

_CHUNK = 1 << 20


class Difference(NamedTuple):
    """One tensor of two checkpoints.

    Attributes:
        path: in the state, such as ``params/dense_0/kernel``.
        verdict: whether it is equal, and if not, how it differs.
        a: what it is in the first checkpoint; ``None`` when it is not there.
        b: what it is in the second.
        max_abs: the largest absolute difference of two entries, in float64; NaN where one of the
            two is NaN. ``None`` where entries cannot be paired.
        entries: how many entries differ: in any bit, or in value where the dtypes differ.
    """

    path: str
    verdict: Verdict
    a: Spec | None
    b: Spec | None
    max_abs: float | None = None
    entries: int | None = None


class Comparison(tuple[Difference, ...]):
    """Every tensor of two states, by path. ``str()`` lists those that are not equal."""

    __slots__ = ()

    def same(self) -> bool:
        """Whether the states are equal to the bit."""
        return not self.differing()

    def differing(self) -> tuple[Difference, ...]:
        """The tensors that are not equal."""
        return tuple(each for each in self if each.verdict != "equal")

    def __str__(self) -> str:
        differing = self.differing()
        counts = f"{len(self) - len(differing)} tensors are equal, {len(differing)} are not"
        return "\n".join([*map(_line, differing), counts])


def _line(row: Difference) -> str:
    both = row.a is not None and row.b is not None and row.a != row.b
    what = " and ".join(in_words(spec) for spec in (row.a, row.b) if spec is not None)
    text = f"{row.path}: {row.verdict}"
    if both or row.verdict.startswith("only"):
        text += f", {what}"
    if row.max_abs is not None:
        text += f", {row.entries:,} entries, by at most {row.max_abs:.3g}"
    return text


def diff(a: Path, b: Path) -> Comparison:
    """Compares the states of two checkpoints.

    Tensors with the same hashes are equal; only the others are read, and their hashes compared.
    What the loop remembers beside the state does not count.

    Args:
        a: the folder of one checkpoint, such as ``RUN/checkpoints/200``.
        b: of the other.

    Returns:
        A row a tensor, those of ``a`` first.

    Raises:
        DamagedError: a manifest or a tensor that was read is not what was written.
    """
    a, b = Path(a), Path(b)
    one, other = _state(read_manifest(a)), _state(read_manifest(b))
    rows: list[Difference] = []
    for path in dict.fromkeys([*one, *other]):
        if path not in one or path not in other:
            verdict = "only in a" if path in one else "only in b"
            specs = [each[path].spec if path in each else None for each in (one, other)]
            rows.append(Difference(path, verdict, specs[0], specs[1]))
        else:
            rows.append(_compared(path, (a, one[path]), (b, other[path])))
    return Comparison(rows)


def _state(manifest: Manifest) -> dict[str, Entry]:
    return {
        name.removeprefix(STATE): entry
        for name, entry in manifest.tensors.items()
        if name.startswith(STATE)
    }


def _compared(path: str, one: tuple[Path, Entry], other: tuple[Path, Entry]) -> Difference:
    a, b = one[1].spec, other[1].spec
    if a.shape != b.shape:
        return Difference(path, "shape differs", a, b)
    if a.generator != b.generator:
        return Difference(path, "dtype differs", a, b)
    if a == b and sorted(one[1].blocks) == sorted(other[1].blocks):
        return Difference(path, "equal", a, b, 0.0, 0)
    values = [read_checked(folder, STATE + path, entry) for folder, entry in (one, other)]
    max_abs, entries = _distance(values[0], values[1])
    verdict: Verdict = "values differ" if entries else "equal"
    return Difference(path, verdict if a == b else "dtype differs", a, b, max_abs, entries)


def _distance(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> tuple[float, int]:
    """The largest absolute difference, and how many entries differ."""
    largest, entries = 0.0, 0
    for x, y in _chunks(a, b):
        differ = _bits(x) != _bits(y) if x.dtype == y.dtype else ~_equal(_wide(x), _wide(y))
        differ = differ.reshape(len(x), -1).any(axis=1)
        if differ.any():
            with np.errstate(invalid="ignore", over="ignore"):
                distance = np.abs(_wide(x[differ]) - _wide(y[differ]))
            largest = float(np.maximum(largest, distance.max()))
            entries += int(differ.sum())
    return largest, entries


def _chunks(
    a: npt.NDArray[Any], b: npt.NDArray[Any]
) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
    """Float64 copies of whole tensors would not fit where the tensors just do."""
    flat = np.ascontiguousarray(a).reshape(-1), np.ascontiguousarray(b).reshape(-1)
    for start in range(0, a.size, _CHUNK):
        yield flat[0][start : start + _CHUNK], flat[1][start : start + _CHUNK]


def _bits(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    return values.view(np.uint8)


def _equal(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    return (a == b) | (np.isnan(a) & np.isnan(b))


def _wide(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return values.astype(np.complex128 if values.dtype.kind == "c" else np.float64)
