"""A layout in a table: where each leaf of a state lies, why, and what it takes on a device.

Reads from: protocols, tree_paths, layouts.placing, layouts.states. Used by: cli, by hand.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
from jax.sharding import NamedSharding, PartitionSpec

from jaxdl.layouts.placing import Layout
from jaxdl.layouts.states import state_placings
from jaxdl.protocols import PyTree
from jaxdl.tree_paths import leaf_paths

__all__ = ["Explanation", "Row", "explain"]

_HEADER = ("path", "shape", "spec", "reason", "bytes per device")


class Row(NamedTuple):
    """One leaf of the state.

    Attributes:
        path: its path in the state.
        shape: its global shape.
        spec: how it is divided.
        reason: why.
        bytes_per_device: bytes of its part on one device.
    """

    path: str
    shape: tuple[int, ...]
    spec: PartitionSpec
    reason: str
    bytes_per_device: int


@dataclass(frozen=True)
class Explanation:
    """What a layout makes of a state; printed, it is a table.

    Attributes:
        mesh: ``(name, size)`` of each mesh axis.
        rows: one a leaf, in tree order.
    """

    mesh: tuple[tuple[str, int], ...]
    rows: tuple[Row, ...]

    @property
    def total(self) -> int:
        """Bytes of the whole state on one device."""
        return sum(row.bytes_per_device for row in self.rows)

    def __str__(self) -> str:
        cells = [
            (
                row.path,
                str(list(row.shape)),
                _spec(row.spec),
                row.reason,
                f"{row.bytes_per_device:,}",
            )
            for row in self.rows
        ]
        mesh = " x ".join(f"{name} {size}" for name, size in self.mesh)
        table = [_HEADER, *cells, ("total", "", "", f"mesh: {mesh}", f"{self.total:,}")]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [
            "  ".join([*map(str.ljust, line[:-1], widths), line[-1].rjust(widths[-1])])
            for line in table
        ]
        rule = "-" * len(lines[0])
        return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])


def explain(
    state: PyTree, layout: Layout, devices: Sequence[Any] | int | None = None
) -> Explanation:
    """Says where a layout puts each leaf of a state, why, and how many bytes a device holds.

    Allocates nothing: ``jax.eval_shape(step.init, key, batch)`` makes a state that will do.

    Args:
        state: a ``TrainState`` of arrays or ``jax.ShapeDtypeStruct``.
        layout: the layout.
        devices: the devices, or how many there would be; all of ``jax.devices()`` when ``None``.

    Raises:
        PathError: a rule's pattern finds no parameter.
        LayoutError: the layout does not fit the devices, or a rule its parameter.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxdl.layouts import fsdp
        >>> state = {"kernel": jax.ShapeDtypeStruct((512, 64), jnp.float32)}
        >>> print(explain(state, fsdp(), devices=8))
        path    shape      spec       reason                           bytes per device
        -------------------------------------------------------------------------------
        kernel  [512, 64]  P('fsdp')  fsdp: dimension 0 of 512 over 8            16,384
        -------------------------------------------------------------------------------
        total                         mesh: fsdp 8                               16,384
    """
    if not isinstance(devices, int):
        devices = len(jax.devices() if devices is None else devices)
    mesh = layout.abstract_mesh(devices)
    rows = tuple(
        Row(path, leaf.shape, placing.spec, placing.reason, _bytes(leaf, placing.spec, mesh))
        for path, leaf, placing in zip(
            leaf_paths(state),
            jax.tree.leaves(state),
            state_placings(layout, mesh, state),
            strict=True,
        )
    )
    return Explanation(tuple(mesh.shape.items()), rows)


def _bytes(leaf: Any, spec: PartitionSpec, mesh: Any) -> int:
    part = NamedSharding(mesh, spec).shard_shape(leaf.shape)
    return math.prod(part) * leaf.dtype.itemsize


def _spec(spec: PartitionSpec) -> str:
    return f"P({', '.join(map(repr, spec))})"
