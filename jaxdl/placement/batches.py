"""How a batch gets onto the devices: checked, padded, masked and divided over the mesh.

Reads from: errors, protocols, layouts, data.padding. Used by: placement.jit, placement.pmap.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from jaxdl import data
from jaxdl.errors import BatchError, LayoutError
from jaxdl.layouts import nearest_sizes
from jaxdl.protocols import MASK, PyTree
from jaxdl.tree_paths import leaf_paths

__all__ = ["BatchPlacer"]


class BatchPlacer:
    """Puts host batches on the devices, each with the rows of the first.

    For one CPU device a checked host batch is placed already.

    Args:
        sharding: the sharding of every field.
        shards: over how many parts of this process rows are divided.
        pad: whether rows are added, with a mask, to make the batch divide.
        shape: reshapes a checked host field before it is moved (``pmap``'s leading axis).
    """

    def __init__(
        self,
        sharding: NamedSharding,
        shards: int,
        *,
        pad: bool,
        shape: Callable[[Any], Any] | None = None,
    ):
        self._sharding = sharding
        self._shards = shards
        self._pad = pad
        self._shape = shape
        self._rows: int | None = None
        self._masked = False
        # One CPU device reads host arrays where they are, faster than device_put hands them over.
        devices: Any = sharding.mesh.devices
        first, *others = devices.flat
        self._stays = first.platform == "cpu" and not others and shape is None

    def put(self, batch: PyTree) -> PyTree:
        """The batch on the devices; one that lies there already is given back as it is.

        Args:
            batch: arrays with a common first axis ``B``; on many hosts, this host's rows. Of
                ``jax.ShapeDtypeStruct``, which stand for a batch of all hosts, the same come back
                with their shardings.

        Returns:
            The same structure of arrays that the program takes as they are, with a ``mask``
            when rows were added.

        Raises:
            BatchError: a field is no array, has no rows, or another number of them.
            LayoutError: the rows do not divide over the devices and padding is off.
        """
        leaves = jax.tree.leaves(batch)
        if leaves and all(self._is_placed(leaf) for leaf in leaves):
            return batch
        rows = _rows(batch, leaves)
        if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves):
            return self._abstract(batch, rows)
        batch = self._padded(batch, rows)
        if self._rows is None:
            self._rows = jax.tree.leaves(batch)[0].shape[0]
            self._masked = isinstance(batch, Mapping) and MASK in batch
        if self._stays and all(isinstance(leaf, np.ndarray) for leaf in leaves):
            return batch
        return self._moved(batch)

    def _is_placed(self, leaf: Any) -> bool:
        if not isinstance(leaf, jax.Array):
            return False
        return leaf.sharding is self._sharding or leaf.sharding == self._sharding

    def _abstract(self, batch: PyTree, rows: int) -> PyTree:
        """Shapes stand for a whole batch, to which no rows can be added."""
        if rows % (shards := self._shards * jax.process_count()):
            raise _uneven(rows, shards, do="change the batch size")
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self._sharding), batch
        )

    def _padded(self, batch: PyTree, rows: int) -> PyTree:
        size = -(-rows // self._shards) * self._shards
        if self._masked and self._rows is not None:
            size = max(size, self._rows)
        needs_mask = self._masked and MASK not in batch
        if size == rows and not needs_mask:
            return batch
        if not self._pad:
            raise _uneven(
                rows, self._shards, do="change the batch size, or leave padding on (pad=True)"
            )
        if not isinstance(batch, Mapping):
            raise BatchError(
                f"a batch of {rows} rows must be padded to {size}, but it is a "
                f"{type(batch).__name__}, which has no place for a mask",
                expected="a mapping of arrays, or rows that divide over the devices",
                do="give a dictionary whose loss honours batch['mask'], or change the batch size",
            )
        return data.pad_batch(jax.tree.map(np.asarray, dict(batch)), size)

    def _moved(self, batch: PyTree) -> PyTree:
        if self._shape is not None:
            batch = jax.tree.map(self._shape, batch)
        if jax.process_count() == 1:
            return jax.device_put(batch, self._sharding)
        return jax.tree.map(
            lambda x: jax.make_array_from_process_local_data(self._sharding, np.asarray(x)), batch
        )


def _uneven(rows: int, shards: int, *, do: str) -> LayoutError:
    return LayoutError(
        f"a batch of {rows} rows does not divide over {shards} devices",
        expected=f"a multiple of {shards}, such as {nearest_sizes(rows, shards)}",
        do=do,
    )


def _rows(batch: PyTree, leaves: list[Any]) -> int:
    """The number of rows of a batch of arrays; anything else is an error."""
    shapes: list[tuple[int, ...]] = [getattr(leaf, "shape", ()) for leaf in leaves]
    even = leaves and all(shapes) and len({shape[0] for shape in shapes}) == 1 and shapes[0][0]
    if even and all(leaf.dtype.kind not in "OSUM" for leaf in leaves):
        return shapes[0][0]
    raise _wrong_rows(batch)


def _wrong_rows(batch: PyTree) -> BatchError:
    counts: dict[str, int] = {}
    for path, leaf in zip(leaf_paths(batch), jax.tree.leaves(batch), strict=True):
        dtype = getattr(leaf, "dtype", None)
        if dtype is None or getattr(leaf, "ndim", 0) == 0 or dtype.kind in "OSUM":
            got = type(leaf).__name__ if dtype is None else f"{dtype}{list(leaf.shape)}"
            return BatchError(
                f"batch field {path!r} is {got}",
                expected="an array of numbers whose first axis is the batch",
                do="convert it with numpy.asarray, or leave the field out of the batch",
            )
        counts[path] = leaf.shape[0]
    return BatchError(
        f"the batch's fields have these numbers of rows: {counts or 'no fields'}",
        expected="one number of rows for all fields, at least 1",
        do="give every field one entry an example",
    )
