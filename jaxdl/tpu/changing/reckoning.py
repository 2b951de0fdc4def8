"""What a change of a program can do for its memory at best, before any compile.

Reads from: errors, layouts, placement.guard, protocols, tpu.changing.changes. Used by:
tpu.changing.search.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
from jax.sharding import NamedSharding, PartitionSpec

from jaxdl.errors import LayoutError, PathError
from jaxdl.layouts import Layout, nearest_sizes, state_placings
from jaxdl.placement.guard import leaf_bytes
from jaxdl.protocols import PyTree
from jaxdl.tpu.changing.changes import Change

__all__ = ["Reckoning", "Refused", "argument_bytes", "gib"]


class Refused(NamedTuple):
    """Why a change need not be compiled.

    Attributes:
        needed: the least bytes on one device, where that is why.
        why: in words, with the figures.
    """

    needed: int | None
    why: str


class Reckoning:
    """What is known of a program's memory, and what follows for its changes.

    Args:
        state: arrays or ``jax.ShapeDtypeStruct``; no change alters their shapes.
        batch: the global one, likewise.
        devices: how many there are.
        available: bytes on one device.
    """

    def __init__(self, state: PyTree, batch: PyTree, devices: int, available: int):
        self.available = available
        self._state, self._batch, self._devices = state, batch, devices
        self._held: dict[Layout, int | str] = {}
        self._needs: dict[Change, int] = {}

    def learn(self, change: Change, needed: int) -> None:
        """Keeps what the compiler says that a change needs.

        Args:
            change: one that was compiled.
            needed: bytes on one device.
        """
        self._needs[change] = needed

    def held(self, layout: Layout) -> int | str:
        """Bytes of state and batch on one device, or why the layout does not fit the slice.

        Args:
            layout: where they lie.
        """
        if layout not in self._held:
            try:
                found = argument_bytes(layout, self._devices, self._state, self._batch)
            except (LayoutError, PathError) as error:
                found = error.what
            self._held[layout] = found
        return self._held[layout]

    def lighter(self, layouts: tuple[Layout, ...], than: Layout) -> tuple[Layout, ...]:
        """The layouts that keep less on a device than every one before them.

        Those with other axes for the batch stay, since they divide its activations differently,
        and so do those that do not fit, whose reason is still to be said.

        Args:
            layouts: in order.
            than: comes before the first.
        """
        least, kept = self.held(than), list[Layout]()
        for each in layouts:
            held = self.held(each)
            alike = self.shards(each) == self.shards(than)
            if alike and isinstance(held, int) and isinstance(least, int) and held >= least:
                continue
            kept.append(each)
            least = held if isinstance(held, int) and alike else least
        return tuple(kept)

    def refuse_layout(self, layout: Layout) -> Refused | None:
        """Why no change does that keeps a layout; ``None`` when one may.

        Args:
            layout: the layout.
        """
        held = self.held(layout)
        if isinstance(held, str):
            return Refused(None, held)
        if held > self.available:
            words = f"state and batch alone take {gib(held)} of {gib(self.available)}"
            return Refused(held, words)
        return None

    def refuse(self, change: Change) -> Refused | None:
        """Why a change cannot do; ``None`` when the compiler must say.

        Args:
            change: one to try.
        """
        if (whole := self.refuse_layout(change.placed)) is not None:
            return whole
        rows, shards = jax.tree.leaves(self._batch)[0].shape[0], self.shards(change.placed)
        each = -(-rows // shards)
        if change.microbatches > 1 and each % change.microbatches:
            return Refused(
                None,
                f"{each} rows on each of {shards} parts do not divide into {change.microbatches} "
                f"microbatches ({nearest_sizes(rows, shards * change.microbatches)} would)",
            )
        best = self.estimate(change)
        if best is not None and best > self.available:
            words = f"at best it needs {gib(best)} of {gib(self.available)}"
            return Refused(best, f"{words}, by what fewer microbatches need")
        return None

    def estimate(self, change: Change) -> int | None:
        """Bytes when more microbatches do all they can: cut the temporaries into equal parts.

        Args:
            change: one to try.

        Returns:
            ``None`` when no change is known that differs in the number of microbatches alone.
        """
        held, alike = self.held(change.placed), list[tuple[int, int]]()
        for known, needed in self._needs.items():
            same = (known.remat, known.placed) == (change.remat, change.placed)
            if same and known.microbatches < change.microbatches:
                alike.append((known.microbatches, needed))
        if not alike or isinstance(held, str):
            return None
        nearest, needed = max(alike)
        return held + max(0, needed - held) * nearest // change.microbatches

    def shards(self, layout: Layout) -> int:
        """Over how many parts a layout divides the batch's rows; 1 when it does not fit.

        Args:
            layout: the layout.
        """
        try:
            mesh = layout.abstract_mesh(self._devices)
        except LayoutError:
            return 1
        return math.prod(mesh.shape[name] for name in layout.batch_axes)


def argument_bytes(layout: Layout, devices: int, state: PyTree, batch: PyTree) -> int:
    """Bytes of a step's state and batch on one device, which no compiler can make less.

    Args:
        layout: where they lie.
        devices: how many there are.
        state: arrays or ``jax.ShapeDtypeStruct``.
        batch: the global one, likewise.

    Raises:
        PathError: a rule's pattern finds no parameter.
        LayoutError: the layout does not fit the devices, or a rule its parameter.
    """
    mesh = layout.abstract_mesh(devices)
    placings = state_placings(layout, mesh, state)
    specs = [placing.spec for placing in placings]
    held = sum(map(leaf_bytes, map(_placed, jax.tree.leaves(state), specs, [mesh] * len(specs))))
    shards = math.prod(mesh.shape[name] for name in layout.batch_axes)
    rows = sum(leaf_bytes(jax.ShapeDtypeStruct(x.shape, x.dtype)) for x in jax.tree.leaves(batch))
    return held + rows // shards


def _placed(leaf: Any, spec: PartitionSpec, mesh: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))


def gib(size: int) -> str:
    """Bytes in words, such as ``"15.75 GiB"``.

    Args:
        size: bytes.
    """
    return f"{size / 2**30:.2f} GiB"
