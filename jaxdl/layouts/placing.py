"""A layout, and where it puts one array: by a rule for its path, by its size, or everywhere.

A layout is a value. It knows no model and touches no device until ``make_mesh``; every spec it
gives comes with the reason for it.

Reads from: errors, layouts.arranging. Used by: the rest of layouts, placement, gradients, recipe.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from jax.sharding import AbstractMesh, Mesh, PartitionSpec

from jaxdl.errors import LayoutError
from jaxdl.layouts.arranging import arrange

__all__ = ["MIN_SIZE", "Layout", "Placing", "Role", "nearest_sizes"]

MIN_SIZE = 2**12
"""Elements below which an array is kept whole on every device.

That is 16 KiB in float32. Kept whole, such an array (a bias, a norm) takes next to no memory, while
to gather it costs a collective's latency at every step, however small it is.
"""

Role = Literal["parameter", "optimizer"]


class Placing(NamedTuple):
    """Where one leaf lies, and why."""

    spec: PartitionSpec
    reason: str


@dataclass(frozen=True)
class Layout:
    """Named mesh axes with rules. Build one with ``data_parallel``, ``fsdp``, ``layout``, ...

    Attributes:
        axes: ``(name, size)`` of each mesh axis, outermost first; one size may be -1, which takes
            the devices that are left.
        batch_axes: the axes that a batch's rows are divided over.
        rules: ``(regular expression, PartitionSpec)``; the first that finds a parameter's path
            holds.
        shard_axis: the axis that divides the largest dimension left whole by the rules; ``None``
            replicates what no rule finds.
        min_size: arrays of fewer elements are not divided over ``shard_axis``.
        sharded: what is divided over ``shard_axis``: the whole ``"state"``, or the
            ``"optimizer"``'s state and the moving average alone.
    """

    axes: tuple[tuple[str, int], ...]
    batch_axes: tuple[str, ...]
    rules: tuple[tuple[str, PartitionSpec], ...] = ()
    shard_axis: str | None = None
    min_size: int = MIN_SIZE
    sharded: Literal["state", "optimizer"] = "state"

    def make_mesh(self, devices: Sequence[Any]) -> Mesh:
        """Arranges devices into the mesh.

        The axes are of type Auto: the compiler places what the rules leave open. TPU chips are
        arranged so that neighbours along an axis are neighbours in the torus; of several slices,
        the outermost axes run over the network between them.

        Args:
            devices: the devices to use; a layout without a -1 axis takes the first it needs.

        Raises:
            LayoutError: the axes' sizes do not fit the number of devices, or of slices.
        """
        names = tuple(name for name, _ in self.axes)
        shape = self._shape(len(devices))
        return Mesh(
            arrange(devices[: math.prod(shape)], dict(zip(names, shape, strict=True))), names
        )

    def abstract_mesh(self, count: int) -> AbstractMesh:
        """The mesh of so many devices, with no device in it.

        Args:
            count: how many devices there would be.

        Raises:
            LayoutError: as ``make_mesh``.
        """
        return AbstractMesh(self._shape(count), tuple(name for name, _ in self.axes))

    def _shape(self, count: int) -> tuple[int, ...]:
        sizes = [size for _, size in self.axes]
        fixed = math.prod(size for size in sizes if size != -1)
        open_axes = sizes.count(-1)
        if open_axes > 1 or fixed < 1 or count < fixed or (open_axes and count % fixed):
            raise LayoutError(
                f"the mesh axes {dict(self.axes)} do not fit {count} device(s)",
                expected=f"sizes whose product divides {count}, at most one of them -1",
                do="change the layout's axes or pass other devices",
            )
        return tuple(count // fixed if size == -1 else size for size in sizes)

    def place(
        self,
        path: str,
        shape: tuple[int, ...],
        mesh: Mesh | AbstractMesh,
        *,
        role: Role = "parameter",
    ) -> Placing:
        """The spec of one parameter, or of the optimizer's state for it, and the reason.

        Args:
            path: the parameter's path, such as ``dense_0/kernel``.
            shape: its shape.
            mesh: the mesh that the spec is for.
            role: ``"optimizer"`` for what the optimizer and the moving average keep of it.

        Raises:
            LayoutError: the rule names an unknown axis, has more entries than the parameter has
                dimensions, or a dimension does not divide over its axis.
        """
        spec, reason = PartitionSpec(), ""
        for pattern, ruled in self.rules:
            if re.search(pattern, path):
                _check_spec(path, shape, pattern, ruled, mesh)
                spec, reason = ruled, f"rule {pattern!r}"
                break
        if self.shard_axis is None or self.shard_axis in _names(spec):
            return Placing(spec, reason or "no rule: replicated")
        if self.sharded == "optimizer" and role == "parameter":
            return Placing(spec, reason or "only the optimizer state is divided: replicated")
        spec, why = self._by_size(spec, shape, mesh)
        return Placing(spec, f"{reason}; {why}" if reason else why)

    def place_other(self, shape: tuple[int, ...], mesh: Mesh | AbstractMesh) -> Placing:
        """Where a leaf of the optimizer's state lies that has no parameter's shape.

        Args:
            shape: its shape, such as a row of Adafactor's statistics.
            mesh: the mesh that the spec is for.
        """
        if self.shard_axis is None:
            return Placing(PartitionSpec(), "no parameter's shape: replicated")
        return self._by_size(PartitionSpec(), shape, mesh)

    def _by_size(
        self, spec: PartitionSpec, shape: tuple[int, ...], mesh: Mesh | AbstractMesh
    ) -> Placing:
        """Divides the largest dimension that the spec leaves whole, the first of equals."""
        axis = self.shard_axis or ""
        if axis not in mesh.shape:
            raise LayoutError(
                f"the layout divides arrays over the axis {axis!r}",
                expected=f"one of {', '.join(mesh.shape)}",
                do="name an axis of the mesh as shard_axis",
            )
        parts, elements = mesh.shape[axis], math.prod(shape)
        entries = [*spec, *[None] * (len(shape) - len(spec))]
        suffix = "" if any(_names(spec)) else ", replicated"
        if elements < self.min_size:
            unit = "element" if elements == 1 else "elements"
            return Placing(spec, f"small: {elements} {unit}{suffix}")
        free = [d for d, n in enumerate(shape) if entries[d] is None and n and n % parts == 0]
        if not free:
            return Placing(spec, f"no dimension divides by {parts}{suffix.replace(',', ':')}")
        chosen = max(free, key=lambda d: shape[d])
        entries = [axis if d == chosen else entry for d, entry in enumerate(entries)]
        while entries[-1] is None:
            entries.pop()
        reason = f"{axis}: dimension {chosen} of {shape[chosen]} over {parts}"
        return Placing(PartitionSpec(*entries), reason)

    def batch_spec(self) -> PartitionSpec:
        """The spec of every batch field: rows over the batch axes, the rest whole."""
        return PartitionSpec(self.batch_axes) if self.batch_axes else PartitionSpec()

    def batch_shards(self, mesh: Mesh) -> int:
        """Over how many parts a batch's rows are divided."""
        return math.prod(mesh.shape[name] for name in self.batch_axes)


def _axes_of(entry: Any) -> tuple[str, ...]:
    """The mesh axes that one entry of a spec names."""
    return () if entry is None else entry if isinstance(entry, tuple) else (entry,)


def _names(spec: PartitionSpec) -> set[str]:
    return {name for entry in spec for name in _axes_of(entry)}


def _check_spec(
    path: str,
    shape: tuple[int, ...],
    pattern: str,
    spec: PartitionSpec,
    mesh: Mesh | AbstractMesh,
) -> None:
    if len(spec) > len(shape):
        raise LayoutError(
            f"rule {pattern!r} gives {path} of shape {list(shape)} the spec {spec}",
            expected=f"at most {len(shape)} entries",
            do="shorten the spec, or narrow the pattern",
        )
    for dimension, entry in enumerate(spec):
        names = _axes_of(entry)
        for name in names:
            if name not in mesh.shape:
                raise LayoutError(
                    f"rule {pattern!r} for {path} names the mesh axis {name!r}",
                    expected=f"one of {', '.join(mesh.shape)}",
                    do="mend the rule or add the axis to the layout",
                )
        size = math.prod(mesh.shape[name] for name in names)
        if shape[dimension] % size:
            raise LayoutError(
                f"{path} of shape {list(shape)} does not divide: rule {pattern!r} splits dimension "
                f"{dimension} ({shape[dimension]}) over axis {entry!r} of size {size}",
                expected=f"a multiple of {size}, such as {nearest_sizes(shape[dimension], size)}",
                do="change that size, the axis, or the rule",
            )


def nearest_sizes(size: int, divisor: int) -> str:
    """The multiples of ``divisor`` on either side of ``size``, in words.

    Args:
        size: what does not divide.
        divisor: what it should be a multiple of.

    Examples:
        >>> nearest_sizes(30, 8)
        '24 or 32'
        >>> nearest_sizes(3, 8)
        '8'
    """
    below = size // divisor * divisor
    above = below + divisor
    return f"{below} or {above}" if below else f"{above}"
