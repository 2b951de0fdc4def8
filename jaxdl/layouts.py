"""Where each array of a run lies: named mesh axes, and rules from parameter paths to specs.

A layout is a value. It knows no model and touches no device until ``make_mesh``; every spec it
gives comes with the reason for it.

Reads from: errors, tree_paths. Used by: placement, recipe, tpu.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdl.errors import LayoutError
from jaxdl.protocols import PyTree
from jaxdl.tree_paths import leaf_paths, map_with_path, match_mask

__all__ = [
    "Layout",
    "Placing",
    "data_parallel",
    "layout",
    "nearest_sizes",
    "single",
    "state_shardings",
]


class Placing(NamedTuple):
    """Where one leaf lies, and why."""

    spec: PartitionSpec
    reason: str


@dataclass(frozen=True)
class Layout:
    """Named mesh axes with rules. Build one with ``data_parallel``, ``single`` or ``layout``.

    Attributes:
        axes: ``(name, size)`` of each mesh axis, outermost first; one size may be -1, which takes
            the devices that are left.
        batch_axes: the axes that a batch's rows are divided over.
        rules: ``(regular expression, PartitionSpec)``; the first that finds a parameter's path
            holds. A parameter that none finds is replicated.
    """

    axes: tuple[tuple[str, int], ...]
    batch_axes: tuple[str, ...]
    rules: tuple[tuple[str, PartitionSpec], ...] = ()

    def make_mesh(self, devices: Sequence[Any]) -> Mesh:
        """Arranges devices into the mesh.

        The axes are of type Auto: the compiler places what the rules leave open.

        Args:
            devices: the devices to use; a layout without a -1 axis takes the first it needs.

        Raises:
            LayoutError: the axes' sizes do not fit the number of devices.
        """
        shape = self._shape(len(devices))
        chosen = np.asarray(devices[: math.prod(shape)], dtype=object).reshape(shape)
        return Mesh(chosen, tuple(name for name, _ in self.axes))

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

    def place(self, path: str, shape: tuple[int, ...], mesh: Mesh) -> Placing:
        """The spec of one parameter, and the reason.

        Args:
            path: the parameter's path, such as ``dense_0/kernel``.
            shape: its shape.
            mesh: the mesh that the spec is for.

        Raises:
            LayoutError: the rule names an unknown axis, has more entries than the parameter has
                dimensions, or a dimension does not divide over its axis.
        """
        for pattern, spec in self.rules:
            if re.search(pattern, path):
                _check_spec(path, shape, pattern, spec, mesh)
                return Placing(spec, f"rule {pattern!r}")
        return Placing(PartitionSpec(), "no rule: replicated")

    def batch_spec(self) -> PartitionSpec:
        """The spec of every batch field: rows over the batch axes, the rest whole."""
        return PartitionSpec(self.batch_axes) if self.batch_axes else PartitionSpec()

    def batch_shards(self, mesh: Mesh) -> int:
        """Over how many parts a batch's rows are divided."""
        return math.prod(mesh.shape[name] for name in self.batch_axes)


def _check_spec(
    path: str, shape: tuple[int, ...], pattern: str, spec: PartitionSpec, mesh: Mesh
) -> None:
    if len(spec) > len(shape):
        raise LayoutError(
            f"rule {pattern!r} gives {path} of shape {list(shape)} the spec {spec}",
            expected=f"at most {len(shape)} entries",
            do="shorten the spec, or narrow the pattern",
        )
    for dimension, entry in enumerate(spec):
        names = () if entry is None else entry if isinstance(entry, tuple) else (entry,)
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


def data_parallel() -> Layout:
    """Every parameter on every device, the batch's rows divided over all of them."""
    return Layout(axes=(("data", -1),), batch_axes=("data",))


def single() -> Layout:
    """One device, whatever the machine has."""
    return Layout(axes=(("data", 1),), batch_axes=("data",))


def layout(
    *,
    mesh: Mapping[str, int],
    rules: Sequence[tuple[str, PartitionSpec]] = (),
    batch_axes: Sequence[str] | None = None,
) -> Layout:
    """A layout of one's own.

    Args:
        mesh: size of each named axis, outermost first; one may be -1.
        rules: ``(regular expression, PartitionSpec)`` pairs for parameter paths, first match holds.
        batch_axes: the axes that divide the batch; by default those of ``data`` and ``fsdp`` that
            the mesh has, else the first axis.

    Raises:
        LayoutError: a batch axis is not in the mesh.

    Examples:
        >>> layout(mesh={"data": -1, "tensor": 2}).batch_axes
        ('data',)
    """
    if batch_axes is None:
        batch_axes = [name for name in ("data", "fsdp") if name in mesh] or list(mesh)[:1]
    unknown = [name for name in batch_axes if name not in mesh]
    if unknown:
        raise LayoutError(
            f"batch_axes names {unknown}",
            expected=f"axes of the mesh: {', '.join(mesh)}",
            do="name the axes that divide the batch's rows",
        )
    return Layout(axes=tuple(mesh.items()), batch_axes=tuple(batch_axes), rules=tuple(rules))


def state_shardings(chosen: Layout, mesh: Mesh, state: PyTree) -> PyTree:
    """The sharding of every leaf of a train state.

    A leaf of the optimizer's state or of the EMA follows the parameter whose path it ends with
    and whose shape it has; everything else (counters, keys, statistics) is replicated.

    Args:
        chosen: the layout.
        mesh: its mesh.
        state: a ``TrainState`` of arrays or ``jax.ShapeDtypeStruct``; in a state of another
            type, which has no ``params``, every leaf counts as a parameter.

    Returns:
        A tree of ``NamedSharding`` of the state's structure.

    Raises:
        PathError: a rule's pattern finds no parameter.
        LayoutError: as ``Layout.place``.
    """
    params = getattr(state, "params", state)
    if chosen.rules:
        match_mask([pattern for pattern, _ in chosen.rules], params)
    specs = {
        path: (leaf.shape, chosen.place(path, leaf.shape, mesh).spec)
        for path, leaf in zip(leaf_paths(params), jax.tree.leaves(params), strict=True)
    }

    def sharding(path: str, leaf: Any) -> NamedSharding:
        parts = path.split("/")
        for start in range(len(parts)):
            shape, spec = specs.get("/".join(parts[start:]), (None, None))
            if spec is not None and shape == leaf.shape:
                return NamedSharding(mesh, spec)
        return NamedSharding(mesh, PartitionSpec())

    return map_with_path(sharding, state)
