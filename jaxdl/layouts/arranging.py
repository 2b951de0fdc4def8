"""Devices in the order of a mesh: neighbours in the torus, slices along the outermost axes.

Reads from: errors. Used by: layouts.placing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jax.experimental import mesh_utils

from jaxdl.errors import LayoutError

__all__ = ["arrange"]


def arrange(devices: Sequence[Any], axes: Mapping[str, int]) -> np.ndarray:
    """The devices as an array of the mesh's shape.

    TPU devices are laid along their torus by ``jax.experimental.mesh_utils``. Those of several
    slices are divided over the outermost axes first, so that the traffic of the inner axes stays
    within a slice. Other devices keep their order.

    Args:
        devices: as many as the mesh has places.
        axes: the size of each axis, outermost first.

    Raises:
        LayoutError: the outermost axes cannot be divided over the slices.
    """
    shape = tuple(axes.values())
    plain = np.asarray(devices, dtype=object).reshape(shape)
    if devices[0].platform != "tpu" or len(devices) == 1:
        return plain
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    try:
        if slices == 1:
            return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
        outer = _over_slices(axes, slices)
        inner = [size // part for size, part in zip(shape, outer, strict=True)]
        return mesh_utils.create_hybrid_device_mesh(
            inner, outer, devices, allow_split_physical_axes=True
        )
    except (NotImplementedError, AssertionError, ValueError) as error:
        if isinstance(error, LayoutError):
            raise
        # A part of a slice, or a shape that no assignment of the torus fits, still makes a mesh.
        if slices > 1:
            raise _no_fit(axes, slices) from error
        return plain


def _over_slices(axes: Mapping[str, int], slices: int) -> list[int]:
    """How many slices each axis runs over, the outermost axes first."""
    left, parts = slices, []
    for size in axes.values():
        part = math.gcd(left, size)
        parts.append(part)
        left //= part
        if left > 1 and part < size:
            # An inner axis would cross slices while an outer one still had room within them.
            break
    if left > 1:
        raise _no_fit(axes, slices)
    return parts + [1] * (len(axes) - len(parts))


def _no_fit(axes: Mapping[str, int], slices: int) -> LayoutError:
    return LayoutError(
        f"the mesh {dict(axes)} cannot be divided over {slices} slices",
        expected=f"outermost axes whose product is a multiple of {slices}, with whole inner axes "
        "in each slice",
        do=f"begin the layout with an axis of {slices}, such as data={slices}",
    )
